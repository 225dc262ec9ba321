"""The rank test against enumeration, and its p-values under exchangeability."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from unlearn.statistics import permutation
from unlearn.statistics.permutation import facts_needed, rank_test


@pytest.mark.parametrize("n_decoys", [(2, 2, 2), (3, 1, 4), (5,)])
def test_tails_are_those_of_every_combination_of_ranks(n_decoys):
    places = [[j / m for j in range(m + 1)] for m in n_decoys]
    every = [sum(combination) for combination in itertools.product(*places)]
    for shares in itertools.product(*places):
        found = rank_test(shares, n_decoys)
        assert found.share == pytest.approx(np.mean(shares))
        assert found.p_known == pytest.approx(np.mean(np.array(every) >= sum(shares) - 1e-9))
        assert found.p_shunned == pytest.approx(np.mean(np.array(every) <= sum(shares) + 1e-9))


def test_eight_facts_all_ranked_first_are_known():
    found = rank_test([1.0] * 8, [32] * 8)
    assert found.p_known == pytest.approx(33.0**-8, abs=1e-9)
    assert found.p_shunned == pytest.approx(1.0)


def test_sampling_agrees_with_the_exact_law(monkeypatch):
    shares, n_decoys = [0.8, 0.75, 1.0, 0.4], [5, 4, 3, 5]
    exact = rank_test(shares, n_decoys)
    monkeypatch.setattr(permutation, "MOST_CELLS", 0)
    sampled = rank_test(shares, n_decoys, seed=1)
    assert sampled.p_known == pytest.approx(exact.p_known, abs=0.005)
    assert sampled.p_shunned == pytest.approx(exact.p_shunned, abs=0.005)


def test_a_model_that_never_saw_the_facts_is_called_knowing_no_more_than_alpha_allows():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        scores = rng.normal(size=(8, 17))
        shares = (scores[:, :1] > scores[:, 1:]).mean(axis=1)
        found.append(rank_test(shares.tolist(), [16] * 8))
    for alpha in (0.01, 0.05, 0.2):
        for p_values in ([f.p_known for f in found], [f.p_shunned for f in found]):
            assert np.mean(np.array(p_values) <= alpha) <= alpha + 3 * np.sqrt(alpha / 2000)


def test_as_many_facts_as_asked_for_give_the_power():
    n = facts_needed(0.2, 16)
    rng = np.random.default_rng(1)
    # Ranks with a mean share of 0.7: the best of two uniform places has 2/3, mixed with certainty.
    hits = 0
    for _ in range(1000):
        places = np.maximum(rng.integers(17, size=n), rng.integers(17, size=n)) / 16
        places = np.where(rng.random(n) < 0.1, 1.0, places)
        hits += rank_test(places.tolist(), [16] * n).p_known <= 0.05
    assert hits / 1000 >= 0.75


def test_what_cannot_be_tested_is_refused():
    for shares, n_decoys in (([], []), ([1.0], [0]), ([1.0], [1, 2])):
        with pytest.raises(ValueError):
            rank_test(shares, n_decoys)
    with pytest.raises(ValueError):
        facts_needed(0.0, 5)
