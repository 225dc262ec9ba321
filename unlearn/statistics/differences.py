"""The difference of two independent means of figures that come in clusters."""

from __future__ import annotations

import math

from scipy import stats

from unlearn.statistics.clusters import UNBOUNDED, Bounds, Interval, Sample


def difference_of_means(
    first: Sample, second: Sample, confidence: float = 0.95, *, bounds: Bounds = UNBOUNDED
) -> Interval:
    """Mean of ``first`` minus mean of ``second``, with an interval from clustered errors.

    The error is the root of the sum of both squared cluster-robust standard errors. Student's t has
    the smaller number of clusters minus one as degrees of freedom: Welch's own (1947, Biometrika
    34) lie above and miss too often with five clusters on a side. Without end with a single
    cluster on either side. The interval is cut at ``bounds``.
    """
    value = first.mean - second.mean
    degrees = min(first.n_clusters, second.n_clusters) - 1
    if degrees < 1:
        return Interval(value, *bounds)
    error = math.hypot(first.standard_error, second.standard_error)
    half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * error
    return Interval(value, max(value - half, bounds[0]), min(value + half, bounds[1]))
