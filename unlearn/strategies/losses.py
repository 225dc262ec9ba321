"""The losses of unlearning, as plain functions on float32 log-probabilities.

A forget loss falls while the model forgets, a retain loss while it keeps. Every function works on
normalised log-probabilities, never on raw logits, so adding a constant to the logits changes
nothing. Which positions count comes from the labels alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def log_odds(logprobs: Tensor, labels: Tensor) -> Tensor:
    """(N,) ``log p(label) - log(1 - p(label))``, higher = better known, unbounded on both sides.

    Its derivative in the label's logit is exactly 1, where that of ``log p`` is ``1 - p``: a token
    that is all but certain, which is what memorised means, gives ascent on ``log p`` nothing to
    climb. For small p the two are the same.
    """
    others = logprobs.scatter(-1, labels[:, None], -torch.inf)
    label = logprobs.gather(-1, labels[:, None]).squeeze(-1)
    return label - others.logsumexp(-1)


def npo(logp_sum: Tensor, reference_logp_sum: Tensor, beta: float) -> Tensor:
    """(B,) negative preference optimisation, bounded from below by 0.

    ``-(2/beta) log sigmoid(-beta (logp - logp_ref)) = (2/beta) softplus(beta (logp - logp_ref))``
    with *sums* of log-probabilities over the answer, or with the scores of single tokens, each
    bounded by itself; ``(2/beta) log 2`` at the reference. Its
    gradient is that of ascent times ``2 sigmoid(beta (logp - logp_ref))``, so it fades as the
    answer becomes less likely. Lower = more forgotten. Zhang et al. 2024, arXiv:2404.05868.
    With means in place of sums the same beta never leaves the regime of plain ascent.
    """
    return -(2 / beta) * F.logsigmoid(-beta * (logp_sum - reference_logp_sum))


def simnpo(nll_per_token: Tensor, beta: float, gamma: float) -> Tensor:
    """(B,) NPO without a reference model, on *means* over the answer, bounded from below by 0.

    ``-(2/beta) log sigmoid(beta nll - gamma) = (2/beta) softplus(gamma - beta nll)``.
    Lower = more forgotten. Fan et al. 2024, arXiv:2410.07163.
    """
    return -(2 / beta) * F.logsigmoid(beta * nll_per_token - gamma)


def ascent(nll_per_token: Tensor, cap: float) -> Tensor:
    """(B,) plain gradient ascent, ``-min(nll, cap)``: a record beyond the cap gives no gradient.

    Lower = more forgotten, down to ``-cap``. Jang et al. 2023, arXiv:2210.01504; without the cap it
    is unbounded and wrecks the model.
    """
    return -nll_per_token.clamp(max=cap)


def inverted_hinge(logprobs: Tensor, labels: Tensor) -> Tensor:
    """(N,) ``1 + p(label) - max over other tokens of p``, between 0 and 2.

    Lower = more forgotten; 1 where the label ties with the likeliest other token. Cha et al. 2024,
    arXiv:2408.06621. Only moves mass to the runner-up, so paraphrases may keep the answer.
    """
    others = logprobs.scatter(-1, labels[:, None], -torch.inf)
    label = logprobs.gather(-1, labels[:, None]).squeeze(-1)
    return 1 + label.exp() - others.amax(-1).exp()


def weighted_ascent(label_logprobs: Tensor, beta: float) -> Tensor:
    """(N,) ``p(label)^beta log p(label)``, the weight without a gradient; at most 0.

    Plain ascent whose push fades as the token becomes unlikely, so that what is forgotten is left
    alone. Its gradient is that of ``log p`` times the weight: the value itself may rise while a
    token is forgotten. Wang et al. 2025 (WGA), arXiv:2502.19301.
    """
    return (beta * label_logprobs.detach()).exp() * label_logprobs


def max_entropy(logprobs: Tensor) -> Tensor:
    """(N,) ``KL(uniform || model)`` over the vocabulary in nats, 0 where every token is as likely.

    Lower = more forgotten, and more than that: nobody who never knew an answer finds every token
    equally likely, so it overshoots unless it is stopped.
    """
    return -logprobs.mean(-1) - math.log(logprobs.shape[-1])


def preference(alternative: Tensor, answer: Tensor, beta: float) -> Tensor:
    """(B,) direct preference of another answer, bounded from below by 0.

    ``-(2/beta) log sigmoid(beta (alternative - answer))`` where both are *sums* of log-probability
    over the tokens, less that of the original (Rafailov et al. 2023). NPO is what is left where the
    alternative is left out. Lower = more forgotten. Mekala et al. 2024 (AltPO), arXiv:2409.13474.
    """
    return -(2 / beta) * F.logsigmoid(beta * (alternative - answer))
