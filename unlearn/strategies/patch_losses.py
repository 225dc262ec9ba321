"""When patch neurons fire: on what is to be forgotten, and on nothing else.

The losses of T-Patcher (Huang et al. 2023, arXiv:2301.09785, section 4.3), on what goes into the
activation function: above 0 a neuron is open, below it shut.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEEPEST = 20.0
"""Exponents are cut there: the gradient stays the largest that is of use."""


def activation(own: Tensor) -> Tensor:
    """Mean of ``exp(-a)`` over what each neuron is to fire on, (n,): lower = fires more surely."""
    return (-own).clamp(max=STEEPEST).exp().mean()


def memory(others: Tensor, beta: float, top: int) -> Tensor:
    """Mean of the ``top`` largest ``exp(a - β)``: lower = shut on what is to stay.

    Args:
        others: (token, neuron) pre-activations on what is to stay.
        beta: what they are to be below, in the paper -3.
        top: the largest count alone, or the many that are shut would hide those that are not.
    """
    return _largest((others - beta).clamp(max=STEEPEST).exp(), top)


def separation(own: Tensor, others: Tensor, gamma: float, top: int) -> Tensor:
    """Mean of the ``top`` largest ``exp(a_other - a_own + γ)``: lower = further apart.

    Args:
        own: (neuron,) the weakest pre-activation of each on what it is to fire on.
        others: (token, neuron)
        gamma: how far they are to be apart, in the paper 3.
        top: as in ``memory``.
    """
    return _largest((others - own + gamma).clamp(max=STEEPEST).exp(), top)


def weakest(own: Tensor, neurons: Tensor, n: int) -> Tensor:
    """(neuron,) the smallest of the pre-activations (n,) of each neuron's own spots."""
    found = torch.full((n,), torch.inf, dtype=own.dtype, device=own.device)
    return found.scatter_reduce(0, neurons, own, "amin")


def _largest(values: Tensor, top: int) -> Tensor:
    flat = values.flatten()
    return flat.topk(min(top, len(flat))).values.mean()
