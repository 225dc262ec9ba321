"""Which layer and which tokens an edit takes: by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unlearn.errors import UnsupportedError
from unlearn.model.divergence import compare, kl_to
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.editing import Change, Place
from unlearn.strategies.stopping import Ceiling, Evaluation, Evaluator
from unlearn.strategies.strength import Strength, Sweep, search, survey
from unlearn.types import Statement

AS_GOOD = 0.1
"""Gaps that differ by less count as alike, so that damage decides."""


class Tried(NamedTuple):
    """What one edit did."""

    change: Change
    evaluation: Evaluation
    damage: float
    """Mean KL from the original, in nats a token, on what is to stay."""
    allowed: bool
    """Whether the retain NLL stayed under its ceiling."""

    def summary(self) -> dict[str, Any]:
        """For the log of the artifact."""
        return {
            "place": str(self.change.place),
            "value_loss": self.change.values.loss,
            "value_steps": self.change.values.steps,
            "keys": self.change.n_keys,
            "damage": self.damage,
            **self.evaluation.summary(),
        }


class Trial(NamedTuple):
    """Measures edits of one model."""

    lm: LanguageModel
    evaluator: Evaluator
    staying: Sequence[Statement]
    limit: float
    """The highest retain NLL that is allowed."""

    def __call__(self, change: Change) -> Tried:
        """What the change does."""
        work = change.on(self.lm)
        evaluation = self.evaluator(work, 1)
        damage = 0.0
        if self.staying:
            apart = compare(work, self.lm, self.staying, kl_to)
            damage = float(np.mean([found.predictions for found in apart]))
        retain = evaluation.retain_nll
        allowed = retain is None or retain <= self.limit
        return Tried(change, evaluation, damage, allowed)

    def sweep(self, change: Change, strength: Strength) -> Sweep:
        """The change at other strengths, and the one that is taken."""

        def evaluate(multiple: float) -> Evaluation:
            return self.evaluator(change.on(self.lm, multiple), 1)

        if strength == "search":
            return search(evaluate, self.limit)
        return survey(evaluate, self.limit, strength)


def make_trial(
    lm: LanguageModel, evaluator: Evaluator, staying: Sequence[Statement], ceiling: Ceiling
) -> Trial:
    """The trial whose limit is the ceiling over the original's retain NLL."""
    return Trial(lm, evaluator, staying, ceiling.limit(evaluator(lm, 0).retain_nll))


def choose_place(
    places: Sequence[Place],
    attempt: Callable[[Place], Change | None],
    trial: Trial,
    progress: Callable[[float], None],
) -> tuple[Place, list[Tried]]:
    """The place whose edit forgets with least damage, and what all of them did.

    Of the edits under the retain ceiling (of all, where none is) those whose gap is within
    ``AS_GOOD`` of the smallest; of these the one with the least damage.

    Raises:
        UnsupportedError: nothing that is added at any of the places changes the answers.
    """
    tried = []
    for index, place in enumerate(places):
        progress(index / len(places))
        change = attempt(place)
        if change is not None:
            tried.append(trial(change))
    if not tried:
        must_hold(None, *places)
    return best_of(tried).change.place, tried


def must_hold(change: Change | None, *places: Place) -> Change:
    """The change, if there is one.

    Raises:
        UnsupportedError: there is none.
    """
    if change is None:
        raise UnsupportedError(
            f"no value at {'; '.join(map(str, places))} makes the answers unlikely: the facts are "
            "not looked up there. Name other layers or another at=, or take gradient-ascent"
        )
    return change


def best_of(tried: Sequence[Tried]) -> Tried:
    """The least damage among those that forget as well as any."""
    allowed = [one for one in tried if one.allowed] or list(tried)
    smallest = min(one.evaluation.gap for one in allowed)
    alike = [one for one in allowed if one.evaluation.gap <= smallest + AS_GOOD]
    return min(alike, key=lambda one: one.damage)
