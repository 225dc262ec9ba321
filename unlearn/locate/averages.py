"""Averages of a trace over facts, with 95 % intervals over their clusters. No torch here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.locate.trace import ROLES, SUBJECT_ROLES, FactTrace, Grid, Kind, Part, Role, Trace

Floats = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """A mean over facts for each layer, with its 95 % interval."""

    mean: Floats
    low: Floats
    high: Floats
    n: int
    """Facts."""
    clusters: int
    """What the interval is over; with one there is no interval, and it is infinite."""

    def at(self, layer: int) -> tuple[float, float, float]:
        """Mean and interval of one layer."""
        return float(self.mean[layer]), float(self.low[layer]), float(self.high[layer])

    @property
    def peak(self) -> int:
        """The layer with the largest mean."""
        return int(self.mean.argmax())


class Averages(NamedTuple):
    """Average effects of a trace, in units of its score. Higher: more of the fact comes back."""

    total: Curve
    """Clean minus corrupted, as a curve of one point."""
    clean: Curve
    corrupted: Curve
    by_role: Mapping[Kind, Mapping[Role, Curve]]
    """Average indirect effects. Tokens of one role are averaged within a fact first."""
    severed: Mapping[Part, Mapping[Role, Curve]]
    """Those of the stream when a part is held corrupted at the same token in later blocks."""
    lead: Curve | None
    """How much more the decisive token's state brings back than that of the subject's last one,
    each where its mean peaks, within facts that have both; as a curve of one point. None where the
    last one is decisive, or no fact has both. The peaks are those of the same facts, so a lead may
    be by chance a little too large."""

    @property
    def decisive(self) -> Role:
        """The subject token whose restored stream brings most back: measured, not assumed."""
        return _decisive(self.by_role["hidden"])


def average(trace: Trace) -> Averages:
    """The averages of a trace that covers at least one fact."""
    facts = trace.records
    points = {
        name: curve([[getattr(fact, name)] for fact in facts], facts)
        for name in ("total_effect", "clean", "corrupted")
    }
    effects, severed = facts[0].effects, facts[0].severed
    by_role = {kind: _by_role(facts, [fact.effects[kind] for fact in facts]) for kind in effects}
    return Averages(
        total=points["total_effect"],
        clean=points["clean"],
        corrupted=points["corrupted"],
        by_role=by_role,
        severed={part: _by_role(facts, [fact.severed[part] for fact in facts]) for part in severed},
        lead=_lead(facts, by_role["hidden"]),
    )


def _decisive(hidden: Mapping[Role, Curve]) -> Role:
    having = [role for role in SUBJECT_ROLES if role in hidden]
    return max(having, key=lambda role: float(hidden[role].mean.max()))


def _lead(facts: Sequence[FactTrace], hidden: Mapping[Role, Curve]) -> Curve | None:
    decisive = _decisive(hidden)
    having = [fact for fact in facts if decisive in fact.roles]
    if decisive == "last-subject" or not having:
        return None
    peak, last_peak = hidden[decisive].peak, hidden["last-subject"].peak
    leads = [
        _of_role(fact, fact.effects["hidden"], decisive)[peak]
        - _of_role(fact, fact.effects["hidden"], "last-subject")[last_peak]
        for fact in having
    ]
    return curve([[lead] for lead in leads], having)


def _of_role(fact: FactTrace, grid: Grid, role: Role) -> Floats:
    """The mean over the fact's tokens of that role, one figure a layer."""
    rows = [row for row, own in zip(grid, fact.roles, strict=True) if own == role]
    mean: Floats = np.mean(rows, axis=0, dtype=np.float64)
    return mean


def _by_role(facts: Sequence[FactTrace], grids: Sequence[Grid]) -> dict[Role, Curve]:
    found = {}
    for role in ROLES:
        pairs = [(f, grid) for f, grid in zip(facts, grids, strict=True) if role in f.roles]
        if pairs:
            means = [_of_role(fact, grid, role) for fact, grid in pairs]
            found[role] = curve(means, [fact for fact, _ in pairs])
    return found


def curve(values: Sequence[Sequence[float] | Floats], facts: Sequence[FactTrace]) -> Curve:
    """Means of figures (fact, layer) with Student t intervals over the facts' clusters.

    The standard error is that of a ratio of totals,
    ``sqrt(m / (m - 1) * sum over clusters of (sum of residuals)^2) / n``, with m - 1 degrees of
    freedom: facts of one subject rise and fall together.
    """
    table = np.asarray(values, dtype=np.float64)  # (fact, layer)
    mean = table.mean(0)
    sums: defaultdict[int, Floats] = defaultdict(lambda: np.zeros_like(mean))
    for fact, row in zip(facts, table, strict=True):
        sums[fact.cluster] = sums[fact.cluster] + (row - mean)
    n, m = len(table), len(sums)
    if m < 2:
        wide = np.full_like(mean, np.inf)
        return Curve(mean, -wide, wide, n, m)
    error = np.sqrt(m / (m - 1) * np.square(np.stack([*sums.values()])).sum(0)) / n
    half = float(stats.t.ppf(0.975, m - 1)) * error
    return Curve(mean, mean - half, mean + half, n, m)
