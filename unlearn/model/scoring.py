"""What a model gives to texts: log-probabilities of completions, in one forward pass a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from unlearn.errors import InputError, NumericalError
from unlearn.model.encoding import named
from unlearn.model.forward import accepts, forward_only, pad_right
from unlearn.model.generation import generate
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.types import Statement

__all__ = ["Progress", "TokenScores", "generate", "score"]

Progress = Callable[[str, float], None]

CHUNK = 2**24
"""Logits turned into float32 statistics at a time: bounds memory where vocabularies are large."""


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
    jobs, sources = distinct_jobs(lm, statements)
    scored: dict[int, TokenScores] = {}
    with forward_only(lm.model):
        for batch in batches(jobs, max_batch_tokens):
            scored.update(score_batch(lm, batch))
            if progress is not None:
                progress("score", len(scored) / len(jobs))
    return [scored[index] for index in sources]


class Job(NamedTuple):
    """One text to score, and the index of its first statement."""

    statement: int
    encoding: Encoding


def distinct_jobs(
    lm: LanguageModel, statements: Sequence[Statement]
) -> tuple[list[Job], list[int]]:
    """A job for every distinct text, and for each statement the index that its job has."""
    texts = [(statement.prompt, statement.completion) for statement in statements]
    first_index: dict[tuple[str, str], int] = {}
    for index, text in enumerate(texts):
        first_index.setdefault(text, index)
    return encode_all(lm, first_index), [first_index[text] for text in texts]


def encode_all(lm: LanguageModel, first_index: dict[tuple[str, str], int]) -> list[Job]:
    """A job for every text; errors name the statement's index and show no text."""
    names = [f"statement {index}" for index in first_index.values()]
    encodings = named(lm.encode_all(list(first_index)), names)
    jobs: list[Job] = []
    for index, encoding in zip(first_index.values(), encodings, strict=True):
        if encoding.start == 0:
            raise InputError(
                f"statement {index}: no token stands in front of the completion, so the model "
                "cannot be asked for it; give a longer prompt"
            )
        jobs.append(Job(index, encoding))
    return jobs


def batches(jobs: Sequence[Job], max_batch_tokens: int) -> Iterator[list[Job]]:
    """Jobs in groups of like length, longest first, within the budget of padded tokens."""
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
    logits = read_logits(lm, ids, mask, last)  # (batch, last, vocab)
    rows, columns = targets(batch)
    found = statistics(logits, rows, columns - 1 - first, ids[rows, columns], batch)
    cuts = np.cumsum([len(job.encoding.ids) - job.encoding.start for job in batch])[:-1]
    parts = [np.split(values, cuts) for values in found]
    for job, *values in zip(batch, *parts, strict=True):
        yield job.statement, TokenScores(*values)


def read_logits(lm: LanguageModel, ids: torch.Tensor, mask: torch.Tensor, last: int) -> Any:
    """The logits at the last positions of a batch, from the model's own forward pass.

    Some architectures scale or cap their logits after the unembedding, so the whole model is
    called; where it can be told to skip the unembedding of other positions, it is.
    """
    options: dict[str, Any] = {"use_cache": False}
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
