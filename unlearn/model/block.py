"""The parts of one block of a decoder, found by structure. Names are relative to the block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from unlearn.errors import AnatomyError


class BlockParts(NamedTuple):
    """What a block is made of; None for what it does not have."""

    attention: str | None
    mlp: str | None
    down_projection: str | None
    missing: str = ""
    """Why there is no down-projection."""


def find_block_parts(
    block: nn.Module, hidden: int, given: Mapping[str, str | None], where: str
) -> BlockParts:
    """The parts of one block.

    Args:
        block: the block.
        hidden: the width of the residual stream.
        given: parts that are known already and not searched for.
        where: what messages call the block, such as ``block 3``.

    Raises:
        AnatomyError: a part that cannot be told from the others.
    """
    mixers = [name for name, child in block.named_children() if _mixes_tokens(name, child)]
    if given.get("attention"):
        mixers.append(str(given["attention"]))
    attention = given["attention"] if "attention" in given else _attention(block, mixers, where)
    if "down_projection" in given:
        down = given["down_projection"]
        projection = _Projection(down, down, f"{where} has no down-projection, by override")
    else:
        projection = _projection(block, mixers, hidden, where)
    mlp = given["mlp"] if "mlp" in given else _mlp(block, projection, hidden)
    why = projection.missing if projection.name is None else ""
    return BlockParts(attention, mlp, projection.name, why)


def unresolved(part: str, why: str, example: str) -> AnatomyError:
    """The error for a part that was not found: why, and how to name it."""
    return AnatomyError(f"{part}: {why}. Name it: find_anatomy(model, {part}={example!r})")


def children_of(block: nn.Module) -> str:
    """The children of a module and their classes, for messages."""
    children = [f"{name} ({type(child).__name__})" for name, child in block.named_children()]
    return ", ".join(children) or type(block).__name__


def _mixes_tokens(name: str, child: nn.Module) -> bool:
    """Whether a child of a block carries something from one position to another."""
    if not any(parameter.ndim > 1 for parameter in child.parameters()):
        return False
    convolves = any(isinstance(m, nn.Conv1d) and m.kernel_size[0] > 1 for m in child.modules())
    return convolves or _is_attention(name, child) or "mixer" in type(child).__name__.lower()


def _is_attention(name: str, child: nn.Module) -> bool:
    return re.search("attn|attention", f"{name} {type(child).__name__}".lower()) is not None


def _attention(block: nn.Module, mixers: Sequence[str], where: str) -> str | None:
    named = [name for name in mixers if _is_attention(name, block.get_submodule(name))]
    candidates = named or list(mixers)
    if len(candidates) > 1:  # self-attention beside cross-attention
        candidates = [name for name in candidates if "self" in name] or candidates
    if len(candidates) > 1:
        why = f"several children mix tokens in {where}: {', '.join(candidates)}"
        raise unresolved("attention", why, candidates[0])
    return candidates[0] if candidates else None


class _Projection(NamedTuple):
    name: str | None
    anchor: str | None
    """Something inside the MLP."""
    missing: str = ""


def _projection(block: nn.Module, mixers: Sequence[str], hidden: int, where: str) -> _Projection:
    matrices = dict(_matrices(block, mixers))
    inner = {
        name: widths.fan_in
        for name, widths in matrices.items()
        if widths.fan_out == hidden and widths.fan_in != hidden
    }
    experts = _fused_experts(block, mixers, hidden) or _listed_experts(block, list(inner))
    if experts is not None:
        why = f"{where} spreads its MLP over experts ({experts}), there is no one down-projection"
        return _Projection(None, experts, why)
    if not matrices:
        return _Projection(None, None, f"{where} has no MLP, only {children_of(block)}")
    # Side paths (low-rank or per-layer inputs) return to the stream too, from smaller widths.
    widest = [name for name, fan_in in inner.items() if fan_in == max(inner.values())]
    if len(widest) == 1:
        return _Projection(widest[0], widest[0])
    found = f"{' and '.join(widest)} are equally wide" if widest else "none does"
    why = (
        f"in {where} one matrix should map a width other than {hidden} to {hidden}, {found} "
        f"(the block holds {children_of(block)})"
    )
    raise unresolved("down_projection", why, (widest or [list(matrices)[-1]])[0])


def _matrices(block: nn.Module, mixers: Sequence[str]) -> Iterator[tuple[str, _Widths]]:
    """The linear maps of a block outside its mixers; of a wrapped one only the wrapper."""
    passed = list(mixers)
    for name, module in block.named_modules():
        if any(f"{name}.".startswith(f"{outer}.") for outer in passed):
            continue
        widths = _widths(module)
        if widths is not None:
            passed.append(name)
            yield name, widths


class _Widths(NamedTuple):
    fan_in: int
    fan_out: int


def _widths(module: nn.Module) -> _Widths | None:
    """What a linear map takes and gives, None for anything else."""
    weight = getattr(module, "weight", None)
    if isinstance(module, Conv1D):  # stored transposed
        return _Widths(*module.weight.shape)
    fan_in, fan_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(fan_in, int) and isinstance(fan_out, int):  # packed and wrapped weights as well
        return _Widths(fan_in, fan_out)
    if (
        isinstance(weight, nn.Parameter)
        and weight.ndim == 2
        and not isinstance(module, nn.Embedding)
    ):
        return _Widths(weight.shape[1], weight.shape[0])
    return None


def _fused_experts(block: nn.Module, mixers: Sequence[str], hidden: int) -> str | None:
    """The module whose parameters hold the matrices of all experts, one slice each."""
    for name, parameter in block.named_parameters():
        inside = any(name.startswith(f"{mixer}.") for mixer in mixers)
        stacked = parameter.ndim == 3 and hidden in parameter.shape[1:] and min(parameter.shape) > 1
        if stacked and not inside:
            return name.rpartition(".")[0] or name
    return None


def _listed_experts(block: nn.Module, names: Sequence[str]) -> str | None:
    """The module list or dict that holds one of the named matrices."""
    for name in names:
        parts = name.split(".")
        for outer in (".".join(parts[:end]) for end in range(1, len(parts))):
            if isinstance(block.get_submodule(outer), nn.ModuleList | nn.ModuleDict):
                return outer
    return None


def _mlp(block: nn.Module, projection: _Projection, hidden: int) -> str | None:
    """The child that holds the whole MLP, None where its matrices hang on the block."""
    if projection.anchor is None or "." not in projection.anchor:
        return None
    child = projection.anchor.partition(".")[0]
    inside = _matrices(block.get_submodule(child), ())
    reads_stream = any(widths.fan_in == hidden for _, widths in inside)
    return child if reads_stream or projection.name is None else None
