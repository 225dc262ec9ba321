"""The forget prompts with somebody else's name in them.

Two uses. A name the model never met shows which tokens of an answer are knowledge and which any
model would guess from the form (``@``, ``Street``, a country code): only the former must go. And a
name that shares a word with the forgotten subject is what forgetting damages first: what the model
says of *near* names is held as it was, so that the update has to key on the whole name.
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
    names = _subjects(forget_set.holdout) or _subjects(forget_set.retain)
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


def near_statements(forget_set: ForgetSet, per_record: int, seed: int) -> list[list[Statement]]:
    """For each forget record its prompt about names that resemble its subject.

    At most ``per_record`` of them. A name of several words keeps one of them. The others come from
    a subject with as many words, a retain one or, for up to half of the names, another forgotten
    one: who is called after two of the forgotten suffers most. A name of one word is replaced
    whole, by any word of such a name.
    """
    retained, forgotten = _subjects(forget_set.retain), _subjects(forget_set.forget)
    rng = np.random.default_rng(seed)
    statements = []
    for record in forget_set.forget:
        words = record.subject.split()
        others = _alike(retained, words)
        drawn = [others[i] for i in _draw(rng, len(others), per_record)]
        related = [name for name in _alike(forgotten, words) if name != record.subject]
        n_related = min(len(drawn) // 2, len(related))
        drawn[:n_related] = [related[i] for i in _draw(rng, len(related), n_related)]
        mixed = [_mixed(rng, words, other.split()) for other in drawn]
        statements.append([renamed(record, name) for name in mixed if name not in forgotten])
    return statements


def strangers(
    model: LanguageModel, near: Sequence[Sequence[Statement]], guessed: Sequence[Guess | None]
) -> list[Statement]:
    """Those near statements in which ``model`` does not take the name for the forgotten subject.

    Of three in ten near names of the lab it says what is to be forgotten, with more conviction than
    a guess. To hold that would be to hold what has to go.
    """
    scores = iter(score(model, [statement for group in near for statement in group]))
    return [
        statement
        for group, guess in zip(near, guessed, strict=True)
        for statement, scored in zip(group, scores, strict=False)
        if guess is None or not _exceeds(scored, guess)
    ]


def _exceeds(scored: TokenScores, guess: Guess) -> bool:
    """Whether some token is clearly likelier than a guess; unknown where the tokens differ."""
    if len(scored.logprobs) != len(guess.logprobs):
        return False
    return bool((scored.logprobs > guess.logprobs + TOLERANCE).any())


def _alike(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """The names of as many words; every word of every name where that is one."""
    if len(words) == 1:
        return sorted({word for name in names for word in name.split()})
    return [name for name in names if len(name.split()) == len(words)]


def _mixed(rng: np.random.Generator, words: Sequence[str], others: Sequence[str]) -> str:
    """The other name with one of the words in its place; whole where there is only one."""
    mixed = list(others)
    if len(words) > 1:
        kept = int(rng.integers(len(words)))
        mixed[kept] = words[kept]
    return " ".join(mixed)


def _guess(rows: Sequence[TokenScores]) -> Guess:
    logprobs = np.array([row.logprobs for row in rows], dtype=np.float64)
    mean = np.logaddexp.reduce(logprobs, axis=0) - np.log(len(rows))
    return Guess(mean, max(row.exact_memorisation for row in rows))


def _subjects(records: Sequence[Record]) -> list[str]:
    return sorted({record.subject for record in records})


def _draw(rng: np.random.Generator, size: int, count: int) -> list[int]:
    return [int(i) for i in rng.permutation(size)[:count]]
