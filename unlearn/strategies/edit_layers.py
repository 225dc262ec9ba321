"""Where an edit may act: down-projections whose answers reach the stream as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unlearn.errors import UnsupportedError
from unlearn.model.forward import accepts, forward_only
from unlearn.model.hooks import capture, patch
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.sites import find_scope
from unlearn.types import Sites

CLOSE = 1e-3
"""Relative error up to which a change counts as handed on unchanged."""


def editable_layers(lm: LanguageModel, sites: Sites | None) -> tuple[int, ...]:
    """The layers whose down-projection the sites let change, in order.

    Raises:
        UnsupportedError: there is none, the model's MLPs are made of experts or followed by a norm,
            or the weights are packed.
    """
    weights = {p: layer for layer, p in _weights(lm).items()}
    if not weights:
        lm.anatomy.require_down_projection(0)
    scope = find_scope(lm, sites)
    layers = sorted(weights[name] for name in scope.trainable if name in weights)
    if not layers:
        names = ", ".join(list(weights)[:2])
        raise UnsupportedError(
            f"the sites leave no down-projection free, and an edit changes nothing else; name "
            f"layers, or modules that hold one such as {names}"
        )
    for layer in layers:
        _refuse_shared(lm, layer)
        reach(lm, layer)
    return tuple(layers)


def weight_of(lm: LanguageModel, layer: int) -> nn.Parameter:
    """The weight of the layer's down-projection, as it is stored."""
    module = lm.model.get_submodule(lm.anatomy.require_down_projection(layer))
    weight: nn.Parameter = module.weight
    return weight


@torch.no_grad()
def add_change(lm: LanguageModel, layer: int, change: Tensor) -> None:
    """W + ΔW (out, in), summed in float64 and rounded once; ``lm`` is written to."""
    weight = weight_of(lm, layer)
    stored = change.T if _is_transposed(lm, layer) else change
    weight.copy_((weight.double() + stored.to(weight.device)).to(weight.dtype))
    lm.changed()


def spread(layers: Sequence[int], last: int, n: int) -> tuple[int, ...]:
    """Up to ``n`` of the layers, the last of them ``last``."""
    return tuple(layer for layer in layers if layer <= last)[-n:]


def _is_transposed(lm: LanguageModel, layer: int) -> bool:
    """Whether the weight is stored (in, out), as in GPT-2."""
    name = lm.anatomy.require_down_projection(layer)
    return isinstance(lm.model.get_submodule(name), Conv1D)


def _weights(lm: LanguageModel) -> dict[int, str]:
    """Layer to the name of its down-projection's weight, where it is a plain matrix of floats."""
    names = {}
    for layer, name in enumerate(lm.anatomy.down_projection):
        if name is None:
            continue
        weight = getattr(lm.model.get_submodule(name), "weight", None)
        if getattr(lm.model, "is_quantized", False) or not (
            isinstance(weight, nn.Parameter) and weight.ndim == 2 and weight.is_floating_point()
        ):
            raise UnsupportedError(
                f"{name} of {lm.source} is no plain matrix (quantised or wrapped), so it cannot be "
                "edited; load the full-precision weights"
            )
        names[layer] = f"{name}.weight"
    return names


def _refuse_shared(lm: LanguageModel, layer: int) -> None:
    name = f"{lm.anatomy.require_down_projection(layer)}.weight"
    weight = weight_of(lm, layer)
    everywhere = lm.model.named_parameters(remove_duplicate=False)
    others = [other for other, p in everywhere if p is weight and other != name]
    if others:
        raise UnsupportedError(
            f"{name} is also {others[0]}, so an edit of one layer would change another; choose "
            "another strategy"
        )


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
