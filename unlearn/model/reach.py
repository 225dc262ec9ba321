"""Whether what is added to an MLP's answer arrives in the residual stream as it is."""

from __future__ import annotations

import torch

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
    options = {"use_cache": False} if accepts(lm.model, "use_cache") else {}
    with forward_only(lm.model), capture(lm.model, [module, block]) as seen:
        lm.model(input_ids=ids, **options)
    answer, before = seen[module], seen[block].float()
    noise = torch.randn(answer.shape, generator=torch.Generator().manual_seed(0))
    # As long as the stream, or narrow types would lose it in the sum.
    length = before.reshape(-1, before.shape[-1]).norm(dim=-1).reshape(*answer.shape[:-1], 1)
    added = torch.nn.functional.normalize(noise, dim=-1).to(length.device) * length
    change = {module: lambda old: old + added.to(old.dtype)}
    with forward_only(lm.model), patch(lm.model, change), capture(lm.model, [block]) as seen:
        lm.model(input_ids=ids, **options)
    arrived = (seen[block].float() - before).flatten()
    share = float(arrived @ added.flatten() / added.flatten().square().sum())
    if float((arrived - share * added.flatten()).norm()) > _tolerance(lm) * float(arrived.norm()):
        raise UnsupportedError(
            f"layer {layer} of {lm.source} has a norm behind its MLP, so what an edit adds to an "
            "answer does not arrive as it is; choose another strategy, for instance gradient-ascent"
        )
    return share


def _tolerance(lm: LanguageModel) -> float:
    """How far rounding alone may turn a direction in the model's type."""
    return max(CLOSE, 8 * torch.finfo(lm.dtype).eps)
