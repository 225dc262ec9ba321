"""Where an edit may act: down-projections whose answers reach the stream as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unlearn.errors import UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.reach import reach
from unlearn.strategies.sites import find_scope
from unlearn.types import Sites


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
    weight.copy_((weight.cpu().double() + stored.cpu()).to(weight.dtype))
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
