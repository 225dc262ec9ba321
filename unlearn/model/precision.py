"""Copies of a model at the precisions it is served in.

Weights are rounded by torchao as weight-only quantisation rounds them and multiplied out again, so
the copy runs anywhere and gives what the quantised model gives up to the rounding of activations.
Rounding is to nearest; embeddings, norms and the unembedding stay as they are, as most loaders keep
them. Calibrated methods (GPTQ, AWQ) choose other roundings and may bring back more, or less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.types import nearest

GROUP = 32
"""Weights along the input that share a step in int4."""


SMALLEST_GROUP = 8
"""Where nothing from 8 to 32 divides the width, the whole row is one group."""


class Grid(NamedTuple):
    """The integers that a precision rounds to."""

    lowest: int
    highest: int
    grouped: bool
    """Whether groups of a row have a step of their own; else each row has one."""


GRIDS: Mapping[str, Grid] = {"int8": Grid(-128, 127, False), "int4": Grid(-8, 7, True)}
PRECISIONS = ("bf16", *GRIDS)


def at_precision(lm: LanguageModel, precision: str) -> LanguageModel:
    """A copy whose weights carry no more than ``bf16``, ``int8`` or ``int4`` holds.

    int8 has one step for each output, int4 one for each 32 inputs of an output (the largest divisor
    of the width from 8 up, where 32 is none; else for the whole row). The copy has the dtype of the
    model, and a digest and source of its own.

    Raises:
        ConfigError: a precision that is not known.
        UnsupportedError: a model without a linear layer.
    """
    _check(precision)
    copy = lm.copy()
    copy.source = f"{lm.source} in {precision}"
    with torch.no_grad():
        if precision == "bf16":
            for parameter in copy.model.parameters():
                if parameter.is_floating_point():
                    parameter.copy_(parameter.to(torch.bfloat16))
        else:
            for _, weight in quantised_weights(copy):
                weight.copy_(rounded(weight, precision))
    copy.changed()
    return copy


def rounded(weight: Tensor, precision: str) -> Tensor:
    """A weight of rows (outputs) and columns (inputs), rounded to the grid of a precision."""
    ao, grid, block = _ao(), GRIDS[precision], _block(weight, precision)
    scale, zero = _step(weight, precision)
    limits = {"quant_min": grid.lowest, "quant_max": grid.highest}
    integers = ao.quantize_affine(weight.float(), block, scale, zero, torch.int8, **limits)
    values: Tensor = ao.dequantize_affine(integers, block, scale, zero, torch.int8, **limits)
    return values.to(weight.dtype)


class Undone(NamedTuple):
    """How much of a change is too small for a precision."""

    share: float
    """Of the weights that changed, those that changed by less than half a step, in 0..1. Higher:
    rounding undoes more of the change."""
    changed: int
    """How many weights changed."""


def share_below_half_step(
    original: LanguageModel, changed: LanguageModel, precision: str
) -> dict[str, Undone]:
    """For each weight that changed, and for all as ``""``, the share that rounding can undo.

    A weight that moved by less than half a step usually rounds to the value it had before, so
    forgetting by many small moves can come back (Zhang et al. 2024, arXiv 2410.16454). A high share
    is a reason to measure the copy, and no finding: the few weights that do cross move by a whole
    step, and together can carry the change. On the lab 97 % lay below and nothing came back in
    int4. Steps are those of the original. Weights that quantisation leaves alone are not counted.
    In bf16 the step is taken as the spacing of numbers at the weight.

    Raises:
        ConfigError: a precision that is not known.
        UnsupportedError: models of different layout.
    """
    _check(precision)
    after = dict(quantised_weights(changed))
    found: dict[str, Undone] = {}
    small = total = 0
    for name, before in quantised_weights(original):
        if name not in after or after[name].shape != before.shape:
            raise UnsupportedError(f"the models differ in {name}, so their weights do not compare")
        move = (after[name].float() - before.float()).abs()
        moved = move > 0
        count = int(moved.sum())
        if count:
            below = int((moved & (move < half_step(before, precision))).sum())
            found[name] = Undone(below / count, count)
            small, total = small + below, total + count
    if total:
        found[""] = Undone(small / total, total)
    return found


def half_step(weight: Tensor, precision: str) -> Tensor:
    """Half the distance between neighbouring values at each place of a weight."""
    if precision == "bf16":
        # Eight bits of mantissa: numbers from 2^e to 2^(e+1) are 2^(e-7) apart.
        exponent = torch.floor(torch.log2(weight.float().abs().clamp_min(1e-38)))
        return torch.exp2(exponent - 8)
    scale, _ = _step(weight, precision)
    columns = weight.shape[1] // scale.shape[1]
    return scale.repeat_interleave(columns, dim=1) / 2


def quantised_weights(lm: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of every linear layer but the unembedding, outputs first."""
    unembedding = lm.model.get_output_embeddings()
    found = False
    for name, module in lm.model.named_modules():
        if module is unembedding:
            continue
        if isinstance(module, torch.nn.Linear):
            found = True
            yield f"{name}.weight", module.weight.data
        elif isinstance(module, Conv1D):
            found = True
            yield f"{name}.weight", module.weight.data.T
    if not found:
        raise UnsupportedError("the model has no linear layer that quantisation would round")


def _check(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(f"{precision!r} is no precision{nearest(precision, PRECISIONS)}")


def _step(weight: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Step and zero point of each group, (outputs, groups)."""
    ao, grid, block = _ao(), GRIDS[precision], _block(weight, precision)
    scale, zero = ao.choose_qparams_affine(
        weight.float(),
        ao.MappingType.SYMMETRIC_NO_CLIPPING_ERR,
        block,
        torch.int8,
        grid.lowest,
        grid.highest,
        eps=torch.finfo(torch.float32).tiny,
        keepdim=False,
    )
    shape = (weight.shape[0], weight.shape[1] // block[1])
    return scale.reshape(shape), zero.reshape(shape)


def _block(weight: Tensor, precision: str) -> tuple[int, int]:
    width = weight.shape[1]
    if not GRIDS[precision].grouped:
        return 1, width
    fitting = (
        size for size in range(min(GROUP, width), SMALLEST_GROUP - 1, -1) if not width % size
    )
    return 1, next(fitting, width)


def _ao() -> Any:
    from unlearn.model.quiet import quiet_import

    with quiet_import():
        from torchao.quantization import quant_primitives
    return quant_primitives
