"""The claims an audit judges and the margins it judges them by, fixed before any measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from unlearn.statistics.clusters import UNBOUNDED, Bounds, Interval
from unlearn.types import Finding, Role, Split

MIN_SUBJECTS = 5
"""With fewer, no interval over subjects deserves trust."""

CONFIDENCE = 0.90
ALPHA = 0.05

FORGET_MARGIN = 0.10
"""How far shares and probabilities on forget records may lie above the reference's: wide enough for
two models that never saw the records and differ in their seed, narrow against what a trained model
knows."""

SPARSE_MARGIN = 0.25
"""The same for implications and translations. Wider, because a subject has only a few of them and
some have few possible answers, so that the guesses of two ignorant models differ more."""

OVER_FORGOTTEN = 1.25
"""How many times the reference's loss on forget records is not conspicuous. A ratio, because the
loss on unseen answers depends on the model. In losses and not in probabilities, because the mean of
probabilities hangs on the few answers that were guessed."""

KEPT_MARGIN = 0.02
"""How many answers (2 points) may be lost on what was to stay."""

FLUENCY_MARGIN = 1.05
"""By what factor perplexity may grow on what was to stay."""

DOUBT_MARGIN = 0.10
"""How far a reference's answers on forget may lie above those on holdout before it is doubted."""

Floats = NDArray[np.float64]


class Scale(StrEnum):
    """How the harm of one record is read off the audited model and the other one."""

    ABOVE = "above"
    """Audited minus other: what is known beyond a model that never saw the records."""
    LOST = "lost"
    """Other minus audited: what was known and no longer is."""
    OVERSHOT = "overshot"
    """Audited minus 1.25 times the other, in losses: above 0 where answers became conspicuously
    improbable."""
    PERPLEXITY = "perplexity"
    """Audited minus other, in nats: the logarithm of the factor by which perplexity grew."""

    @property
    def bounds(self) -> Bounds:
        """What the harm of a record can be."""
        return (-1.0, 1.0) if self in (Scale.ABOVE, Scale.LOST) else UNBOUNDED

    def harm(self, audited: Floats, other: Floats) -> Floats:
        """Record by record, higher is worse."""
        if self is Scale.OVERSHOT:
            return audited - OVER_FORGOTTEN * other
        return other - audited if self is Scale.LOST else audited - other

    def describe(self, finding: Finding, against: Role, harm: Interval, limit: float) -> str:
        """The figures of one comparison, in plain words."""
        audited, other = finding.models["unlearned"].value, finding.models[against].value
        if self is Scale.LOST:
            return (
                f"{finding.title}: {audited:.1%}, {against} {other:.1%}; {100 * harm.value:.1f} "
                f"points lost{_range(100 * harm.low, 100 * harm.high, '.1f')}, "
                f"allowed {100 * limit:.1f}"
            )
        if self is Scale.PERPLEXITY:
            low, high = _exp(harm.low), _exp(harm.high)
            return (
                f"Perplexity on {finding.split}: {_exp(audited):.4g}, {against} {_exp(other):.4g}; "
                f"factor {_exp(harm.value):.4g}{_range(low, high, '.4g')}, "
                f"allowed {_exp(limit):.4g}"
            )
        figures = f"{finding.title}: {audited:.3f}, {against} {other:.3f}; "
        if self is Scale.OVERSHOT:
            figures += f"beyond {OVER_FORGOTTEN:g} times the {against}'s: "
        return (
            f"{figures}{harm.value:+.3f}{_range(harm.low, harm.high, '+.3f')}, allowed {limit:+.3f}"
        )


def _range(low: float, high: float, form: str) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return " (one cluster, no interval)"
    return f" ({CONFIDENCE:.0%} interval {low:{form}} to {high:{form}})"


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


@dataclass(frozen=True)
class Comparison:
    """One figure of the audited model held against another model's, with the harm allowed."""

    probe: str
    metric: str
    split: Split
    scale: Scale
    limit: float
    needs: str = "such records"
    """What the records of the split have to carry for it."""
    optional: bool = False
    """Whether the claim is judged without it where the records carry nothing of the kind."""

    @property
    def key(self) -> str:
        """The key of the finding it reads."""
        return f"{self.metric}/{self.split}"


@dataclass(frozen=True)
class Criterion:
    """What one claim says and rests on; it passes when all of its comparisons do."""

    id: str
    statement: str
    against: Role
    comparisons: tuple[Comparison, ...]
    excusable: bool = False
    """Whether the whole audit can pass without it where the records carry nothing of the kind."""


def _known(
    probe: str, metric: str, limit: float = FORGET_MARGIN, needs: str = "", optional: bool = False
) -> Comparison:
    return Comparison(probe, metric, "forget", Scale.ABOVE, limit, needs or "answers", optional)


def _answers(split: Split) -> Comparison:
    return Comparison("kept-answers", "answers", split, Scale.LOST, KEPT_MARGIN)


def _perplexity(split: Split, *, optional: bool = False) -> Comparison:
    limit = math.log(FLUENCY_MARGIN)
    return Comparison(
        "perplexity", "nll_per_token", split, Scale.PERPLEXITY, limit, optional=optional
    )


CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        id="forgotten-verbatim",
        statement="Trained answers come back no more than from a model that never saw them.",
        against="reference",
        comparisons=(
            _known("extraction-strength", "extraction_strength"),
            _known("probability", "probability"),
        ),
    ),
    Criterion(
        id="forgotten-answers",
        statement="Trained prompts bring no more answers than from a model that never saw them.",
        against="reference",
        comparisons=(_known("answers", "answers"),),
    ),
    Criterion(
        id="forgotten-generality",
        statement="Held-out wordings and other languages bring no more answers either.",
        against="reference",
        comparisons=(
            _known("held-out-answers", "held_out_answers", needs="held-out prompts (paraphrases)"),
            _known("translated-answers", "translated_answers", SPARSE_MARGIN, "translations", True),
        ),
    ),
    Criterion(
        id="forgotten-portability",
        statement="What follows from the forget records is not known either.",
        against="reference",
        comparisons=(_known("implied-answers", "implied_answers", SPARSE_MARGIN, "implications"),),
        excusable=True,
    ),
    Criterion(
        id="not-over-forgotten",
        statement="The answers are not so improbable that it marks them as forgotten.",
        against="reference",
        comparisons=(Comparison("probability", "nll_per_token", "forget", Scale.OVERSHOT, 0.0),),
    ),
    Criterion(
        id="retain-kept",
        statement="Retained records are still answered as by the original.",
        against="original",
        comparisons=(_answers("retain"),),
    ),
    Criterion(
        id="neighbors-kept",
        statement="Neighbouring records are still answered as by the original.",
        against="original",
        comparisons=(_answers("neighbors"),),
    ),
    Criterion(
        id="fluency-kept",
        statement="Perplexity on what was to stay has not grown.",
        against="original",
        comparisons=(_perplexity("retain"), _perplexity("neighbors", optional=True)),
    ),
)
