"""Intervals and tests against scipy, against brute force, and by simulation with fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlearn.errors import NumericalError
from unlearn.statistics import clusters
from unlearn.statistics.clusters import (
    Interval,
    Sample,
    Units,
    binomial_tail,
    cluster_bootstrap,
    cluster_t,
    clusters_needed,
    clusters_needed_for_bound,
    mean_interval,
    position,
    probability_at_most,
    share_at_most,
    sign_flip,
    spread_between,
)

SHARE = (0.0, 1.0)


def singletons(values):
    return Sample(list(values), range(len(values)))


def clustered(rng, m, k, icc, mean=0.0):
    """``m`` clusters of ``k`` normal figures of variance 1 with an intraclass correlation."""
    shared = rng.normal(scale=math.sqrt(icc), size=(m, 1))
    own = rng.normal(scale=math.sqrt(1 - icc), size=(m, k))
    return Sample((mean + shared + own).ravel().tolist(), np.repeat(np.arange(m), k).tolist())


def test_clusters_of_one_give_students_interval():
    values = np.random.default_rng(0).normal(size=12)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = cluster_t(singletons(values), 0.95)
    assert found == pytest.approx((values.mean(), expected.low, expected.high))


def test_clusters_of_equal_size_give_students_interval_of_their_means():
    sample = clustered(np.random.default_rng(1), m=7, k=4, icc=0.3)
    means = sample.values.reshape(7, 4).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    found = cluster_t(sample, 0.9)
    assert found == pytest.approx((means.mean(), expected.low, expected.high))


def test_the_standard_error_with_clusters_of_unequal_size_is_that_of_a_ratio():
    sample = Sample([1, 2, 3, 4, 5, 10], ["a", "a", "a", "b", "b", "c"])
    mean = 25 / 6
    residuals = [6 - 3 * mean, 9 - 2 * mean, 10 - mean]
    expected = math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 6
    assert sample.mean == pytest.approx(mean)
    assert sample.standard_error == pytest.approx(expected)


def test_the_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(2).gamma(2.0, size=60)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(3)
    ).confidence_interval
    found = cluster_bootstrap(singletons(values), 0.95, seed=4, draws=20_000)
    assert found.low == pytest.approx(expected.low, abs=0.02)
    assert found.high == pytest.approx(expected.high, abs=0.02)


def test_the_bootstrap_resamples_whole_clusters():
    same_within = Sample([0.0] * 5 + [1.0] * 5, ["a"] * 5 + ["b"] * 5)
    assert cluster_bootstrap(same_within)[1:] == (0.0, 1.0)


def test_the_bootstrap_does_not_depend_on_how_many_draws_are_held_at_once(monkeypatch):
    sample = clustered(np.random.default_rng(5), m=31, k=2, icc=0.2)
    at_once = cluster_bootstrap(sample, seed=6)
    monkeypatch.setattr(clusters, "CHUNK", 100)
    assert cluster_bootstrap(sample, seed=6) == at_once
    assert cluster_bootstrap(sample, seed=7) != at_once


def coverage(build, interval, n=600):
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(n):
        found = interval(build(rng))
        hits += found.low <= 0.0 <= found.high
    return hits / n


def test_few_clusters_are_covered_as_promised_and_records_as_units_are_not():
    def build(rng):
        return clustered(rng, m=6, k=8, icc=0.2)

    by_cluster = coverage(build, lambda s: mean_interval(s, 0.95))
    by_record = coverage(build, lambda s: cluster_t(singletons(s.figures), 0.95))
    assert 0.93 <= by_cluster <= 0.97
    assert by_record < 0.85


def test_many_clusters_are_covered_as_promised():
    def build(rng):
        return clustered(rng, m=40, k=4, icc=0.3)

    assert 0.92 <= coverage(build, lambda s: mean_interval(s, 0.95), n=400) <= 0.98


def test_the_method_changes_with_the_number_of_clusters():
    few = clustered(np.random.default_rng(8), m=29, k=1, icc=0.0)
    many = clustered(np.random.default_rng(8), m=30, k=1, icc=0.0)
    assert mean_interval(few) == cluster_t(few)
    assert mean_interval(many, seed=3) == cluster_bootstrap(many, seed=3)


def test_figures_that_all_agree_get_the_exact_binomial_interval():
    sample = Sample([0.0] * 40, np.repeat(np.arange(10), 4).tolist())
    found = mean_interval(sample, 0.9, bounds=SHARE, n_units=20)
    # Both facts of a subject are spared with (1 - p) (1 - 0.6 p), at a correlation of 0.4.
    assert found[:2] == (0.0, 0.0)
    assert ((1 - found.high) * (1 - 0.6 * found.high)) ** 10 == pytest.approx(0.05)
    ones = mean_interval(Sample([1.0] * 5, range(5)), 0.9, bounds=SHARE)
    assert ones == pytest.approx((1.0, 0.05 ** (1 / 5), 1.0))


def test_one_cluster_leaves_all_that_is_possible():
    assert mean_interval(Sample([0.2, 0.4], ["a", "a"]), bounds=SHARE)[1:] == SHARE
    assert mean_interval(Sample([0.2, 0.4], ["a", "a"]))[1:] == (-math.inf, math.inf)


def test_a_figure_that_is_no_number_is_refused():
    for bad in (math.nan, math.inf):
        with pytest.raises(NumericalError, match="NaN or infinite"):
            Sample([0.1, bad], ["a", "b"])


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (1, 320)])
def test_a_share_of_single_facts_gets_the_interval_of_clopper_and_pearson(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    units = Units(trials, trials)
    assert share_at_most(successes, units, 0.025) == pytest.approx(expected.high)
    assert 1 - share_at_most(trials - successes, units, 0.025) == pytest.approx(expected.low)


def test_the_probability_of_few_exceptions_is_that_of_beta_binomials_by_brute_force():
    size = np.arange(4)
    one, two = (stats.betabinom.pmf(size[: k + 1], k, 0.15, 1.35) for k in (2, 3))
    expected = sum(one[i] * two[j] for i, j in itertools.product(range(3), range(4)) if i + j <= 2)
    assert probability_at_most(2, Units(5, 2), 0.1) == pytest.approx(expected)


def test_the_binomial_tail_is_the_sum_of_its_terms():
    expected = sum(math.comb(8, k) * 0.1**k * 0.9 ** (8 - k) for k in range(3, 9))
    assert binomial_tail(3, 8, 0.1) == pytest.approx(expected)
    assert binomial_tail(0, 8, 0.1) == 1.0


def test_the_sign_flip_test_enumerates_every_assignment():
    sample = Sample([0.5, 0.7, -0.1, 0.4, 0.9], ["a", "a", "b", "c", "d"])
    sums = np.array([1.2, -0.1, 0.4, 0.9])
    totals = [np.dot(signs, sums) for signs in itertools.product((1, -1), repeat=4)]
    assert sign_flip(sample) == np.mean([total >= sums.sum() - 1e-9 for total in totals])


def test_the_sign_flip_test_agrees_with_scipy():
    values = np.random.default_rng(9).normal(0.4, size=10)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip(singletons(values)) == pytest.approx(expected.pvalue)


def test_eight_facts_that_all_point_one_way_give_one_in_256():
    assert sign_flip(singletons([0.9] * 8)) == 1 / 256


def test_sampled_signs_agree_with_all_of_them(monkeypatch):
    sample = clustered(np.random.default_rng(10), m=11, k=3, icc=0.2, mean=0.3)
    exact = sign_flip(sample)
    monkeypatch.setattr(clusters, "EXACT_CLUSTERS", 0)
    sampled = sign_flip(sample, seed=1, draws=40_000)
    assert sampled == pytest.approx(exact, abs=0.01)
    monkeypatch.setattr(clusters, "CHUNK", 50)
    assert sign_flip(sample, seed=1, draws=40_000) == sampled


def test_the_sign_flip_test_rejects_a_true_null_no_more_than_promised():
    rng = np.random.default_rng(12)
    rejected = [sign_flip(clustered(rng, m=7, k=4, icc=0.5)) <= 0.05 for _ in range(1500)]
    assert np.mean(rejected) <= 0.065


def test_where_an_interval_lies():
    assert position(Interval(0.0, -0.05, 0.05), high=0.1) == "inside"
    assert position(Interval(0.2, 0.11, 0.3), high=0.1) == "outside"
    assert position(Interval(0.1, 0.05, 0.15), high=0.1) == "across"
    assert position(Interval(0.0, -0.05, 0.05), low=-0.1, high=0.1) == "inside"
    assert position(Interval(-0.2, -0.3, -0.11), low=-0.1, high=0.1) == "outside"
    assert position(Interval(0.1, 0.0, 0.1), high=0.1) == "across"


def test_equivalence_is_claimed_at_the_margin_no_more_than_promised():
    rng = np.random.default_rng(13)
    claimed = 0
    for _ in range(1000):
        sample = clustered(rng, m=8, k=4, icc=0.2, mean=0.5)
        claimed += position(mean_interval(sample, 0.9), low=-0.5, high=0.5) == "inside"
    assert claimed / 1000 <= 0.065


def test_the_stated_need_decides_as_often_as_it_says():
    m = clusters_needed(sd=1.0, distance=0.5)
    assert 20 < m < 40
    rng = np.random.default_rng(14)
    decided = [
        position(mean_interval(clustered(rng, m=m, k=1, icc=0.0), 0.9), high=0.5) == "inside"
        for _ in range(400)
    ]
    assert 0.74 <= np.mean(decided) <= 0.92


def need(figures, limit, k):
    sample = Sample(list(figures), range(len(figures)))
    return clusters_needed_for_bound(sample, limit, k, most=5_000)


def test_the_clusters_a_bound_needs_are_the_fewest_that_give_it() -> None:
    dense = [0.3, 0.0, -0.2, 0.1, 0.0, -0.3]
    for figures, limit, k in [([0.0], 0.02, 8), ([0.0], 0.1, 4), (dense, 0.1, 8)]:
        m = need(figures, limit, k)
        sample = Sample(figures, range(len(figures)))
        high, before = (
            clusters.bounded_interval(sample, Units(k * n, n), 0.9, signed=True).high
            for n in (m, m - 1)
        )
        assert high < limit <= before
    # The rule of three, exactly: ln(0.05) / ln(0.95) facts without an exception.
    assert need([0.0], 0.05, 1) == 59
    assert need([0.0, 0.0, 0.06, 0.0], 0.015, 8) is None
    assert need([0.0], 0.96, 1) == 1


def test_what_a_pass_takes_is_what_the_docs_say() -> None:
    assert need([0.0], 0.02, 8) == 46
    assert need([0.0], 0.10, 8) == 9


def test_facts_of_one_cluster_count_less_than_facts_of_many() -> None:
    alone, together = (share_at_most(0, Units(160, m), 0.05) for m in (160, 20))
    assert alone == pytest.approx(1 - 0.05 ** (1 / 160)) and together > 2 * alone


def test_clusters_of_uneven_size_count_for_fewer() -> None:
    assert Sample([0.0] * 12, np.repeat(np.arange(4), 3).tolist()).n_even_clusters == 4
    # 12^2 / (9^2 + 1 + 1 + 1) = 1.7
    assert Sample([0.0] * 12, [0] * 9 + [1, 2, 3]).n_even_clusters == 1


def test_one_lost_answer_makes_the_bound_no_narrower() -> None:
    labels = np.repeat(np.arange(20), 7).tolist()
    highs = []
    for n_lost in (0, 1):
        sample = Sample([1.0] * n_lost + [0.0] * (140 - n_lost), labels)
        highs.append(mean_interval(sample, 0.9, bounds=(-1, 1), n_units=140).high)
    assert 0.02 < highs[0] < highs[1]


@given(
    m=st.integers(5, 40),
    k=st.integers(1, 10),
    limit=st.sampled_from([0.02, 0.1, 0.25]),
    losses=st.lists(st.tuples(st.integers(0, 399), st.floats(0.01, 1)), min_size=1, max_size=6),
    whole=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_more_losses_never_turn_undecided_into_within(m, k, limit, losses, whole) -> None:
    labels = np.repeat(np.arange(m), k).tolist()
    lost = np.zeros(m * k)

    def interval() -> Interval:
        return mean_interval(Sample(lost.tolist(), labels), 0.9, bounds=(-1, 1), n_units=m * k)

    none = before = interval()
    for at, size in losses:
        at %= m * k
        lost[at] = 1.0 if whole else min(1.0, lost[at] + size)
        now = interval()
        assert before.high < limit or now.high >= limit
        assert min(now.high - now.value, 1 - now.value) >= min(none.high, 1 - now.value) - 1e-9
        before = now


@pytest.mark.parametrize("icc", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("wordings", [1, 2])
@pytest.mark.parametrize(
    ("m", "k", "share"), [(60, 8, 0.02), (20, 8, 0.02), (20, 8, 0.1), (10, 20, 0.1), (60, 1, 0.1)]
)
def test_rare_losses_at_the_margin_are_passed_in_one_case_of_twenty_at_most(
    icc: float, wordings: int, m: int, k: int, share: float
) -> None:
    rng = np.random.default_rng(7)
    n_runs, passed = 300, 0
    scale = 1 / max(icc, 1e-9) - 1
    labels = np.repeat(np.arange(m), k).tolist()
    for _ in range(n_runs):
        rates = rng.beta(share * scale, (1 - share) * scale, size=m) if icc else np.full(m, share)
        # A fact asked for in two wordings can be lost by half.
        lost = (rng.random((m, k, wordings)) < rates[:, None, None]).mean(axis=-1).ravel()
        found = mean_interval(Sample(lost.tolist(), labels), 0.9, bounds=(-1, 1), n_units=m * k)
        passed += position(found, high=share) == "inside"
    # Three standard errors above 5 %.
    assert passed / n_runs <= 0.05 + 3 * (0.05 * 0.95 / n_runs) ** 0.5


def test_the_spread_between_subjects_is_that_of_their_means():
    sample = clustered(np.random.default_rng(15), m=9, k=4, icc=0.3)
    means = sample.values.reshape(9, 4).mean(axis=1)
    assert spread_between(sample, range(36)) == pytest.approx(means.std(ddof=1))


def test_one_subject_lends_its_facts_spread_and_the_assumed_correlation():
    sample = Sample([0.0, 0.0, 1.0, 1.0], ["a"] * 4)
    variance = np.var([0.0, 1.0], ddof=1)
    expected = math.sqrt(variance * (1 / 2 + 0.2 / 2))
    assert spread_between(sample, ["f", "f", "g", "g"]) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40)), min_size=1, max_size=80),
    st.randoms(use_true_random=False),
)
def test_an_interval_holds_its_mean_stays_in_bounds_and_ignores_order_of_records(rows, random):
    figures, labels = [r[0] for r in rows], [r[1] for r in rows]
    found = mean_interval(Sample(figures, labels), bounds=SHARE)
    assert 0.0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1.0
    if len(set(labels)) < clusters.MANY_CLUSTERS:
        random.shuffle(rows)
        shuffled = mean_interval(Sample([r[0] for r in rows], [r[1] for r in rows]), bounds=SHARE)
        assert shuffled == pytest.approx(found, abs=1e-6)
