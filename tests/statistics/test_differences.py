"""The difference of two means against scipy's Welch test, and by simulation with clusters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.statistics.clusters import Sample
from unlearn.statistics.differences import difference_of_means


def test_without_clusters_the_error_is_welchs_and_the_interval_a_little_wider():
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 1, 9), rng.normal(0, 3, 14)
    found = difference_of_means(
        Sample(first.tolist(), range(9)), Sample(second.tolist(), range(14)), 0.9
    )
    theirs = stats.ttest_ind(first, second, equal_var=False)
    error = (first.mean() - second.mean()) / theirs.statistic
    half = stats.t.ppf(0.95, 8) * error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    interval = theirs.confidence_interval(0.9)
    assert found.low <= interval.low and interval.high <= found.high


@pytest.mark.parametrize("m", [5, 10, 40])
def test_it_covers_where_figures_come_in_clusters(m):
    rng = np.random.default_rng(1)

    def drawn(m, k):
        shared, own = rng.normal(size=(m, 1)), rng.normal(size=(m, k))
        return Sample((0.5 * shared + own).ravel().tolist(), np.repeat(np.arange(m), k).tolist())

    missed = sum(
        not found.low <= 0 <= found.high
        for found in (difference_of_means(drawn(m, 8), drawn(30, 8)) for _ in range(600))
    )
    assert missed / 600 <= 0.05 + 0.018


def test_one_cluster_bounds_nothing_but_what_a_figure_can_be():
    one, two = Sample([0.2, 0.4], ["a", "a"]), Sample([0.1, 0.2], ["b", "c"])
    assert difference_of_means(one, two, bounds=(-1.0, 1.0))[1:] == (-1.0, 1.0)
