"""What a model gives to texts: log-probabilities of completions, in one forward pass a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from unlearn.errors import InputError, NumericalError
from unlearn.model.encoding import Reading, named
from unlearn.model.forward import accepts, forward_only, pad_right
from unlearn.model.generation import generate
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.model.prefix_cache import remembered
from unlearn.model.prompt_corruption import corrupting
from unlearn.types import Statement

__all__ = ["Progress", "TokenScores", "generate", "score"]

Progress = Callable[[str, float], None]

CHUNK = 2**24
"""Logits turned into float32 statistics at a time: bounds memory where vocabularies are large."""

FLOOR = 1e-4
"""The probability of all that a fixed reply does not say, together."""


class TokenScores(NamedTuple):
    """What a model gives to each token of one completion, the true tokens before it given.

    All arrays have one entry for each of the T tokens of the completion.
    """

    ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    """Natural logarithm of the probability of the token that stands there."""
    greedy: npt.NDArray[np.bool_]
    """Whether that token is the most probable one."""
    mean_logprob: npt.NDArray[np.float32]
    """Mean of log p under p itself, the negative entropy: what Min-K%++ subtracts."""
    std_logprob: npt.NDArray[np.float32]
    """Standard deviation of log p under p: what Min-K%++ divides by."""

    @property
    def nll_sum(self) -> float:
        """Negative log-likelihood of the completion, in nats. Higher: less known."""
        return -float(self.logprobs.sum(dtype=np.float64))

    @property
    def nll_per_token(self) -> float:
        """``nll_sum / T``, in nats. Higher: less known. Not comparable between vocabularies."""
        return self.nll_sum / len(self.ids)

    @property
    def probability(self) -> float:
        """``exp(-nll_per_token)``: the geometric mean of token probabilities, in 0..1.

        Higher: better known. The "probability" of TOFU (Maini et al. 2024).
        """
        return float(np.exp(-self.nll_per_token))

    @property
    def exact_memorisation(self) -> float:
        """The share of tokens that are the most probable one, in 0..1. Higher: better known.

        Tirumala et al. 2022.
        """
        return float(self.greedy.mean())

    @property
    def extraction_strength(self) -> float:
        """``1 - k/T``, k the fewest true tokens after which greedy decoding gives all the rest.

        In 0..1. Higher: better known. 1: greedy decoding gives the completion from the prompt
        alone; 0: not even the last token comes. After Carlini et al. 2021. Within one tail
        teacher forcing and greedy decoding are the same, so one forward pass is enough.
        """
        wrong = np.flatnonzero(~self.greedy)
        needed = int(wrong[-1]) + 1 if wrong.size else 0
        return 1.0 - needed / len(self.greedy)

    @property
    def correct(self) -> bool:
        """Whether greedy decoding gives the whole completion."""
        return bool(self.greedy.all())


def score(
    lm: LanguageModel,
    statements: Sequence[Statement],
    *,
    max_batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> list[TokenScores]:
    """What the model gives to each statement's completion, in the order of the statements.

    Texts of like length share a batch of at most ``max_batch_tokens`` tokens, padding counted; a
    text that occurs twice is scored once. Statistics are computed in float32.

    Raises:
        InputError: a completion without tokens of its own, or a text longer than the context.
        NumericalError: a logit that is no finite number.
    """
    first_index, sources = _distinct(statements)
    jobs = _read_all(lm, first_index)
    scored = dict(replied(lm, [job for job in jobs if job.reading.treatment.reply is not None]))
    asked = [job for job in jobs if job.reading.treatment.reply is None]
    with forward_only(lm.model):
        for batch in batches(asked, max_batch_tokens):
            scored.update(score_batch(lm, batch))
            if progress is not None:
                progress("score", len(scored) / len(jobs))
    return [scored[index] for index in sources]


class Job(NamedTuple):
    """One text to score, and the index of its first statement."""

    statement: int
    reading: Reading

    @property
    def encoding(self) -> Encoding:
        """The tokens of the text."""
        return self.reading.encoding


def distinct_jobs(
    lm: LanguageModel, statements: Sequence[Statement]
) -> tuple[list[Job], list[int]]:
    """A job for every distinct text, and for each statement the index that its job has.

    Raises:
        UnsupportedError: a policy that does more than put words around a prompt.
    """
    first_index, sources = _distinct(statements)
    return encode_all(lm, first_index), sources


def encode_all(lm: LanguageModel, first_index: Mapping[tuple[str, str], int]) -> list[Job]:
    """A job for every text; errors name the statement's index and show no text.

    Raises:
        UnsupportedError: a policy that does more than put words around a prompt.
    """
    encodings = named(lm.encode_all(list(first_index)), _names(first_index))
    return _jobs(first_index, [Reading(encoding) for encoding in encodings])


def _read_all(lm: LanguageModel, first_index: Mapping[tuple[str, str], int]) -> list[Job]:
    """``encode_all`` for who honours all that the policy does."""
    return _jobs(first_index, list(named(lm.read_all(list(first_index)), _names(first_index))))


def _distinct(statements: Sequence[Statement]) -> tuple[dict[tuple[str, str], int], list[int]]:
    texts = [(statement.prompt, statement.completion) for statement in statements]
    first_index: dict[tuple[str, str], int] = {}
    for index, text in enumerate(texts):
        first_index.setdefault(text, index)
    return first_index, [first_index[text] for text in texts]


def _names(first_index: Mapping[tuple[str, str], int]) -> list[str]:
    return [f"statement {index}" for index in first_index.values()]


def _jobs(first_index: Mapping[tuple[str, str], int], readings: Sequence[Reading]) -> list[Job]:
    jobs: list[Job] = []
    for index, reading in zip(first_index.values(), readings, strict=True):
        if reading.encoding.start == 0:
            raise InputError(
                f"statement {index}: no token stands in front of the completion, so the model "
                "cannot be asked for it; give a longer prompt"
            )
        jobs.append(Job(index, reading))
    return jobs


def batches(jobs: Sequence[Job], max_batch_tokens: int) -> Iterator[list[Job]]:
    """Jobs in groups of like length, longest first, within the budget of padded tokens.

    Those that begin with the same words of a policy are together, so that these are read once.
    """
    groups: dict[tuple[int, ...], list[Job]] = {}
    for job in jobs:
        front = job.encoding.ids[: job.reading.n_front]
        groups.setdefault(tuple(front), []).append(job)
    for group in groups.values():
        yield from _by_length(group, max_batch_tokens)


def _by_length(jobs: Sequence[Job], max_batch_tokens: int) -> Iterator[list[Job]]:
    batch: list[Job] = []
    ordered = sorted(jobs, key=lambda job: (-len(job.encoding.ids), -job.encoding.start))
    for job in ordered:
        if batch and (len(batch) + 1) * len(batch[0].encoding.ids) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def score_batch(lm: LanguageModel, batch: Sequence[Job]) -> Iterator[tuple[int, TokenScores]]:
    """Index and scores of each job, from one forward pass, padded on the right."""
    ids, mask = pad_right([job.encoding.ids for job in batch])
    first = min(job.encoding.start for job in batch) - 1
    last = ids.shape[1] - first
    n_front = batch[0].reading.n_front
    cache = remembered(lm, batch[0].encoding.ids[:n_front], len(batch))
    unread = ids if cache is None else ids[:, n_front:]
    offsets = [unread.shape[1] - ids.shape[1]] * len(batch)
    with corrupting(lm, [job.reading for job in batch], offsets):
        logits = read_logits(lm, unread, mask, last, cache)  # (batch, last, vocab)
    rows, columns = targets(batch)
    found = statistics(logits, rows, columns - 1 - first, ids[rows, columns], batch)
    cuts = np.cumsum([len(job.encoding.ids) - job.encoding.start for job in batch])[:-1]
    parts = [np.split(values, cuts) for values in found]
    for job, *values in zip(batch, *parts, strict=True):
        yield job.statement, TokenScores(*values)


def replied(lm: LanguageModel, jobs: Sequence[Job]) -> Iterator[tuple[int, TokenScores]]:
    """Index and scores of jobs whose prompts the policy replies to in the model's place.

    Such a prompt gets one and the same text, whatever was to follow. Its token at each place counts
    as given ``1 - FLOOR``, and all others share ``FLOOR``: certain, but finite.
    """
    whole = [(job.reading.prompt, job.reading.treatment.reply or "") for job in jobs]
    for job, said in zip(jobs, lm.bare().encode_all(whole), strict=True):
        reply = said.ids[said.start :]
        ids = np.array(job.encoding.ids[job.encoding.start :], dtype=np.int64)
        same = np.array([at < len(reply) and reply[at] == i for at, i in enumerate(ids)])
        others = lm.vocabulary_size - 1
        p = np.array([1 - FLOOR, FLOOR / others])
        mean = p[0] * np.log(p[0]) + others * p[1] * np.log(p[1])
        deviation = np.sqrt(p[0] * np.log(p[0]) ** 2 + others * p[1] * np.log(p[1]) ** 2 - mean**2)
        logprobs = np.where(same, np.log(p[0]), np.log(p[1])).astype(np.float32)
        spread = [np.full(len(ids), value, dtype=np.float32) for value in (mean, deviation)]
        yield job.statement, TokenScores(ids, logprobs, same, *spread)


def read_logits(
    lm: LanguageModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    last: int,
    cache: Any = None,
) -> Any:
    """The logits at the last positions of a batch, from the model's own forward pass.

    Some architectures scale or cap their logits after the unembedding, so the whole model is
    called; where it can be told to skip the unembedding of other positions, it is. ``cache`` holds
    the tokens in front of ``ids``, which ``mask`` covers too.
    """
    options: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        options = {"use_cache": True, "past_key_values": cache}
    if accepts(lm.model, "logits_to_keep"):
        options["logits_to_keep"] = last
    output = lm.model(input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), **options)
    return output.logits[:, -last:]


def targets(batch: Sequence[Job]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and position of every completion token of the batch."""
    rows: list[int] = []
    columns: list[int] = []
    for row, job in enumerate(batch):
        positions = range(job.encoding.start, len(job.encoding.ids))
        rows.extend([row] * len(positions))
        columns.extend(positions)
    return torch.tensor(rows), torch.tensor(columns)


def statistics(
    logits: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    true_ids: torch.Tensor,
    batch: Sequence[Job],
) -> list[npt.NDArray[Any]]:
    """The fields of ``TokenScores`` for all completion tokens of a batch, one after another."""
    step = max(1, CHUNK // logits.shape[-1])
    parts: list[list[torch.Tensor]] = [[], [], [], [], []]
    for at in range(0, len(rows), step):
        piece = slice(at, at + step)
        where = rows[piece].to(logits.device), columns[piece].to(logits.device)
        ids = true_ids[piece].to(logits.device)
        raw = logits[where].float()  # (token, vocab)
        log_p = torch.log_softmax(raw, dim=-1)
        root_p = (log_p / 2).exp()
        token = log_p.gather(1, ids[:, None])[:, 0]
        # A masked entry of the vocabulary has log p = -inf and no part in a mean: 0 log 0 = 0.
        log_p = log_p.masked_fill(root_p == 0, 0)
        mean = (root_p.square() * log_p).sum(-1)
        # sqrt(p) goes inside the square: p * (log p - mean)^2 overflows where p is 0.
        std = (root_p * (log_p - mean[:, None])).square().sum(-1).sqrt()
        bad = torch.nonzero(~torch.isfinite(mean) | ~torch.isfinite(token))
        if len(bad):
            index = batch[int(rows[at + int(bad[0])])].statement
            raise NumericalError(
                f"statement {index}: the model's logits are not finite; its weights are broken, or "
                "its dtype is too narrow (try float32)"
            )
        values = (ids, token, raw.argmax(-1) == ids, mean, std)
        for part, value in zip(parts, values, strict=True):
            part.append(value.cpu())
    return [torch.cat(part).numpy() for part in parts]
