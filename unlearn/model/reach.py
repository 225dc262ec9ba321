"""Whether what is added to an MLP's answer arrives in the residual stream as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.errors import UnsupportedError
from unlearn.model.forward import accepts, forward_only
from unlearn.model.hooks import capture, patch
from unlearn.model.language_model import LanguageModel

CLOSE = 1e-3
"""Relative error up to which a change counts as handed on unchanged."""


@torch.no_grad()
def reach(lm: LanguageModel, layer: int) -> float:
    """How much of what is added to the MLP's answer the block puts out in addition; mostly 1.

    Raises:
        UnsupportedError: what arrives points elsewhere, because a norm stands behind the MLP. There
            the length of an answer means nothing, and adding to it changes the rest of it.
    """
    module, block = lm.anatomy.require_down_projection(layer), lm.anatomy.layers[layer]
    ids = torch.tensor([[0, lm.vocabulary_size - 1]], device=lm.device)
    with forward_only(lm.model), capture(lm.model, [module, block]) as seen:
        lm.model(input_ids=ids, **_without_cache(lm))
    answer, before = seen[module], seen[block].float()
    noise = torch.randn(answer.shape, generator=torch.Generator().manual_seed(0))
    # As long as the stream, or narrow types would lose it in the sum.
    length = before.reshape(-1, before.shape[-1]).norm(dim=-1).reshape(*answer.shape[:-1], 1)
    added = torch.nn.functional.normalize(noise, dim=-1).to(length.device) * length
    # Twice as much, because what is far longer than the answer passes a norm in its own direction.
    expected = torch.cat([added.flatten(), 2 * added.flatten()])
    arrived = torch.cat([_arriving(lm, layer, ids, times * added) - before for times in (1, 2)])
    share = float(arrived.flatten() @ expected / expected.square().sum())
    error = arrived.flatten() - share * expected
    if float(error.norm()) > _tolerance(lm) * float(arrived.norm()):
        raise UnsupportedError(
            f"layer {layer} of {lm.source} has a norm behind its MLP, so what an edit adds to an "
            "answer does not arrive as it is; choose another strategy, for instance gradient-ascent"
        )
    return share


def _arriving(lm: LanguageModel, layer: int, ids: Tensor, added: Tensor) -> Tensor:
    """What the block puts out where this is added to the answer of its MLP."""
    module, block = lm.anatomy.require_down_projection(layer), lm.anatomy.layers[layer]
    change = {module: lambda old: old + added.to(old.dtype)}
    with forward_only(lm.model), patch(lm.model, change), capture(lm.model, [block]) as seen:
        lm.model(input_ids=ids, **_without_cache(lm))
    return seen[block].float()


def _without_cache(lm: LanguageModel) -> dict[str, bool]:
    return {"use_cache": False} if accepts(lm.model, "use_cache") else {}


def _tolerance(lm: LanguageModel) -> float:
    """How far rounding alone may turn a direction in the model's type."""
    return max(CLOSE, 8 * torch.finfo(lm.dtype).eps)
