"""Losses against closed forms, finite differences and brute force."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from unlearn.model.batches import IGNORED
from unlearn.strategies.losses import (
    ascent,
    inverted_hinge,
    log_odds,
    max_entropy,
    npo,
    preference,
    simnpo,
    weighted_ascent,
)
from unlearn.strategies.predictions import predict


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_npo_at_the_reference_is_two_over_beta_times_ln_two() -> None:
    value = npo(torch.tensor([-3.0]), torch.tensor([-3.0]), beta=0.1)
    assert value.item() == pytest.approx(20 * math.log(2))


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("difference", [-50.0, -10.0, -1.0, 0.0, 2.0])
def test_npo_is_the_softplus_of_the_log_ratio(beta: float, difference: float) -> None:
    value = npo(torch.tensor([-60 + difference]), torch.tensor([-60.0]), beta)
    expected = 2 / beta * math.log1p(math.exp(beta * difference))
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("rise", "weight"), [(0.0, 1.0), (1.0, 0.95), (10.0, 0.54), (50.0, 0.013)])
def test_npo_weights_ascent_by_a_factor_that_fades(rise: float, weight: float) -> None:
    logp = doubles(-2.0 - rise)
    npo(logp, torch.tensor([-2.0]), beta=0.1).sum().backward()
    assert logp.grad is not None
    assert logp.grad.item() == pytest.approx(weight, abs=0.005)


def test_npo_stays_finite_where_a_naive_log_of_sigmoid_does_not() -> None:
    logp = torch.tensor([0.0], requires_grad=True)
    value = npo(logp, torch.tensor([-2000.0]), beta=0.1)
    value.sum().backward()
    assert value.item() == pytest.approx(4000)
    assert logp.grad is not None and logp.grad.item() == pytest.approx(2)


def test_simnpo_is_a_softplus_of_margin_minus_scaled_nll() -> None:
    value = simnpo(torch.tensor([1.5]), beta=2.5, gamma=0.3)
    assert value.item() == pytest.approx(2 / 2.5 * math.log1p(math.exp(0.3 - 2.5 * 1.5)))


def test_ascent_gives_no_gradient_beyond_the_cap() -> None:
    nll = doubles(1.0, 30.0)
    value = ascent(nll, cap=20.0)
    value.sum().backward()
    assert value.tolist() == [-1.0, -20.0]
    assert nll.grad is not None and nll.grad.tolist() == [-1.0, 0.0]


def test_log_odds_are_log_p_minus_log_of_the_rest() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [1.0, 4.0, -2.0]]).double()
    labels = torch.tensor([0, 2, 1])
    p = logits.softmax(-1)[range(3), labels]
    found = log_odds(logits.log_softmax(-1), labels)
    assert torch.allclose(found, (p / (1 - p)).log())
    assert found[1].item() == pytest.approx(-math.log(2))


@pytest.mark.parametrize("logit", [-8.0, 0.0, 3.0, 12.0])
def test_log_odds_rise_by_one_with_the_logit_of_the_label(logit: float) -> None:
    logits = doubles(logit, 0.7, -0.4)
    log_odds(logits.log_softmax(-1)[None], torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].item() == pytest.approx(1)
    # The others share the fall, in the proportions they have among themselves.
    rest = torch.tensor([0.7, -0.4], dtype=torch.float64).softmax(-1)
    assert torch.allclose(logits.grad[1:], -rest)


def test_log_odds_have_a_slope_where_float32_holds_p_for_one() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    logprobs, label = logits.log_softmax(-1), torch.tensor([0])
    assert logprobs[0, 0].item() == 0.0
    found = log_odds(logprobs, label)
    found.sum().backward()
    assert found.item() == pytest.approx(40 - math.log(2))
    assert logits.grad is not None and logits.grad[0, 0].item() == pytest.approx(1, rel=1e-5)


def test_inverted_hinge_compares_the_label_with_the_best_other_token() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    value = inverted_hinge(probabilities.log(), torch.tensor([0, 1]))
    assert value.tolist() == pytest.approx([1 + 0.7 - 0.2, 1 + 0.3 - 0.6])


def test_weighted_ascent_pushes_a_token_in_proportion_to_its_probability() -> None:
    logprobs = torch.tensor([-0.1, -3.0], requires_grad=True)
    weighted_ascent(logprobs, 2.0).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([math.exp(-0.2), math.exp(-6.0)])


def test_max_entropy_is_the_divergence_from_uniform() -> None:
    uniform = torch.full((1, 5), -math.log(5))
    assert max_entropy(uniform).item() == pytest.approx(0, abs=1e-6)
    q = torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1]])
    expected = sum(0.2 * math.log(0.2 / value) for value in q[0].tolist())
    assert max_entropy(q.log()).item() == pytest.approx(expected, rel=1e-5)


def test_preference_falls_as_the_alternative_gains_and_is_npo_without_one() -> None:
    zero, answer = torch.zeros(2), torch.tensor([0.7, -2.0])
    assert torch.allclose(preference(zero, answer, 0.1), npo(answer, zero, 0.1))
    assert (preference(zero + 1, answer, 0.1) < preference(zero, answer, 0.1)).all()
    value = preference(torch.tensor([1.0]), torch.tensor([3.0]), 0.5)
    assert value.item() == pytest.approx(4 * math.log(1 + math.exp(1.0)))


def test_gradients_agree_with_finite_differences() -> None:
    logp, reference = doubles(-3.0, -0.1), doubles(-1.0, -2.0).detach()
    assert gradcheck(lambda x: npo(x, reference, 0.1), logp)
    assert gradcheck(lambda x: simnpo(x, 2.5, 0.1), doubles(0.3, 4.0))
    assert gradcheck(lambda x: ascent(x, 20.0), doubles(0.3, 4.0))
    logits = doubles(0.3, -1.2, 0.8, 0.1).reshape(1, 4)
    labels = torch.tensor([1])
    assert gradcheck(lambda x: inverted_hinge(x.log_softmax(-1), labels), logits)
    assert gradcheck(lambda x: log_odds(x.log_softmax(-1), labels), logits)
    assert gradcheck(lambda x: max_entropy(x.log_softmax(-1)), logits)
    assert gradcheck(lambda x: preference(x, reference, 0.3), logp)


LOGITS = torch.tensor(
    [
        [[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [9.0, 9.0, 9.0]],
        [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [9.0, 0.0, 9.0]],
    ]
)
LABELS = torch.tensor([[IGNORED, 0, 2], [IGNORED, IGNORED, 1]])


def test_predictions_read_the_position_before_each_label_and_no_other() -> None:
    found = predict(LOGITS, LABELS)
    by_hand = torch.stack(
        [
            LOGITS[0, 0].log_softmax(-1)[0],
            LOGITS[0, 1].log_softmax(-1)[2],
            LOGITS[1, 1].log_softmax(-1)[1],
        ]
    )
    assert torch.allclose(found.label_logprobs, by_hand)
    sums = found.sum_by_row(found.label_logprobs)
    assert torch.allclose(sums, torch.stack([by_hand[:2].sum(), by_hand[2]]))
    assert torch.allclose(found.mean_by_row(found.label_logprobs)[0], by_hand[:2].mean())
    assert found.greedy.tolist()[:2] == [True, True]


def test_logits_at_positions_without_a_label_receive_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    predict(logits, LABELS).label_logprobs.sum().backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(-1) > 0
    assert touched.tolist() == [[True, True, False], [False, True, False]]


def test_adding_a_constant_to_the_logits_changes_no_loss() -> None:
    def losses(logits: torch.Tensor) -> torch.Tensor:
        found = predict(logits, LABELS)
        logp = found.sum_by_row(found.label_logprobs)
        return torch.cat(
            [
                npo(logp, torch.tensor([-1.0, -2.0]), 0.1),
                simnpo(-logp, 2.5, 0.0),
                ascent(-logp, 20.0),
                inverted_hinge(found.logprobs, found.labels),
                log_odds(found.logprobs, found.labels),
                weighted_ascent(found.label_logprobs, 1.0),
                max_entropy(found.logprobs),
                preference(logp, torch.tensor([-1.0, -2.0]), 0.1),
            ]
        )

    assert torch.allclose(losses(LOGITS), losses(LOGITS + 64), atol=1e-5)


def test_narrow_logits_are_normalised_in_float32() -> None:
    logits = torch.zeros(1, 2, 300, dtype=torch.bfloat16)
    found = predict(logits, torch.tensor([[IGNORED, 7]]))
    assert found.logprobs.dtype == torch.float32
    assert found.label_logprobs.item() == pytest.approx(-math.log(300))
