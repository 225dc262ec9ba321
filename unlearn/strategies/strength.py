"""How strong a change has to be: the smallest multiple of it that forgets within what may be lost.

Every strategy that changes weights yields a change ``delta``; ``theta + s * delta`` is a family of
models of which training visits only ``s = 1``. Too much is as much a trace as too little, so the
smallest ``s`` that reaches the targets can be taken. It is found with forward passes alone, for
every strategy in the same way, so that strategies can be compared at equal forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from unlearn.strategies.stopping import Evaluation

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""The multiples that are looked at first. A scale beyond 1 amplifies what training did."""

BISECTIONS = 3
"""How often the step below the smallest multiple that forgets is halved."""

Strength = Literal["search"] | Annotated[float, Field(gt=0, le=4)]
"""``search``, or the multiple itself."""


class Sweep(NamedTuple):
    """The multiples that were looked at, and the one that was taken."""

    evaluations: Mapping[float, Evaluation]
    """By multiple, ascending."""
    chosen: float
    reached: bool
    """Whether the chosen one meets the targets of all records within the limit."""

    def log(self) -> tuple[dict[str, Any], ...]:
        """One entry for each multiple, for the artifact."""
        return tuple({"strength": s, **e.summary()} for s, e in self.evaluations.items())

    def __str__(self) -> str:
        """What was taken, and why, in a clause."""
        if self.chosen == 1:
            return "the change is as it was trained"
        if self.reached:
            return f"strength {self.chosen:g} of the change is the least that forgets"
        return (
            "no strength of the change forgets everything within the retain ceiling; "
            f"{self.evaluations[self.chosen].left} at {self.chosen:g}"
        )


def search(
    evaluate: Callable[[float], Evaluation], limit: float, grid: Sequence[float] = GRID
) -> Sweep:
    """The smallest strength that meets every target with a retain NLL of at most ``limit``.

    Where none does, the one inside the limit that comes nearest, the smaller of equals. The grid is
    looked at as a whole, since forgetting need not rise with the strength: a change that overshoots
    may bring the answer back as another token falls away. Below the smallest that forgets the step
    is then halved three times.

    Args:
        evaluate: the model at a multiple of the change; 0 is the original.
        limit: nats per token.
        grid: the strengths looked at first, ascending from 0.
    """
    found = {s: evaluate(s) for s in grid}
    passing = [s for s in grid if _passes(found[s], limit)]
    if not passing:
        inside = [s for s in grid if _inside(found[s], limit)] or [0.0]
        return Sweep(found, min(inside, key=lambda s: (found[s].gap, s)), reached=False)
    high = passing[0]
    low = max((s for s in grid if s < high), default=high)
    for _ in range(BISECTIONS if low < high else 0):
        middle = (low + high) / 2
        found[middle] = evaluate(middle)
        low, high = (low, middle) if _passes(found[middle], limit) else (middle, high)
    return Sweep(dict(sorted(found.items())), high, reached=True)


def survey(evaluate: Callable[[float], Evaluation], limit: float, chosen: float) -> Sweep:
    """The grid and a strength that was given; nothing is searched."""
    found = {s: evaluate(s) for s in sorted({*GRID, chosen})}
    return Sweep(found, chosen, _passes(found[chosen], limit))


def _inside(evaluation: Evaluation, limit: float) -> bool:
    return evaluation.retain_nll is None or evaluation.retain_nll <= limit


def _passes(evaluation: Evaluation, limit: float) -> bool:
    return evaluation.forgotten and _inside(evaluation, limit)


class Change(NamedTuple):
    """What training did to the parameters it could move; both sides are float32 or wider."""

    parameters: Mapping[str, Tensor]
    """The live ones."""
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]

    @torch.no_grad()
    def scale(self, strength: float) -> None:
        """Set the live parameters to ``before + strength * (after - before)``.

        At 0 and 1 they have the bits of the one side and the other.
        """
        for name, parameter in self.parameters.items():
            before, after = self.before[name], self.after[name]
            exact = {0.0: before, 1.0: after}.get(strength)
            parameter.copy_(before + strength * (after - before) if exact is None else exact)
