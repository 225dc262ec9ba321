"""What every forward pass has in common that measures and does not train."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's forward pass takes an argument of that name."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(bare.forward).parameters


def pad_right(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of a batch, (text, position) each.

    With padding on the right every text starts at position 0, so a model's default positions hold.
    """
    width = max(len(ids) for ids in texts)
    tokens = torch.zeros(len(texts), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    return tokens, mask


@contextmanager
def forward_only(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients until the block ends; then each module's mode as it was.

    Not ``inference_mode``: buffers that a model fills lazily would stay unusable for training.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def differentiable(network: torch.nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Gradients for these weights alone until the block ends."""
    before = [(p, p.requires_grad) for p in network.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        with forward_only(network), torch.enable_grad():
            yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
