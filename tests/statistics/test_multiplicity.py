"""Holm's correction against its definition, and p-values that agree with their intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unlearn.statistics.clusters import Interval, Sample, cluster_t
from unlearn.statistics.multiplicity import holm, p_by_inversion

shares = st.lists(st.floats(0, 1), min_size=1, max_size=7)


def test_a_table_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(shares)
def test_adjusted_values_are_the_closed_tests_with_bonferroni(p_values):
    """Holm is the closure of Bonferroni: the largest Bonferroni p of any set that has the test."""
    k = range(len(p_values))
    subsets = [s for n in k for s in itertools.combinations(k, n + 1)]
    for index, adjusted in enumerate(holm(p_values)):
        worst = max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in subsets if index in s)
        assert adjusted == pytest.approx(worst)


def test_a_false_alarm_anywhere_is_no_more_likely_than_alpha():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 1))
    scores = np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=(4000, 6))
    p_values = stats.norm.sf(scores)
    alarms = np.mean([min(holm(row)) <= 0.05 for row in p_values.tolist()])
    assert alarms <= 0.05 + 0.01


def test_the_p_value_of_a_t_interval_is_the_t_tests():
    rng = np.random.default_rng(1)
    values = rng.normal(0.4, 1, 12)
    sample = Sample(values.tolist(), range(12))
    expected = stats.ttest_1samp(values, 0.1, alternative="greater").pvalue
    found = p_by_inversion(lambda confidence: cluster_t(sample, confidence), 0.1)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("mean", [0.2, 0.5, 0.9, 2.0])
def test_p_is_at_most_5_percent_exactly_where_the_90_percent_interval_lies_beyond(mean):
    sample = Sample((mean + np.random.default_rng(2).normal(size=9)).tolist(), range(9))
    beyond = cluster_t(sample, 0.9).low > 0.1
    assert (p_by_inversion(lambda c: cluster_t(sample, c), 0.1) <= 0.05) == beyond


def test_both_sides_count_where_both_are_asked_for():
    below = lambda confidence: Interval(-0.5, -0.5 - confidence / 10, -0.5 + confidence / 10)  # noqa: E731
    assert p_by_inversion(below, 0.1) == 0.5
    assert p_by_inversion(below, 0.1, two_sided=True) < 0.05
