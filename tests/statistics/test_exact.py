"""Exact bounds against scipy, enumeration and brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unlearn.statistics.exact import (
    clopper_pearson,
    extractable_within,
    leak_at_k,
    rate_at_most,
    samples_until,
)


@pytest.mark.parametrize(("events", "trials"), [(0, 1), (0, 20), (3, 20), (20, 20), (7, 128)])
def test_clopper_pearson_is_scipys(events, trials):
    found = clopper_pearson(events, trials, 0.9)
    theirs = stats.binomtest(events, trials).proportion_ci(0.9, method="exact")
    assert (found.value, found.low, found.high) == pytest.approx(
        (events / trials, theirs.low, theirs.high)
    )


@pytest.mark.parametrize("trials", [5, 20, 60])
def test_clopper_pearson_covers_every_rate_by_enumeration(trials):
    intervals = [clopper_pearson(k, trials) for k in range(trials + 1)]
    for rate in (0.01, 0.1, 0.35, 0.5, 0.77, 0.99):
        law = stats.binom.pmf(range(trials + 1), trials, rate)
        covered = sum(p for p, i in zip(law, intervals, strict=True) if i.low <= rate <= i.high)
        assert covered >= 0.95


@pytest.mark.parametrize(
    ("trials", "bound"), [(20, 0.139), (59, 0.0495), (128, 0.0231), (299, 0.00997)]
)
def test_nothing_seen_bounds_the_rate(trials, bound):
    assert rate_at_most(trials) == pytest.approx(bound, abs=5e-4)
    assert rate_at_most(trials) == pytest.approx(clopper_pearson(0, trials, 0.9).high)


@pytest.mark.parametrize(("n", "leaks", "k"), [(6, 2, 3), (6, 0, 2), (6, 6, 1), (5, 1, 5)])
def test_leak_at_k_is_the_share_of_draws_with_a_leak(n, leaks, k):
    texts = [i < leaks for i in range(n)]
    draws = list(itertools.combinations(texts, k))
    assert leak_at_k(n, leaks, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_leak_at_k_of_the_literature_and_of_many_samples():
    assert leak_at_k(128, 1, 8) == pytest.approx(8 / 128)
    assert leak_at_k(128, 5, 32) == pytest.approx(1 - math.comb(123, 32) / math.comb(128, 32))
    assert leak_at_k(10**6, 3, 10**5) == pytest.approx(1 - 0.9**3, abs=1e-5)


@given(st.integers(1, 60), st.data())
def test_leak_at_k_rises_with_leaks_and_draws(n, data):
    leaks, k = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n))
    one = leak_at_k(n, leaks, k)
    assert 0 <= one <= leak_at_k(n, leaks + 1, k) + 1e-12
    assert k == n or one <= leak_at_k(n, leaks, k + 1) + 1e-12


def test_what_is_extractable_needs_no_sample():
    assert extractable_within(math.log(0.02), 128) == pytest.approx(1 - 0.98**128)
    assert extractable_within(-200.0, 10**6) == pytest.approx(10**6 * math.exp(-200.0))
    assert extractable_within(0.0, 1) == 1.0


def test_samples_until_inverts_it():
    for p in (0.5, 0.02, 1e-6):
        n = samples_until(math.log(p), 0.3)
        assert extractable_within(math.log(p), 1) == pytest.approx(p)
        assert 1 - (1 - p) ** n == pytest.approx(0.3)
    assert samples_until(-1e4, 0.5) == math.inf


def test_counts_that_cannot_be_are_refused():
    for wrong in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError):
            clopper_pearson(*wrong)
    for wrong in ((4, 5, 1), (4, 1, 0), (4, 1, 5)):
        with pytest.raises(ValueError):
            leak_at_k(*wrong)
