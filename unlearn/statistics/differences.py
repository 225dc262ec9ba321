"""The difference of two independent means of figures that come in clusters."""

from __future__ import annotations

import math

from scipy import stats

from unlearn.statistics.clusters import UNBOUNDED, Bounds, Interval, Sample


def difference_of_means(
    first: Sample, second: Sample, confidence: float = 0.95, *, bounds: Bounds = UNBOUNDED
) -> Interval:
    """Mean of ``first`` minus mean of ``second``, with Welch's interval from clustered errors.

    The error is the root of the sum of both squared cluster-robust standard errors, the degrees of
    freedom are Satterthwaite's from clusters minus one on each side (Welch 1947, Biometrika 34).
    Infinite with a single cluster on either side. The interval is cut at ``bounds``.
    """
    value = first.mean - second.mean
    parts = [(s.standard_error**2, s.n_clusters - 1) for s in (first, second)]
    variance = sum(v for v, _ in parts)
    if not math.isfinite(variance):
        return Interval(value, *bounds)
    if variance == 0:
        return Interval(value, value, value)
    degrees = variance**2 / sum(v**2 / df for v, df in parts)
    half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * math.sqrt(variance)
    return Interval(value, max(value - half, bounds[0]), min(value + half, bounds[1]))
