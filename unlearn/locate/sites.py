"""What locators share: the modules to choose from, and the sites at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel
from torch import Tensor

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.types import Sites


class Candidate(NamedTuple):
    """One module of a decoder block that a locator may choose."""

    name: str
    layer: int
    part: Literal["mlp", "attention"]
    """``mlp``: whatever does not mix tokens."""
    weights: tuple[Tensor, ...]
    """Its own weight matrices; fused experts are stacks of matrices."""
    size: int
    """How many parameters it has of its own, biases included."""


def candidates(model: LanguageModel) -> tuple[Candidate, ...]:
    """Every module inside the decoder blocks that owns a weight matrix, in the model's order.

    A matrix that several modules share counts for the first of them.

    Raises:
        UnsupportedError: there is none with floating-point weights.
    """
    found: list[Candidate] = []
    seen: set[int] = set()
    for name, module in model.model.named_modules():
        layer = model.anatomy.layer_of(name)
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        weights = tuple(p for p in own if p.ndim >= 2 and p.is_floating_point())
        if layer is not None and weights:
            seen.update(map(id, own))
            attention = model.anatomy.attention[layer]
            inside = attention is not None and f"{name}.".startswith(f"{attention}.")
            part: Literal["mlp", "attention"] = "attention" if inside else "mlp"
            found.append(Candidate(name, layer, part, weights, sum(p.numel() for p in own)))
    if not found:
        raise UnsupportedError(
            f"{model.source} has no floating-point weight matrix in its decoder blocks; load it "
            "without quantisation"
        )
    return tuple(found)


def n_parameters(among: Iterable[Candidate]) -> int:
    """How many parameters the candidates have together."""
    return sum(candidate.size for candidate in among)


def build_sites(
    method: str,
    model: LanguageModel,
    forget_set: ForgetSet,
    config: BaseModel,
    seed: int,
    *,
    layers: tuple[int, ...] | None = None,
    modules: tuple[str, ...] | None = None,
    chosen: Sequence[Candidate] | None = None,
    scores: Mapping[str, float] | None = None,
) -> Sites:
    """The sites with everything that says how they were found.

    ``chosen`` stands for the names of these candidates; the share of the blocks' parameters that
    they have is kept among the settings, so that a control of the same size can be drawn.
    """
    settings = {
        key: ",".join(map(str, value)) if isinstance(value, (tuple, list)) else value
        for key, value in config.model_dump().items()
    }
    if chosen is not None:
        modules = tuple(candidate.name for candidate in chosen)
        share = n_parameters(chosen) / n_parameters(candidates(model))
        settings["share_of_parameters"] = round(share, 4)
    return Sites(
        method=method,
        layers=layers,
        modules=modules,
        scores=scores or {},
        settings=settings,
        seed=seed,
        model_digest=model.digest,
        forget_set_digest=forget_set.digest,
    )
