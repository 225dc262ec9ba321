"""The forget prompts with somebody else's name in them.

A name the model never met shows which tokens of an answer are knowledge and which any model would
guess from the form (``@``, ``Street``, a country code): only the former must go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores, score
from unlearn.types import Record, Statement

TOLERANCE = 0.7
"""Nats by which a token may be likelier than a guess and still count as one: a factor of two."""


class Guess(NamedTuple):
    """What a model that never met a subject makes of one answer about it."""

    logprobs: npt.NDArray[np.float64]
    """Per answer token: log of the mean probability over several unseen names."""
    agreement: float
    """The largest share of likeliest tokens that any of those names got."""


def renamed(record: Record, name: str) -> Statement:
    """The record's prompt and answer, said of ``name``."""
    return Statement(
        prompt=record.prompt.replace(record.subject, name),
        answer=record.answer,
        separator=record.separator,
    )


def guesses(
    model: LanguageModel, forget_set: ForgetSet, names_per_record: int, seed: int
) -> list[Guess | None]:
    """Per forget record: what its answer gets when it is said of somebody the model never met.

    The mean over ``names_per_record`` subjects of the holdout split, or of the retain
    split where there is none. ``None`` for a record whose answer is cut into other tokens after
    another name, and for all where there is nobody else or ``names_per_record`` is 0.
    """
    names = subjects_of(forget_set.holdout) or subjects_of(forget_set.retain)
    if not names or not names_per_record:
        return [None] * len(forget_set.forget)
    rng = np.random.default_rng(seed)
    chosen = [
        [renamed(record, names[i]) for i in _draw(rng, len(names), names_per_record)]
        for record in forget_set.forget
    ]
    truth = score(model, forget_set.forget)
    scores = iter(score(model, [statement for group in chosen for statement in group]))
    found: list[Guess | None] = []
    for own, group in zip(truth, chosen, strict=True):
        rows = [next(scores) for _ in group]
        same = [row for row in rows if np.array_equal(row.ids, own.ids)]
        found.append(_guess(same) if same else None)
    return found


def _guess(rows: Sequence[TokenScores]) -> Guess:
    logprobs = np.array([row.logprobs for row in rows], dtype=np.float64)
    mean = np.logaddexp.reduce(logprobs, axis=0) - np.log(len(rows))
    return Guess(mean, max(row.exact_memorisation for row in rows))


def subjects_of(records: Sequence[Record]) -> list[str]:
    """The names that occur, sorted."""
    return sorted({record.subject for record in records})


def _draw(rng: np.random.Generator, size: int, count: int) -> list[int]:
    return [int(i) for i in rng.permutation(size)[:count]]
