"""Which weights differ between two models of one shape, by how much, and in which blocks."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn.errors import UnsupportedError
from unlearn.model.language_model import LanguageModel


@dataclass(frozen=True)
class WeightChange:
    """How far one tensor moved."""

    name: str
    layer: int | None
    """The block it belongs to; None outside the blocks."""
    distance: float
    """Frobenius norm of the difference."""
    relative: float
    """``distance`` over the norm of the tensor before, 0 and up; infinite where that was 0."""
    share: float
    """How many of its entries differ at all, in 0..1."""


def weight_changes(before: LanguageModel, after: LanguageModel) -> tuple[WeightChange, ...]:
    """The tensors that differ, in the model's order; tied tensors count once.

    Raises:
        UnsupportedError: the two do not have the same parameters of the same shapes.
    """
    old, new = (dict(lm.model.named_parameters()) for lm in (before, after))
    shapes = [{name: tuple(t.shape) for name, t in one.items()} for one in (old, new)]
    if shapes[0] != shapes[1]:
        names = shapes[0].keys() | shapes[1].keys()
        differing = {name for name in names if shapes[0].get(name) != shapes[1].get(name)}
        raise UnsupportedError(
            f"{before.source} and {after.source} have {len(differing)} parameters that the other "
            f"lacks or has in another shape, the first of them {min(differing)!r}; weights can "
            "only be compared between models of one architecture"
        )
    found = []
    for name, tensor in old.items():
        was = tensor.detach().double().cpu()
        moved = new[name].detach().double().cpu() - was
        n_moved = int(moved.count_nonzero())
        if n_moved:
            distance, norm = float(moved.norm()), float(was.norm())
            relative = distance / norm if norm else float("inf")
            layer = before.anatomy.layer_of(name)
            found.append(WeightChange(name, layer, distance, relative, n_moved / moved.numel()))
    return tuple(found)


def touched_layers(changes: tuple[WeightChange, ...]) -> tuple[int, ...]:
    """The blocks with a changed tensor, in order."""
    return tuple(sorted({change.layer for change in changes if change.layer is not None}))
