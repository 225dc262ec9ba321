"""AUC and its intervals against scikit-learn, brute force and simulation with clusters."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unlearn.statistics.clusters import Sample
from unlearn.statistics.ranking import auc_difference, auc_interval, placements, tpr_interval


def sample(values, labels=None):
    values = list(values)
    return Sample(values, range(len(values)) if labels is None else labels)


def clustered(rng, m, k, icc, shift=0.0):
    """``m`` clusters of ``k`` normal scores of variance 1 with an intraclass correlation."""
    shared = rng.normal(scale=np.sqrt(icc), size=(m, 1))
    own = rng.normal(scale=np.sqrt(1 - icc), size=(m, k))
    return Sample((shift + shared + own).ravel().tolist(), np.repeat(np.arange(m), k).tolist())


def test_auc_is_scikit_learns_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(20):
        members, others = rng.integers(0, 6, 15) + 0.0, rng.integers(0, 5, 11) + 0.0
        truth = [1] * 15 + [0] * 11
        expected = roc_auc_score(truth, [*members, *others])
        assert auc_interval(sample(members), sample(others)).value == pytest.approx(expected)


def test_placements_are_shares_of_pairs():
    above, below = placements(sample([1.0, 2.0, 2.0]), sample([2.0, 0.0]))
    assert above.figures == [0.5, 0.75, 0.75]
    assert below.figures == pytest.approx([1 / 3, 1.0])


def test_without_clusters_the_interval_is_delongs():
    rng = np.random.default_rng(1)
    members, others = rng.normal(0.5, 1, 60), rng.normal(0, 1, 60)
    v = np.array([(m > others).mean() for m in members])
    w = np.array([(members > o).mean() for o in others])
    error = np.sqrt(v.var(ddof=1) / 60 + w.var(ddof=1) / 60)
    found = auc_interval(sample(members), sample(others))
    assert (found.high - found.low) / 2 == pytest.approx(2.001 * error, rel=0.01)


@pytest.mark.parametrize(("m", "icc", "shift"), [(5, 0.4, 0.0), (10, 0.2, 0.0), (10, 0.4, 1.0)])
def test_the_interval_covers_with_clusters_on_both_sides(m, icc, shift):
    rng = np.random.default_rng(2)
    far = [clustered(rng, 4000, 1, 0.0, shift), clustered(rng, 4000, 1, 0.0)]
    truth = auc_interval(*far).value
    missed = 0
    for _ in range(400):
        found = auc_interval(clustered(rng, m, 8, icc, shift), clustered(rng, 30, 8, icc))
        missed += not found.low <= truth <= found.high
    assert missed / 400 <= 0.05 + 0.022


@pytest.mark.parametrize("m", [5, 10])
def test_a_difference_of_two_ignorant_models_is_called_one_no_more_than_alpha_allows(m):
    rng = np.random.default_rng(3)
    called = 0
    for _ in range(400):
        groups = [clustered(rng, m, 8, 0.3), clustered(rng, 30, 8, 0.3)]
        again = [
            Sample((0.6 * s.values + 0.8 * rng.normal(size=len(s.values))).tolist(), s.labels)
            for s in groups
        ]
        noisy = [
            Sample((0.6 * s.values + 0.8 * rng.normal(size=len(s.values))).tolist(), s.labels)
            for s in groups
        ]
        found = auc_difference(*again, *noisy, confidence=0.9)
        called += not found.low <= 0 <= found.high
    assert called / 400 <= 0.10 + 0.03


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(4)
    members, others = clustered(rng, 10, 8, 0.3, 0.8), clustered(rng, 30, 8, 0.3)
    nearly = Sample((members.values + 0.01).tolist(), members.labels)
    alone = auc_interval(members, others)
    found = auc_difference(nearly, others, members, others)
    assert 0 <= found.value < 0.01
    assert found.high - found.low < 0.1 * (alone.high - alone.low)


def test_one_cluster_says_nothing():
    one = sample([1.0, 2.0], ["a", "a"])
    assert auc_interval(one, sample([0.0, 0.5]))[1:] == (0.0, 1.0)
    assert auc_difference(one, sample([0.0, 0.5]), one, sample([0.0, 0.5]))[1:] == (-1.0, 1.0)


def test_groups_that_do_not_overlap_keep_a_width():
    found = auc_interval(sample(np.arange(10) + 100.0), sample(np.arange(30.0)))
    assert found.value == 1.0
    assert 0.6 < found.low < 0.85


def test_at_most_the_allowed_share_of_others_lies_above_the_threshold():
    rng = np.random.default_rng(5)
    for n in (10, 99, 100, 250):
        members, others = sample(rng.normal(1, 1, 40)), sample(rng.normal(0, 1, n))
        ordered = np.sort(others.values)[::-1]
        threshold = ordered[int(0.01 * n)]
        assert (others.values > threshold).mean() <= 0.01
        expected = (members.values > threshold).mean()
        assert tpr_interval(members, others, 0.01).value == pytest.approx(expected)
