"""One recorded run of a decoder: its residual stream and what attention and MLP added to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlearn.errors import UnsupportedError
from unlearn.model.anatomy import Anatomy
from unlearn.model.hooks import first, replace_first
from unlearn.model.restart import split_call

Part = Literal["mlp", "attention"]
"""A part of a block that adds to the residual stream."""

Edit = Callable[[Tensor], Tensor | None]
"""Gets what a part adds, (row, position, width); returns what it shall add, or None to keep it."""


@dataclass
class Run:
    """What a run computed, for the positions it was run on."""

    stream: dict[int, Tensor] = field(default_factory=dict)
    """Block index to what goes into the block, (row, token, width); ``n_layers`` is what comes out
    of the last one."""
    parts: dict[tuple[Part, int], Tensor] = field(default_factory=dict)
    """Part and block index to what the part puts out, (row, token, width), before any norm after
    it and without the stream."""
    templates: dict[int, Any] = field(default_factory=dict)
    """Block index to the form of its output, the stream left out."""

    def rows(self, n_rows: int) -> Run:
        """The first rows of the run."""
        stream = {layer: tensor[:n_rows] for layer, tensor in self.stream.items()}
        return Run(stream, {key: part[:n_rows] for key, part in self.parts.items()}, self.templates)


def part_name(anatomy: Anatomy, part: Part, layer: int) -> str | None:
    """The module whose output is what the part adds; None where the block has no such part."""
    return anatomy.mlp_contribution(layer) if part == "mlp" else anatomy.attention[layer]


@contextmanager
def recorded(model: nn.Module, anatomy: Anatomy, parts: Collection[Part]) -> Iterator[Run]:
    """A run, filled as the body calls the model once.

    Raises:
        UnsupportedError: what comes out of a block is not what goes into the next.
    """
    run = Run()

    def keep(part: Part, layer: int) -> Edit:
        def edit(added: Tensor) -> None:
            run.parts[part, layer] = added.detach().clone()

        return edit

    layers = range(anatomy.n_layers)
    with ExitStack() as hooks:
        for layer in layers:
            block = model.get_submodule(anatomy.layers[layer])
            entering = _entering_hook(run, layer, type(model).__name__)
            leaving = _leaving_hook(run, layer)
            for handle in (
                block.register_forward_pre_hook(entering, with_kwargs=True),
                block.register_forward_hook(leaving),
            ):
                hooks.callback(handle.remove)
        edits = {(part, layer): keep(part, layer) for part in parts for layer in layers}
        hooks.enter_context(edited(model, anatomy, edits, lambda layer: run.stream[layer].shape))
        yield run


def _entering_hook(run: Run, layer: int, model_name: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = split_call(args, kwargs)[0].detach()
        before = run.stream.get(layer)
        if before is not None and not torch.equal(before, stream):
            raise UnsupportedError(
                f"{model_name} changes its stream between blocks {layer - 1} and {layer}; it "
                "cannot be traced block by block"
            )
        run.stream[layer] = stream.clone()

    return hook


def _leaving_hook(run: Run, layer: int) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stream = first(output).detach()
        # A copy: some decoders go on to add to it in place.
        run.stream[layer + 1] = stream.clone()
        run.templates[layer] = replace_first(output, stream[:0])

    return hook


@contextmanager
def edited(
    model: nn.Module,
    anatomy: Anatomy,
    edits: Mapping[tuple[Part, int], Edit],
    shape: Callable[[int], tuple[int, ...]],
) -> Iterator[None]:
    """A block in which what attention and MLPs add passes through ``edits``.

    Args:
        model: the model; it is left as it was.
        anatomy: its parts.
        edits: part and block index to the edit; blocks without such a part are passed over.
        shape: of the stream in the block at the moment: some MLPs put out flattened positions.
    """
    with ExitStack() as hooks:
        for (part, layer), edit in edits.items():
            name = part_name(anatomy, part, layer)
            if name is None:
                continue
            module = model.get_submodule(name)
            hook = _edit_hook(edit, layer, shape, name in anatomy.adds_residual)
            hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def _edit_hook(
    edit: Edit, layer: int, shape: Callable[[int], tuple[int, ...]], adds_residual: bool
) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        out = first(output)
        n_rows, n_positions = shape(layer)[:2]
        if out.numel() % (n_rows * n_positions):
            raise UnsupportedError(f"block {layer} has a part whose output has no positions")
        added = out
        if adds_residual:
            call = inspect.signature(module.forward).bind(*args, **kwargs)
            residual = call.arguments["residual"]
            added = out - residual
        new = edit(added.reshape(n_rows, n_positions, -1))
        if new is None:
            return None
        new = new.reshape(out.shape)
        return replace_first(output, new + residual if adds_residual else new)

    return hook
