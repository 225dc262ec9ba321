"""When neurons fire, by hand in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unlearn.strategies.patch_losses import activation, memory, separation, weakest


def test_activation_falls_as_neurons_open() -> None:
    own = torch.tensor([0.0, 2.0, -1.0])
    assert float(activation(own)) == pytest.approx((1 + math.exp(-2) + math.e) / 3)
    assert activation(own + 1) < activation(own)


def test_memory_counts_the_largest_alone() -> None:
    others = torch.tensor([[-5.0, 0.0], [1.0, -9.0]])
    expected = np.mean(np.exp(np.array([1.0, 0.0]) + 3))
    assert float(memory(others, -3.0, top=2)) == pytest.approx(expected)
    every = np.mean(np.exp(others.numpy() + 3))
    assert float(memory(others, -3.0, top=1000)) == pytest.approx(every, rel=1e-6)


def test_separation_sets_each_neuron_against_its_own_weakest_spot() -> None:
    own = torch.tensor([4.0, 1.0, 2.0])
    least = weakest(own, torch.tensor([0, 1, 0]), 2)
    assert least.tolist() == [2.0, 1.0]
    others = torch.tensor([[0.0, 0.0], [-2.0, 3.0]])
    expected = np.mean(np.exp(np.array([[0 - 2, 0 - 1], [-2 - 2, 3 - 1]]) + 3.0))
    assert float(separation(least, others, 3.0, top=10)) == pytest.approx(expected, rel=1e-6)


def test_nothing_overflows_and_the_gradient_stays_finite() -> None:
    others = torch.full((2, 2), 1e4, requires_grad=True)
    loss = memory(others, -3.0, 2)
    loss.backward()
    assert torch.isfinite(loss) and others.grad is not None and torch.isfinite(others.grad).all()
