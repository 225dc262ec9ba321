"""Divergences against scipy on hand-made distributions."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from unlearn.model.divergence import js_divergence, kl_divergence

P = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0], [0.2, 0.8, 0.0]]
Q = [[0.25, 0.5, 0.25], [0.1, 0.2, 0.7], [0.0, 0.5, 0.5], [0.6, 0.3, 0.1]]


def logs(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_kl_is_scipys_and_infinite_where_something_possible_is_ruled_out():
    found = kl_divergence(logs(P), logs(Q)).numpy()
    assert found == pytest.approx([entropy(p, q) for p, q in zip(P, Q, strict=True)])
    assert found[1] == 0 and math.isinf(found[2])


def test_jensen_shannon_is_scipys_squared_over_log_2_and_symmetric():
    expected = [jensenshannon(p, q) ** 2 / math.log(2) for p, q in zip(P, Q, strict=True)]
    found = js_divergence(logs(P), logs(Q)).numpy()
    assert found == pytest.approx(expected, abs=1e-12)
    assert found == pytest.approx(js_divergence(logs(Q), logs(P)).numpy())
    assert found[1] == 0 and found[2] == 1


def test_float32_of_equal_distributions_is_nothing_and_never_below():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 200)) * 6).float()
    p = logits.log_softmax(-1)
    q = (logits + 1e-4 * torch.ones(200)).log_softmax(-1)
    for found in (kl_divergence(p, q), js_divergence(p, q)):
        assert bool((found >= 0).all()) and float(found.max()) < 1e-5
