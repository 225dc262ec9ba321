"""What answers are to look like, against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unlearn.strategies.ignorance import BAND, LowProbability, MaxEntropy, Refusal, Seen
from unlearn.strategies.predictions import Predictions
from unlearn.strategies.stopping import Target


def seen(label_probs: list[list[float]], vocabulary: int = 5, depths: int = 0) -> Seen:
    """Rows whose label is token 0 with these probabilities, the rest spread evenly."""
    flat = torch.tensor([p for row in label_probs for p in row], dtype=torch.float64)
    rest = ((1 - flat) / (vocabulary - 1))[:, None].expand(-1, vocabulary - 1)
    logprobs = torch.cat([flat[:, None], rest], 1).log().float()
    rows = torch.tensor([i for i, row in enumerate(label_probs) for _ in row])
    predictions = Predictions(
        logprobs, torch.zeros(len(flat), dtype=torch.long), rows, len(label_probs)
    )
    return Seen(predictions, torch.arange(len(label_probs)), (logprobs,) * depths)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def band(guess: list[float], before: list[float]) -> LowProbability:
    target = Target(-float(np.mean(np.log(guess))), 0.0, np.log(guess))
    return LowProbability([target], [np.log(before)])


def test_a_known_token_is_as_far_off_as_its_odds_are_above_those_of_unseen_names() -> None:
    loss = band([0.1, 0.2], [0.99, 0.99])(seen([[0.9, 0.5]]))
    assert float(loss) == pytest.approx(logit(0.9) - logit(0.1) + logit(0.5) - logit(0.2), rel=1e-4)


def test_inside_the_band_there_is_nothing_to_do() -> None:
    low = 1 / (1 + math.exp(BAND - 0.1 - logit(0.1)))
    assert float(band([0.1], [0.99])(seen([[low]]))) == 0
    assert float(band([0.1], [0.99])(seen([[0.0999]]))) == 0


def test_an_answer_that_became_impossible_is_off_too() -> None:
    loss = band([0.1], [0.99])(seen([[1e-5]]))
    assert float(loss) == pytest.approx(logit(0.1) - BAND - logit(1e-5), rel=1e-3)


def test_a_token_that_was_never_known_need_not_become_likelier() -> None:
    assert float(band([0.5], [1e-4])(seen([[1e-4]]))) == pytest.approx(0, abs=1e-3)


def test_without_a_guess_the_target_of_the_whole_record_stands_for_each_token() -> None:
    plain = LowProbability([Target(2.0, 0.0)], [np.log([0.9, 0.9])])
    loss = plain(seen([[0.9, math.exp(-2.5)]]))
    assert float(loss) == pytest.approx(logit(0.9) - logit(math.exp(-2)), rel=1e-4)


def test_a_certain_token_has_slope_although_its_log_probability_has_none() -> None:
    logits = torch.tensor([[25.0, 0, 0, 0, 0]], requires_grad=True)
    one = Predictions(logits.log_softmax(-1), torch.tensor([0]), torch.tensor([0]), 1)
    band([0.1], [0.99])(Seen(one, torch.tensor([0]))).sum().backward()
    assert logits.grad is not None and float(logits.grad[0, 0]) == pytest.approx(1, rel=1e-3)


def test_a_refusal_costs_its_negative_log_likelihood() -> None:
    loss = Refusal()(seen([[0.5, 0.25], [1 - 1e-7]]))
    np.testing.assert_allclose(loss.numpy(), [math.log(8), 0], atol=1e-5)


def test_entropy_is_lacking_by_its_distance_from_uniform_at_every_depth() -> None:
    even, sharp = seen([[0.2]]), seen([[0.96]])
    assert float(MaxEntropy()(even)) == pytest.approx(0, abs=1e-6)
    entropy = -(0.96 * math.log(0.96) + 0.04 * math.log(0.01))
    assert float(MaxEntropy()(sharp)) == pytest.approx(math.log(5) - entropy, rel=1e-5)
    mixed = sharp._replace(depths=(even.predictions.logprobs,))
    assert float(MaxEntropy()(mixed)) == pytest.approx((math.log(5) - entropy) / 2, rel=1e-5)
