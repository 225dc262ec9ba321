"""How well scores tell two groups apart, where the records of both come in clusters."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unlearn.statistics.clusters import Interval, Sample, Units, mean_interval, share_at_most

Floats = NDArray[np.float64]


def auc_interval(
    members: Sample, others: Sample, confidence: float = 0.95, *, n_units: int | None = None
) -> Interval:
    """The probability that a member's score lies above another's, ties half: the area under ROC.

    0.5 tells nothing; a departure in either direction tells the groups apart. The interval is
    DeLong's with clusters on both sides (Obuchowski 1997, Biometrics 53): the cluster-robust errors
    of the members' and of the others' placements add up, with Student's t on the smaller number of
    clusters minus one. Where groups hardly overlap that is too narrow, so neither end is nearer
    than where of ``n_units`` facts (by default one for each cluster) no exception was seen; see
    ``share_at_most``. From 0 to 1 with a single cluster on either side.
    """
    above, below = placements(members, others)
    value = above.mean
    if min(above.n_clusters, below.n_clusters) < 2:
        return Interval(value, 0.0, 1.0)
    units = Units(n_units or above.n_clusters, above.n_even_clusters)
    unseen = share_at_most(0, units, (1 - confidence) / 2)
    half = max(_half(above, below, confidence), unseen)
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def auc_difference(
    members: Sample,
    others: Sample,
    other_members: Sample,
    other_others: Sample,
    *,
    confidence: float = 0.95,
) -> Interval:
    """The first model's AUC minus the second's on the same records, with a paired interval.

    As ``auc_interval``, on the differences of placements (DeLong et al. 1988, Biometrics 44).
    Labels and order of the records must be those of the first model. From -1 to 1 with a single
    cluster on either side.
    """
    first, second = placements(members, others), placements(other_members, other_others)
    above, below = (
        Sample((a.values - b.values).tolist(), a.labels) for a, b in zip(first, second, strict=True)
    )
    value = above.mean
    if min(above.n_clusters, below.n_clusters) < 2:
        return Interval(value, -1.0, 1.0)
    half = _half(above, below, confidence)
    return Interval(value, max(-1.0, value - half), min(1.0, value + half))


def tpr_interval(
    members: Sample,
    others: Sample,
    false_positive_rate: float,
    confidence: float = 0.95,
    *,
    seed: int = 0,
    n_units: int | None = None,
) -> Interval:
    """The share of members above a threshold that at most that share of the others is above.

    The threshold is a score of the others, so rates below one over their number act as 0. The
    interval takes the threshold as given: with few others it is too narrow.
    """
    allowed = math.floor(false_positive_rate * len(others.values) + 1e-9)
    threshold = np.sort(others.values)[::-1][min(allowed, len(others.values) - 1)]
    above = Sample((members.values > threshold).astype(float).tolist(), members.labels)
    return mean_interval(above, confidence, seed=seed, bounds=(0.0, 1.0), n_units=n_units)


def placements(members: Sample, others: Sample) -> tuple[Sample, Sample]:
    """For each member the share of others below it, for each other the share of members above it.

    Ties count half; the mean of either is the AUC.
    """
    above = _share_below(members.values, others.values)
    below = 1 - _share_below(others.values, members.values)
    return Sample(above.tolist(), members.labels), Sample(below.tolist(), others.labels)


def _share_below(values: Floats, pool: Floats) -> Floats:
    ordered = np.sort(pool)
    low = np.searchsorted(ordered, values, side="left")
    high = np.searchsorted(ordered, values, side="right")
    share: Floats = (low + high) / (2 * len(pool))
    return share


def _half(above: Sample, below: Sample, confidence: float) -> float:
    """Half the width of the interval of a mean of placements."""
    error = math.hypot(above.standard_error, below.standard_error)
    degrees = min(above.n_clusters, below.n_clusters) - 1
    return float(stats.t.ppf((1 + confidence) / 2, degrees)) * error
