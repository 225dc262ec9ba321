"""Attribution patching: what restoring each state would bring back, estimated from gradients.

One clean forward pass, and one forward and backward pass for each corrupted row, give estimates for
every cell of a prompt at once: the score's gradient at a state of the corrupted run, times how far
the clean state is from it (Nanda 2023; Syed et al. 2023). It is a screen. The estimate is the slope
at the corrupted run, and a state far from the clean one may lie on a curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearn.errors import NumericalError
from unlearn.model.anatomy import Anatomy
from unlearn.model.corruption import Pair
from unlearn.model.forward import accepts, differentiable, forward_only
from unlearn.model.hooks import first, replace_first
from unlearn.model.restart import split_call
from unlearn.model.runs import Part, Run, edited, recorded
from unlearn.model.sweep import Cell, Decoder, Readout
from unlearn.model.tracing import Traced, Tracer


class Attributor:
    """Estimates cells of prompts on one model, which it leaves as it was.

    >>> Attributor(model.model, model.anatomy).trace(pair, cells, readout).cells  # doctest: +SKIP

    Args:
        model: the network.
        anatomy: its parts.
        refine: how many cells of each prompt, those with the largest estimates, are then run.
        max_rows: how many corrupted rows go through the model at a time.
    """

    def __init__(
        self, model: Any, anatomy: Anatomy, *, refine: int = 0, max_rows: int = 256
    ) -> None:
        self.tracer = Tracer(model, anatomy, max_rows=max_rows)
        self.refine = refine
        self.max_rows = max_rows

    def layers_with(self, part: Part) -> tuple[int, ...]:
        """The blocks that have the part."""
        return self.tracer.layers_with(part)

    def trace(self, pair: Pair, cells: Sequence[Cell], readout: Readout) -> Traced:
        """Scores of the clean and the corrupted run, and estimates of the cells' scores.

        A cell of a window is the sum over its blocks, which counts twice what one of them would
        bring back through the next. Cells that sever a part have no estimate.

        Raises:
            UnsupportedError: the model changes its stream between blocks.
            NumericalError: a gradient that is no finite number.
        """
        assert all(cell.clean for cell in cells), "severed runs have no estimate"
        decoder = self.tracer.decoder
        parts = {cell.part for cell in cells if cell.part is not None}
        whole = pair.to(decoder.device)
        with forward_only(decoder.model):
            clean, known = _scored_run(decoder, whole.clean[None], parts, readout)
        effects, corrupted = torch.zeros(len(cells), dtype=torch.float64), 0.0
        for piece in whole.pieces(self.max_rows):
            slopes = _slopes(decoder, piece, parts, readout)
            share = piece.n_rows / pair.n_rows
            corrupted += share * float(slopes.scores.mean())
            effects += share * torch.tensor(
                [_estimate(cell, clean, slopes) for cell in cells], dtype=torch.float64
            )
        if not bool(torch.isfinite(effects).all()):
            raise NumericalError("a gradient is not finite; load the model with dtype float32")
        estimates = Traced(float(known.mean()), corrupted, (effects + corrupted).tolist())
        return self._refined(estimates, effects, pair, cells, readout)

    def _refined(
        self,
        estimates: Traced,
        effects: Tensor,
        pair: Pair,
        cells: Sequence[Cell],
        readout: Readout,
    ) -> Traced:
        """The estimates, with the largest of them replaced by exact scores."""
        order = sorted(range(len(cells)), key=lambda index: -abs(float(effects[index])))
        chosen = tuple(sorted(order[: self.refine]))
        if not chosen:
            return estimates
        exact = self.tracer.trace(pair, [cells[index] for index in chosen], readout)
        scores = list(estimates.cells)
        for index, score in zip(chosen, exact.cells, strict=True):
            scores[index] = score
        return Traced(exact.clean, exact.corrupted, scores, chosen)


class _Slopes(NamedTuple):
    run: Run
    """The corrupted run."""
    scores: Tensor
    """(row,)"""
    stream: dict[int, Tensor]
    """Gradients of each row's score, keyed and shaped as the run's states."""
    parts: dict[tuple[Part, int], Tensor]


def _estimate(cell: Cell, clean: Run, slopes: _Slopes) -> float:
    """The mean over rows of what the cell would add to the score, to first order."""

    def term(good: Tensor, bad: Tensor, slope: Tensor) -> float:
        change = good[:, cell.token].double() - bad[:, cell.token].double()
        return float((change * slope[:, cell.token].double()).sum(-1).mean())

    total = 0.0
    if cell.restores_stream and cell.entry in slopes.stream:
        run = slopes.run.stream
        total += term(clean.stream[cell.entry], run[cell.entry], slopes.stream[cell.entry])
    for layer in range(cell.first, cell.last):
        key = (cell.part, layer)
        if cell.part is not None and key in slopes.parts:
            total += term(clean.parts[key], slopes.run.parts[key], slopes.parts[key])
    return total


def _slopes(decoder: Decoder, pair: Pair, parts: set[Part], readout: Readout) -> _Slopes:
    with (
        differentiable(decoder.model, []),
        decoder.noise(pair, torch.arange(pair.n_rows), slice(None)),
        _shifted(decoder, parts) as shifts,
    ):
        run, scores = _scored_run(decoder, pair.corrupted, parts, readout)
        keys = [*shifts.stream, *shifts.parts]
        tensors = [*shifts.stream.values(), *shifts.parts.values()]
        found = torch.autograd.grad(scores.sum(), tensors, allow_unused=True)
    slopes = {key: slope for key, slope in zip(keys, found, strict=True) if slope is not None}
    return _Slopes(
        run,
        scores.detach(),
        {key: slopes[key] for key in shifts.stream if key in slopes},
        {key: slopes[key] for key in shifts.parts if key in slopes},
    )


@contextmanager
def _shifted(decoder: Decoder, parts: set[Part]) -> Iterator[Run]:
    """A block in which every state has a zero added whose gradient can be asked for."""
    shifts = Run()

    def shifted(keep: dict[Any, Tensor], key: Any, state: Tensor) -> Tensor:
        keep[key] = torch.zeros_like(state).requires_grad_()
        return state + keep[key]

    def leaving(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return replace_first(output, shifted(shifts.stream, layer + 1, first(output)))

        return hook

    def adding(part: Part, layer: int) -> Any:
        return lambda added: shifted(shifts.parts, (part, layer), added)

    layers = range(decoder.n_layers)
    edits = {(part, layer): adding(part, layer) for part in parts for layer in layers}
    shape: dict[int, Any] = {}

    def entering(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            shape[layer] = split_call(args, kwargs)[0].shape

        return hook

    with ExitStack() as hooks:
        for layer, block in enumerate(decoder.blocks):
            before = block.register_forward_pre_hook(entering(layer), with_kwargs=True)
            for handle in (before, block.register_forward_hook(leaving(layer))):
                hooks.callback(handle.remove)
        hooks.enter_context(edited(decoder.model, decoder.anatomy, edits, shape.__getitem__))
        yield shifts


def _scored_run(
    decoder: Decoder, ids: Tensor, parts: set[Part], readout: Readout
) -> tuple[Run, Tensor]:
    """A recorded run of the model and its score, (row,)."""
    positions = torch.tensor(readout.positions)
    options = dict(decoder.without_cache)
    kept = ids.shape[1]
    if accepts(decoder.model, "logits_to_keep"):
        kept -= int(positions.min())
        options["logits_to_keep"] = kept
    with recorded(decoder.model, decoder.anatomy, parts) as run:
        logits: Tensor = decoder.model(input_ids=ids, **options).logits
    read = positions - (ids.shape[1] - kept)
    return run, readout.score(logits[:, read].float())
