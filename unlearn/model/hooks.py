"""Read and replace what modules compute, by name, for the length of a ``with`` block.

    with capture(model, ["model.layers.3"]) as states:
        model(ids)
    states["model.layers.3"]                       # (batch, position, width), detached

    with patch(model, {"model.layers.3.mlp": torch.zeros_like}):
        model(ids)

Blocks nest. Hooks run in the order in which their blocks were entered: a capture outside a patch of
the same module sees what the module computed, a capture inside sees what the patch made of it.
Weights are never touched and every hook is gone when its block ends, also by an exception.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from unlearn.errors import InputError

Positions = int | slice | Sequence[int] | Tensor
"""Token positions: one, a slice or several that hold for every row, or a tensor (batch, k) with
those of each row."""


class Captured(Mapping[str, Tensor]):
    """Module name to the detached tensor of its latest call."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            seen = ", ".join(self._tensors) or "nothing"
            raise KeyError(f"{name!r} was not computed in this block; captured so far: {seen}")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def clear(self) -> None:
        """Forget everything captured so far; the block goes on capturing."""
        self._tensors.clear()

    def _store(self, name: str, tensor: Tensor, positions: Positions | None) -> None:
        if positions is not None:
            if tensor.ndim < 3:
                shape = tuple(tensor.shape)
                raise InputError(f"{name!r} gives shape {shape}: it has no position dimension")
            tensor = _at(tensor, positions)
        # A copy: some models go on to add to their own outputs in place.
        self._tensors[name] = tensor.detach().clone()


@contextmanager
def capture(
    model: nn.Module,
    names: Iterable[str],
    *,
    inputs: bool = False,
    positions: Positions | None = None,
) -> Iterator[Captured]:
    """The outputs (or first inputs) of the named modules, filled as the body runs the model.

    Args:
        model: any module; it is left as it was.
        names: qualified module names.
        inputs: keep the first tensor that goes into each module instead of the one that comes out.
        positions: keep only these token positions (dimension 1, which stays, also for a single
            position).

    Raises:
        InputError: a name that is no module of the model, or positions of a module that works on
            flattened ones.
    """
    captured = Captured()

    def reader(name: str) -> Callable[..., None]:
        def read_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            captured._store(name, _first_input(name, args, kwargs), positions)

        def read_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            captured._store(name, first(output), positions)

        return read_input if inputs else read_output

    modules = {name: find_module(model, name) for name in names}
    with ExitStack() as hooks:
        for name, module in modules.items():
            if inputs:
                handle = module.register_forward_pre_hook(reader(name), with_kwargs=True)
            else:
                handle = module.register_forward_hook(reader(name))
            hooks.callback(handle.remove)
        yield captured


@contextmanager
def patch(
    model: nn.Module, replacements: Mapping[str, Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """A block in which each named module puts out ``fn(output)`` instead of its output.

    ``fn`` gets a copy of the output tensor (the first one, where the module returns several), may
    write into it, and returns a tensor of the same shape. Gradients pass through.

    Raises:
        InputError: a name that is no module of the model, or an ``fn`` whose result does not fit.
    """

    def writer(name: str, fn: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def write(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            old = first(output)
            new = fn(old.clone())
            _check_replacement(name, old, new)
            return replace_first(output, new)

        return write

    modules = {name: find_module(model, name) for name in replacements}
    with ExitStack() as hooks:
        for name, fn in replacements.items():
            handle = modules[name].register_forward_hook(writer(name, fn))
            hooks.callback(handle.remove)
        yield


def first(output: Any) -> Tensor:
    """The tensor of a module's output: itself, or the first entry of a tuple, list or model output.

    Raises:
        InputError: the output starts with something that is no tensor.
    """
    entry = output
    if isinstance(output, ModelOutput):
        entry = output[next(iter(output))]
    elif isinstance(output, tuple | list) and output:
        entry = output[0]
    if not isinstance(entry, Tensor):
        raise InputError(f"a module put out {type(entry).__name__} where a tensor was expected")
    return entry


def replace_first(output: Any, tensor: Tensor) -> Any:
    """The same kind of output with ``tensor`` in place of ``first(output)``; ``output`` is kept."""
    if isinstance(output, ModelOutput):
        changed = copy.copy(output)
        changed[next(iter(output))] = tensor
        return changed
    if isinstance(output, tuple | list):
        entries = [tensor, *output[1:]]
        make = getattr(output, "_make", type(output))
        return make(entries)
    return tensor


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The module of that qualified name; an empty name is the model itself.

    Raises:
        InputError: there is none; the message gives the nearest names.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = [known for known, _ in model.named_modules()]
        message = f"{type(model).__name__} has no module {name!r}.{nearest(name, known)}"
        raise InputError(message) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as `` Near: 'model.layers.0'.``, empty when nothing is near."""
    close = get_close_matches(name, list(known), n=3)
    return f" Near: {', '.join(map(repr, close))}." if close else ""


def _at(tensor: Tensor, positions: Positions) -> Tensor:
    if isinstance(positions, int):
        positions = [positions]
    if isinstance(positions, Tensor):
        positions = positions.to(tensor.device)
        if positions.ndim == 2:
            rows = torch.arange(len(tensor), device=tensor.device)[:, None]
            return tensor[rows, positions]
    return tensor[:, positions]


def _first_input(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    raise InputError(f"the module {name!r} was called without any tensor: no input to capture")


def _check_replacement(name: str, old: Tensor, new: object) -> None:
    if not isinstance(new, Tensor):
        raise InputError(f"the patch of {name!r} returned {type(new).__name__}, not a tensor")
    if new.shape != old.shape:
        shapes = f"{tuple(new.shape)} for an output of shape {tuple(old.shape)}"
        raise InputError(f"the patch of {name!r} returned a tensor of shape {shapes}")
