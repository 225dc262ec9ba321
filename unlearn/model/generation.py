"""Text that a model writes: greedy or sampled, the same whatever else shares its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from unlearn.errors import ConfigError, InputError, NumericalError
from unlearn.model.encoding import Reading, named
from unlearn.model.forward import accepts, forward_only
from unlearn.model.language_model import LanguageModel
from unlearn.model.prefix_cache import remembered
from unlearn.model.prompt_corruption import corrupting


class Decoding(NamedTuple):
    """How the next token is chosen, and when a text ends."""

    max_new_tokens: int
    temperature: float
    top_p: float
    stop: str | None


class Row(NamedTuple):
    """One text to write: which prompt it continues, and its own random numbers."""

    prompt_index: int
    sample: int
    reading: Reading
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    """In 0..1, one for each new token; empty where decoding is greedy."""

    @property
    def ids(self) -> list[int]:
        """The tokens that are continued."""
        return self.reading.encoding.ids


def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    n_samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    max_batch: int = 64,
    stop: str | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[list[str]]:
    """For each prompt ``n_samples`` continuations, without the prompt.

    A continuation ends at the model's EOS, before ``stop``, or after ``max_new_tokens``.
    ``temperature=0`` is greedy, and all samples are then one. Each sample has random numbers of
    its own, drawn from the seed, the prompt and the sample's number, so neither the order of
    prompts nor the batch size matters, and equal prompts get equal texts.

    Raises:
        ConfigError: a setting out of range.
        InputError: a prompt that leaves no room in the context.
        NumericalError: a logit that is no finite number.
    """
    decoding = Decoding(max_new_tokens, temperature, top_p, stop)
    check(decoding, n_samples, max_batch, seed)
    first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
    n_drawn = n_samples if temperature > 0 else 1
    rows = list(make_rows(lm, first, n_drawn, seed, decoding))
    written: dict[tuple[int, int], str] = {}
    with forward_only(lm.model):
        for batch in _batches(rows, max_batch):
            for row, text in zip(batch, _texts(lm, batch, decoding), strict=True):
                written[row.prompt_index, row.sample] = cut(text, stop)
            if progress is not None:
                progress("generate", len(written) / len(rows))
    picked = [i if temperature > 0 else 0 for i in range(n_samples)]
    return [[written[first[prompt], sample] for sample in picked] for prompt in prompts]


def _batches(rows: Sequence[Row], max_batch: int) -> Iterator[list[Row]]:
    """Rows that begin with the same words of a policy, or are replied to alike, together."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        front = row.ids[: row.reading.n_front]
        groups.setdefault((row.reading.treatment.reply, *front), []).append(row)
    for group in groups.values():
        for at in range(0, len(group), max_batch):
            yield group[at : at + max_batch]


def _texts(lm: LanguageModel, batch: Sequence[Row], decoding: Decoding) -> Iterator[str]:
    reply = batch[0].reading.treatment.reply
    if reply is not None:
        yield from (_replied(lm, row, reply, decoding) for row in batch)
        return
    for row, new in zip(batch, decode(lm, batch, decoding), strict=True):
        yield continuation(lm, row.ids, new)


def _replied(lm: LanguageModel, row: Row, reply: str, decoding: Decoding) -> str:
    """As many tokens of the policy's reply as a text may have."""
    prompt = row.reading.prompt
    said = lm.bare().encode(prompt, reply)
    if len(said.ids) - said.start <= decoding.max_new_tokens:
        return reply
    room = said.start + decoding.max_new_tokens
    return continuation(lm, said.ids[: said.start], said.ids[said.start : room])


def check(decoding: Decoding, n_samples: int, max_batch: int, seed: int) -> None:
    """Raise ConfigError for a setting out of range."""
    counts = {
        "max_new_tokens": decoding.max_new_tokens,
        "n_samples": n_samples,
        "max_batch": max_batch,
    }
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}, but must be at least 1")
    if not 0 <= decoding.temperature < float("inf"):
        raise ConfigError(f"temperature is {decoding.temperature}, but must be 0 or more")
    if not 0 < decoding.top_p <= 1:
        raise ConfigError(f"top_p is {decoding.top_p}, but must be above 0 and at most 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}, but must be 0 or more")
    if decoding.stop == "":
        raise ConfigError("stop is empty; give a text, or None")


def make_rows(
    lm: LanguageModel, first: dict[str, int], n_samples: int, seed: int, decoding: Decoding
) -> Iterator[Row]:
    """The rows of all prompts, longest prompt first, so that batches need little padding."""
    names = [f"prompt {index}" for index in first.values()]
    asked = [(prompt, "") for prompt in first]
    readings = named(lm.read_all(asked, decoding.max_new_tokens), names)
    room = lm.context_length
    read = dict(zip(first, readings, strict=True))
    for prompt in sorted(
        first, key=lambda prompt: (-len(read[prompt].encoding.ids), first[prompt])
    ):
        ids = read[prompt].encoding.ids
        if room is not None and len(ids) + decoding.max_new_tokens > room:
            raise InputError(
                f"prompt {first[prompt]} has {len(ids)} tokens and max_new_tokens is "
                f"{decoding.max_new_tokens}, but the model's context is {room}"
            )
        if not ids:
            raise InputError(f"prompt {first[prompt]} has no token to continue from")
        for sample in range(n_samples):
            yield Row(first[prompt], sample, read[prompt], draw(seed, prompt, sample, decoding))


def draw(
    seed: int, prompt: str, sample: int, decoding: Decoding
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The random numbers of one text."""
    if decoding.temperature == 0:
        return np.empty(0)
    key = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    words = np.frombuffer(key, dtype="<u4").tolist()
    return np.random.default_rng([seed, sample, *words]).random(decoding.max_new_tokens)


def decode(lm: LanguageModel, batch: Sequence[Row], decoding: Decoding) -> list[list[int]]:
    """The new tokens of each row, EOS excluded."""
    new: list[list[int]] = [[] for _ in batch]
    eos_ids = lm.eos_ids
    open_rows = set(range(len(batch)))
    steps = Steps(lm, [row.reading for row in batch])
    for step in range(decoding.max_new_tokens):
        logits = steps.logits.float()  # (batch, vocab)
        for at in torch.nonzero(~torch.isfinite(logits).all(-1))[:, 0].tolist():
            raise NumericalError(
                f"prompt {batch[at].prompt_index}: the model's logits are not finite"
            )
        uniforms = [row.uniforms[step] for row in batch] if decoding.temperature else []
        chosen = choose(logits, uniforms, decoding)
        for at in sorted(open_rows):
            if int(chosen[at]) in eos_ids:
                open_rows.discard(at)
                continue
            new[at].append(int(chosen[at]))
            if decoding.stop and decoding.stop in continuation(lm, batch[at].ids, new[at]):
                open_rows.discard(at)
        if not open_rows or step + 1 == decoding.max_new_tokens:
            break
        steps.advance(chosen)
    return new


class Steps:
    """The logits of the next token for a left-padded batch, one token after another."""

    def __init__(self, lm: LanguageModel, readings: Sequence[Reading]) -> None:
        front = readings[0].encoding.ids[: readings[0].n_front]
        self.cache: Any = remembered(lm, front, len(readings))
        n_cached = len(front) if self.cache is not None else 0
        unread = [reading.encoding.ids[n_cached:] for reading in readings]
        width = max(map(len, unread))
        tokens = torch.zeros(len(unread), width, dtype=torch.long)  # (batch, pos)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(unread):
            tokens[row, width - len(ids) :] = torch.tensor(ids)
            mask[row, width - len(ids) :] = 1
        cached = torch.ones(len(unread), n_cached, dtype=torch.long)
        self.lm = lm
        self.readings = readings
        self.offsets = [width - len(reading.encoding.ids) for reading in readings]
        self.tokens = tokens.to(lm.device)
        self.mask = torch.cat([cached, mask], dim=1).to(lm.device)
        self.places_tokens = accepts(lm.model, "position_ids")
        self.options: dict[str, Any] = {"use_cache": True}
        if accepts(lm.model, "logits_to_keep"):
            self.options["logits_to_keep"] = 1
        self.logits = self._read(self.tokens)

    def advance(self, chosen: torch.Tensor) -> None:
        """Append one token to each row."""
        column = chosen.to(self.tokens.device)[:, None]
        self.tokens = torch.cat([self.tokens, column], dim=1)
        self.mask = torch.cat([self.mask, torch.ones_like(column)], dim=1)
        # State-space models hand out no key-value cache: those read the whole text again.
        self.logits = self._read(self.tokens) if self.cache is None else self._forward(column)

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        """The forward pass over prompts, some of whose tokens a policy may corrupt."""
        with corrupting(self.lm, self.readings, self.offsets):
            return self._forward(tokens)

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        options = dict(self.options)
        if self.places_tokens:
            positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -tokens.shape[1] :]
        if self.cache is not None:
            options["past_key_values"] = self.cache
        output = self.lm.model(input_ids=tokens, attention_mask=self.mask, **options)
        self.cache = getattr(output, "past_key_values", None)
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def choose(logits: torch.Tensor, uniforms: Sequence[float], decoding: Decoding) -> torch.Tensor:
    """The next token of each row: the most probable, or the one where the row's uniform falls.

    The inverse of the cumulative distribution is taken in the order of the vocabulary, which
    rounding cannot reorder as it can tokens sorted by probability.
    """
    if decoding.temperature == 0:
        return logits.argmax(-1).cpu()
    p = torch.softmax(logits.double() / decoding.temperature, dim=-1)
    if decoding.top_p < 1:
        falling, order = p.sort(dim=-1, descending=True, stable=True)
        before = falling.cumsum(-1) - falling
        falling[before >= decoding.top_p] = 0
        p = torch.zeros_like(p).scatter(-1, order, falling)
    cumulative = p.cumsum(-1)
    at = torch.tensor(uniforms, dtype=p.dtype, device=p.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=p.shape[-1] - 1).cpu()


def continuation(lm: LanguageModel, prompt_ids: list[int], new: list[int]) -> str:
    """The text of the new tokens, with the blank that some decoders strip at a text's start."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before = lm.tokenizer.decode(prompt_ids, **options)
    whole = lm.tokenizer.decode([*prompt_ids, *new], **options)
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(lm.tokenizer.decode(new, **options))


def cut(text: str, stop: str | None) -> str:
    """The text before the first ``stop``."""
    return text if stop is None else text.split(stop, 1)[0]
