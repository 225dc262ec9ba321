"""How much of the rest of a text a model writes by itself, after each prefix of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unlearn.model.encoding import Encoding, Reading
from unlearn.model.forward import forward_only
from unlearn.model.generation import Decoding, Row, decode
from unlearn.model.language_model import LanguageModel

BATCH = 64
"""Prefixes that are continued at once."""


def overlap(written: Sequence[Any], rest: Sequence[Any], n: int) -> float:
    """The share of n-grams of what was written that occur in the true rest, in 0..1.

    What was written is cut to the length of the rest; n is at most that length. 0 where nothing is
    left to write, or less than one n-gram was written. Jang et al. 2023, arXiv:2210.01504, eq. 3.
    """
    n = min(n, len(rest))
    if n == 0:
        return 0.0
    known, grams = set(_grams(rest, n)), _grams(written[: len(rest)], n)
    return float(np.mean([gram in known for gram in grams])) if grams else 0.0


def extraction_likelihood(lm: LanguageModel, encodings: Sequence[Encoding], n: int) -> list[float]:
    """EL_n of each completion, by tokens, in 0..1. Higher: better known.

    The mean ``overlap`` of greedy decoding with the true rest, over the prefixes that end before
    each token of the completion. It costs one greedy text for each of these tokens.
    """
    prefixes = list(_prefixes(encodings))
    # Like lengths together: nothing is written beyond the longest rest of a batch.
    prefixes.sort(key=lambda row: (_rest(encodings, row), len(row.ids)))
    found: list[list[float]] = [[] for _ in encodings]
    with forward_only(lm.model):
        for at in range(0, len(prefixes), BATCH):
            batch = prefixes[at : at + BATCH]
            room = max(_rest(encodings, row) for row in batch)
            for row, new in zip(batch, decode(lm, batch, Decoding(room, 0, 1, None)), strict=True):
                rest = encodings[row.prompt_index].ids[len(row.ids) :]
                found[row.prompt_index].append(overlap(new, rest, n))
    return [float(np.mean(values)) for values in found]


def _rest(encodings: Sequence[Encoding], row: Row) -> int:
    return len(encodings[row.prompt_index].ids) - len(row.ids)


def _prefixes(encodings: Sequence[Encoding]) -> Iterator[Row]:
    for index, encoding in enumerate(encodings):
        for end in range(encoding.start, len(encoding.ids)):
            reading = Reading(Encoding(encoding.ids[:end], end))
            yield Row(index, 0, reading, np.empty(0))


def _grams(tokens: Sequence[Any], n: int) -> list[tuple[Any, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
