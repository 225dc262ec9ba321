"""Causal tracing: what comes back when one state of a corrupted run is clean again. Exact and fast.

A corrupted run in which the stream at token t is clean again after block l differs from the
corrupted run only in blocks above l and at tokens from t on. So only those are computed: rows start
at their own block, the rows of all cells of a token go through the decoder in one sweep, keys and
values of earlier tokens come from the corrupted run, and logits are taken only where they are read.
With N corrupted rows, L blocks and T' tokens from the first corrupted one on, all (t, l) cost
N T'(T'+1)/2 L(L-1)/2 block-tokens, where a whole forward pass for every cell costs N T² L².

The definitions are those of Meng et al. 2022 (ROME); ``Cell`` says where a choice was open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearn.errors import ConfigError, NumericalError, UnsupportedError
from unlearn.model.anatomy import Anatomy
from unlearn.model.corruption import Pair
from unlearn.model.forward import accepts, forward_only
from unlearn.model.hooks import first, replace_first
from unlearn.model.restart import split_call
from unlearn.model.runs import Part, Run, part_name, recorded
from unlearn.model.sweep import Cell, Decoder, Readout, Sweeper

__all__ = ["Cell", "Pair", "Readout", "Traced", "Tracer"]

REFUSALS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    UnsupportedError,
    ValueError,
)
"""How the caches of architectures say that they cannot go on from a prefix; there is no one way."""


class Traced(NamedTuple):
    """Scores, each the mean over corrupted rows."""

    clean: float
    corrupted: float
    cells: list[float]
    """Of the corrupted run with each cell restored, in the order of the cells."""
    refined: tuple[int, ...] = ()
    """Of estimates: the cells that were run after all. Of runs: none."""


class Tracer:
    """Runs cells of prompts on one model, which it leaves as it was.

    >>> tracer = Tracer(model.model, model.anatomy)                        # doctest: +SKIP
    >>> tracer.trace(pair, [Cell.hidden(3, 0)], readout).cells             # doctest: +SKIP
    [0.42]

    The first prompt, and any that is longer than those before, is also run the plain way in two
    cells. Where going on from cached keys and values does not give the same, whole prompts are run
    through the remaining blocks; where that does not either, the model is refused.
    """

    def __init__(
        self, model: Any, anatomy: Anatomy, *, max_rows: int = 256, reuse_prefix: bool = True
    ) -> None:
        if max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}; it must be at least 1")
        self.decoder = Decoder(model, anatomy)
        self.max_rows = max_rows
        """How many rows go through a block at a time: bounds memory."""
        self.reuses_prefix = reuse_prefix and accepts(model, "past_key_values")
        """Whether keys and values of earlier tokens are taken from the corrupted run."""
        self._proven = 0
        """The longest prompt that was compared with a plain run."""

    def trace(self, pair: Pair, cells: Sequence[Cell], readout: Readout) -> Traced:
        """The scores of the clean run, the corrupted run and every cell.

        Raises:
            UnsupportedError: the model cannot be run block by block.
            NumericalError: its logits are not finite.
        """
        parts = {cell.part for cell in cells if cell.part is not None}
        decoder, score = self.decoder, readout.score
        scores, corrupted = torch.zeros(len(cells), dtype=torch.float64), 0.0
        with forward_only(decoder.model):
            whole = Pair(
                pair.clean.to(decoder.device), pair.corrupted.to(decoder.device), pair.noise
            )
            clean = self._record(whole.clean[None], parts)
            for piece in whole.pieces(self.max_rows):
                sweeper = self._sweeper(piece, clean, parts, readout)
                share = piece.n_rows / pair.n_rows
                nothing = share * float(score(sweeper.corrupted_logits).mean())
                corrupted += nothing
                live = [i for i, cell in enumerate(cells) if sweeper.can_act(cell)]
                scores[sorted(set(range(len(cells))) - set(live))] += nothing
                some = [cells[index] for index in live]
                for indices, logits in sweeper.logits(some, self.max_rows, self.reuses_prefix):
                    means = score(logits).double().reshape(len(indices), -1).mean(1)
                    scores[[live[index] for index in indices]] += share * means.cpu()
            known = float(score(sweeper.head(clean.stream[decoder.n_layers])).mean())
        return Traced(known, corrupted, scores.tolist())

    def layers_with(self, part: Part) -> tuple[int, ...]:
        """The blocks that have the part."""
        anatomy = self.decoder.anatomy
        layers = range(anatomy.n_layers)
        return tuple(i for i in layers if part_name(anatomy, part, i) is not None)

    def _record(self, ids: Tensor, parts: set[Part]) -> Run:
        with recorded(self.decoder.model, self.decoder.anatomy, parts) as run:
            self.decoder.forward(ids)
        return run

    def _sweeper(self, pair: Pair, clean: Run, parts: set[Part], readout: Readout) -> Sweeper:
        with self.decoder.noise(pair, torch.arange(pair.n_rows), slice(None)):
            corrupted = self._record(pair.corrupted, parts)
        sweeper = Sweeper(self.decoder, pair, clean, corrupted, readout)
        if pair.n_tokens > self._proven:
            # Two rows show whether rows keep apart; more would only cost more.
            self._prove(sweeper.rows(2))
        return sweeper

    def _prove(self, sweeper: Sweeper) -> None:
        """Settles how prompts are run, by comparing two cells with plain forward passes."""
        pair, why = sweeper.pair, ""
        token = min(max(pair.first, 1), sweeper.readout.positions[0])
        # From the first block on, so that every block is tried, and from the middle, so that a
        # block that reads what an earlier one computed is found out.
        cells = [Cell(token, entry, True) for entry in (0, max(1, self.decoder.n_layers // 2))]
        expected = torch.cat([self._plain(sweeper, cell) for cell in cells])
        if not bool(torch.isfinite(expected).all()):
            raise NumericalError(
                "the model's logits are not finite; its weights are broken, or its dtype is too "
                "narrow (try float32)"
            )
        # Rounding is some eps of the logits; a wrong restart loses a good part of the effect.
        eps = torch.finfo(self.decoder.model.dtype).eps
        effect = expected - sweeper.corrupted_logits.repeat(len(cells), 1, 1)
        close = float(0.01 * effect.norm() + 32 * eps * expected.norm())
        for reuse in (True, False) if self.reuses_prefix else (False,):
            try:
                runs = [logits for _, logits in sweeper.logits(cells, self.max_rows, reuse)]
            except torch.OutOfMemoryError:
                raise
            except REFUSALS as error:
                why = f" ({type(error).__name__}: {error})"
                continue
            if float((torch.cat(runs) - expected).norm()) <= close:
                self.reuses_prefix, self._proven = reuse, pair.n_tokens
                return
        raise UnsupportedError(
            f"{type(self.decoder.model).__name__} gives other results when it is restarted at a "
            f"block{why}; its blocks share more than the stream, so it cannot be traced"
        )

    def _plain(self, sweeper: Sweeper, cell: Cell) -> Tensor:
        """Logits with the stream clean again where it enters the cell's block, by one hook."""
        pair, decoder = sweeper.pair, self.decoder

        def restore(stream: Tensor) -> Tensor:
            stream = stream.clone()
            stream[:, cell.token] = sweeper.clean.stream[cell.entry][:, cell.token]
            return stream

        def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            stream, call = split_call(args, kwargs)
            return call.arguments(restore(stream))

        def leaving(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return replace_first(output, restore(first(output)))

        with decoder.noise(pair, torch.arange(pair.n_rows), slice(None)):
            if cell.entry < decoder.n_layers:
                block = decoder.blocks[cell.entry]
                handle = block.register_forward_pre_hook(entering, with_kwargs=True)
            else:
                handle = decoder.blocks[-1].register_forward_hook(leaving)
            try:
                output = decoder.model(input_ids=pair.corrupted, **decoder.without_cache)
            finally:
                handle.remove()
        logits: Tensor = output.logits[:, list(sweeper.readout.positions)]
        return logits.float()
