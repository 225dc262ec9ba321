"""How the harm of a comparison is read off its figures, and said in words."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from unlearn.statistics.clusters import UNBOUNDED, Bounds, Interval
from unlearn.types import Finding, Role

CONFIDENCE = 0.90
"""Of the intervals that decide: their ends are one-sided tests at 5 % each."""

OVER_FORGOTTEN = 1.25
"""How many times the reference's loss on forget records is not conspicuous. A ratio, because the
loss on unseen answers depends on the model. In losses and not in probabilities, because the mean of
probabilities hangs on the few answers that were guessed."""

Floats = NDArray[np.float64]


class Scale(StrEnum):
    """How harm is read off the audited model and the other one. Higher is worse."""

    ABOVE = "above"
    """Record by record, audited minus other: what is known beyond a model that never saw the
    records."""
    SHIFTED = "shifted"
    """The same for figures that vary from record to record anyway, so that their spread shows how
    sure the mean is: no allowance is made for rare exceptions that were not seen."""
    LOST = "lost"
    """Record by record, other minus audited: what was known and no longer is."""
    OVERSHOT = "overshot"
    """Record by record, audited minus 1.25 times the other, in losses: above 0 where answers became
    conspicuously improbable."""
    PERPLEXITY = "perplexity"
    """Record by record, audited minus other, in nats: the logarithm of the factor by which
    perplexity grew."""
    FALLEN = "fallen"
    """Record by record, other minus audited, for figures without upper bound."""
    AUC = "auc"
    """The audited model's AUC minus the other's, on the same records. Both directions are harm:
    records that look less like unseen text than they should mark themselves as well."""
    APART = "apart"
    """How much farther the audited model is from the other on forget records than on holdout
    records, which neither saw."""

    @property
    def bounds(self) -> Bounds:
        """What the harm of a record can be."""
        return (-1.0, 1.0) if self in (Scale.ABOVE, Scale.LOST, Scale.APART) else UNBOUNDED

    @property
    def in_points(self) -> bool:
        """Whether harm is a difference of shares."""
        return self in (Scale.ABOVE, Scale.SHIFTED, Scale.LOST, Scale.APART)

    @property
    def two_sided(self) -> bool:
        """Whether a difference in either direction is harm."""
        return self is Scale.AUC

    def harm(self, audited: Floats, other: Floats) -> Floats:
        """Record by record, for the scales that compare record by record."""
        if self is Scale.OVERSHOT:
            return audited - OVER_FORGOTTEN * other
        return other - audited if self in (Scale.LOST, Scale.FALLEN) else audited - other

    def describe(self, finding: Finding, against: Role, harm: Interval, limit: float) -> str:
        """The figures of one comparison, in plain words."""
        audited = finding.models["unlearned"].value
        if self is Scale.APART:
            return (
                f"{finding.title}: {audited:.3f}; beyond that on holdout: "
                f"{_difference(harm, limit)}"
            )
        other = finding.models[against].value
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
        if self is Scale.AUC:
            return f"{figures}{_difference(harm, limit, '±')} either way"
        return f"{figures}{_difference(harm, limit)}"


def _difference(harm: Interval, limit: float, sign: str = "+") -> str:
    allowed = f"{sign}{abs(limit):.3f}"
    return f"{harm.value:+.3f}{_range(harm.low, harm.high, '+.3f')}, allowed {allowed}"


def _range(low: float, high: float, form: str) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return " (one cluster, no interval)"
    return f" ({CONFIDENCE:.0%} interval {low:{form}} to {high:{form}})"


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
