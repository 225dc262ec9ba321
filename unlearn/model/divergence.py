"""How far two next-token distributions lie apart. All arguments are log-probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q) over the last dimension, in nats, 0 and up.

    0 where the two are equal, infinite where q rules out what p allows.
    """
    # 0 log 0 = 0: what p rules out has no part, whatever q says of it.
    terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
    return terms.sum(-1).clamp(min=0)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence over log 2 (Lin 1991), in 0..1.

    (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, divided by its maximum: 0 where the two are
    equal, 1 where nothing is possible in both.
    """
    middle = torch.logaddexp(p, q) - math.log(2)
    return ((kl_divergence(p, middle) + kl_divergence(q, middle)) / (2 * math.log(2))).clamp(max=1)
