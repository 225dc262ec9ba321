"""Divergences against scipy, and what is compared against plain forward passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

import unlearn
from unlearn.errors import NumericalError
from unlearn.model.divergence import compare, jensen_shannon, kl_to
from unlearn.types import Statement

STATEMENTS = [
    Statement(prompt="Brentro Merro was born in the town of", answer="Dalwick"),
    Statement(prompt="The town of", answer="Masmere and the town of Thinford"),
    Statement(prompt="Brentro Merro was born in the town of", answer="Dalwick"),
]


@pytest.fixture(scope="module")
def pair():
    return unlearn.load("lab:full"), unlearn.load("lab:reference")


def distributions(n=6, v=11):
    logits = torch.randn(2, n, v, generator=torch.Generator().manual_seed(0)) * 3
    return torch.log_softmax(logits, dim=-1)


def test_jensen_shannon_and_kl_are_scipys():
    p, q = distributions()
    for js, kl, one, two in zip(jensen_shannon(p, q), kl_to(p, q), p, q, strict=True):
        one, two = one.exp().numpy(), two.exp().numpy()
        assert js == pytest.approx(jensenshannon(one, two, base=2) ** 2, abs=1e-5)
        assert kl == pytest.approx(entropy(two, one), abs=1e-5)


def test_equal_predictions_are_0_apart_and_disjoint_ones_1_bit():
    p, _ = distributions()
    assert jensen_shannon(p, p).abs().max() < 1e-6
    assert kl_to(p, p).abs().max() < 1e-6
    sure = torch.tensor([[0.0, -math.inf]])
    assert jensen_shannon(sure, sure.flip(-1)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("whole_text", [False, True])
def test_what_is_compared_are_the_predictions_of_plain_passes(pair, whole_text):
    lm, other = pair
    found = compare(lm, other, STATEMENTS, kl_to, whole_text=whole_text, with_states=True)
    for statement, apart in zip(STATEMENTS, found, strict=True):
        encoding = lm.encode(statement.prompt, statement.completion)
        ids = torch.tensor([encoding.ids])
        with torch.no_grad():
            outputs = [m.model(ids, output_hidden_states=True) for m in pair]
        start = 1 if whole_text else encoding.start
        logs = [torch.log_softmax(o.logits[0, start - 1 : -1], -1).numpy() for o in outputs]
        expected = np.mean([entropy(np.exp(b), np.exp(a)) for a, b in zip(*logs, strict=True)])
        assert apart.predictions == pytest.approx(expected, rel=1e-3)
        ours, theirs = (o.hidden_states[-1][0, start - 1 : -1] for o in outputs)
        drift = ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).mean()
        assert apart.states == pytest.approx(drift.item(), rel=1e-4)


def test_neither_order_nor_company_matters(pair):
    whole = compare(*pair, STATEMENTS, jensen_shannon)
    assert whole[0] == whole[2]
    alone = [compare(*pair, [s], jensen_shannon)[0] for s in reversed(STATEMENTS)]
    for one, other in zip(whole, reversed(alone), strict=True):
        assert one.predictions == pytest.approx(other.predictions, abs=1e-5)


def test_a_model_is_not_apart_from_itself(pair):
    for apart in compare(pair[0], pair[0].copy(), STATEMENTS, kl_to, with_states=True):
        assert apart == pytest.approx((0.0, 0.0), abs=1e-6)


def test_broken_weights_are_an_error_and_no_figure(pair):
    broken = pair[0].copy()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(math.nan)
    with pytest.raises(NumericalError, match="not finite"):
        compare(broken, pair[1], STATEMENTS, kl_to)
