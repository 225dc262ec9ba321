"""Linear probes against scikit-learn's own classifier, fold by fold."""

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from unlearn.model.linear_probe import PENALTY, cross_validated, predict


def test_a_probe_is_trained_on_other_subjects_than_those_it_is_asked_about():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"] * 12)
    groups = np.array([f"s{i // 3}" for i in range(36)])
    states = rng.normal(size=(36, 2, 5)).astype(np.float32)
    states[:, 1, 0] += 9 * np.searchsorted(["a", "b", "c"], labels)
    shuffled = labels[rng.permutation(36)]
    found, other = cross_validated(states, [labels, shuffled], groups, 4)
    expected = np.zeros((36, 2))
    for train, test in GroupKFold(4).split(states, labels, groups):
        assert not set(groups[train]) & set(groups[test])
        for depth in range(2):
            scaler = StandardScaler().fit(states[train, depth])
            ridge = RidgeClassifier(alpha=PENALTY)
            ridge.fit(scaler.transform(states[train, depth]), labels[train])
            said = ridge.predict(scaler.transform(states[test, depth]))
            expected[test, depth] = said == labels[test]
    assert found.tolist() == expected.tolist()
    assert other.tolist() == cross_validated(states, [shuffled], groups, 4)[0].tolist()
    assert found[:, 1].mean() > 0.6 > found[:, 0].mean()


def test_a_probe_says_what_a_ridge_classifier_says_of_states_it_was_not_trained_on():
    rng = np.random.default_rng(1)
    labels = np.array(["a", "b", "c"] * 8)
    train = rng.normal(size=(24, 6)).astype(np.float32)
    train[:, 0] += 3 * np.searchsorted(["a", "b", "c"], labels)
    test = rng.normal(size=(9, 6)).astype(np.float32)
    others = labels[rng.permutation(24)]
    scaler = StandardScaler().fit(train)
    for said, trained_on in zip(
        predict(train, [labels, others], test), (labels, others), strict=True
    ):
        ridge = RidgeClassifier(alpha=PENALTY).fit(scaler.transform(train), trained_on)
        assert said.tolist() == ridge.predict(scaler.transform(test)).tolist()
