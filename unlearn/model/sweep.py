"""Sweeps: many corrupted runs, each with something restored, through the decoder at once.

A run that is like the corrupted one up to a block starts at that block. All such runs of one token
share a sweep: the rows of a cell join where the cell begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from unlearn.model.anatomy import Anatomy
from unlearn.model.corruption import Pair, embedding_noise
from unlearn.model.forward import accepts
from unlearn.model.restart import Call, Segment, final_stream, recorded_calls, split_call, stubbed
from unlearn.model.runs import Edit, Part, Run, edited


class Cell(NamedTuple):
    """One run: what is clean again at one token of a corrupted run, and what stays corrupted.

    ``hidden``, ``window`` and ``severed`` make the three kinds.
    """

    token: int
    entry: int
    """The first block that differs from the corrupted run."""
    restores_stream: bool
    """Whether the stream at the token is clean where it goes into block ``entry``."""
    part: Part | None = None
    """The part whose output at the token is set in blocks ``first`` to ``last - 1``."""
    first: int = 0
    last: int = 0
    clean: bool = True
    """Whether it is set to the clean run's output, or held at the corrupted run's."""

    @classmethod
    def hidden(cls, token: int, layer: int) -> Cell:
        """The stream at ``token`` is clean again after block ``layer``."""
        return cls(token, layer + 1, True)

    @classmethod
    def window(cls, token: int, part: Part, layers: range) -> Cell:
        """What the part puts out at ``token`` is clean again in these consecutive blocks."""
        return cls(token, layers.start, False, part, layers.start, layers.stop)

    @classmethod
    def severed(cls, token: int, layer: int, part: Part, n_layers: int) -> Cell:
        """``hidden``, but in later blocks the part puts out at ``token`` what it did corrupted.

        What comes back comes back without that part at that token.
        """
        return cls(token, layer + 1, True, part, layer + 1, n_layers, clean=False)


@dataclass(frozen=True)
class Readout:
    """Where logits are read, and what is made of them."""

    positions: tuple[int, ...]
    """Of the tokens whose next token is scored; none before the last restored token."""
    score: Callable[[Tensor], Tensor]
    """From float32 logits (row, position, vocabulary) to one score a row. Higher: better known."""


class Decoder:
    """A model as sweeps need it: its blocks, and forward passes that compute no logits in vain."""

    def __init__(self, model: Any, anatomy: Anatomy) -> None:
        self.model = model
        self.anatomy = anatomy
        self.blocks: list[nn.Module] = [model.get_submodule(name) for name in anatomy.layers]

    @property
    def n_layers(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where token ids must be put."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def forward(self, ids: Tensor, **options: Any) -> Any:
        """What the model puts out, without the unembedding: no logits are in it."""
        if accepts(self.model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        head = self.model.get_submodule(self.anatomy.unembedding)
        with stubbed([head], lambda index, args, kwargs: split_call(args, kwargs)[0]):
            return self.model(input_ids=ids, **{**self.without_cache, **options})

    def head(self, ids: Tensor, stream: Tensor, templates: Sequence[Any]) -> Tensor:
        """What the model makes of a last block's output, (row, position, vocab), float32.

        Args:
            ids: the tokens the stream stands at, (row, position).
            stream: (row, position, width).
            templates: the form of each block's output; see ``Run``.
        """
        with final_stream(self.blocks, templates, stream):
            output = self.model(input_ids=ids, **self.without_cache)
        logits: Tensor = output.logits
        return logits.float()

    @property
    def without_cache(self) -> dict[str, Any]:
        """The option that keeps a forward pass from filling a cache."""
        return {"use_cache": False} if accepts(self.model, "use_cache") else {}

    def noise(self, pair: Pair, rows: Tensor, positions: slice) -> Any:
        """A block in which the embedding adds the pair's noise."""
        return embedding_noise(self.model, self.anatomy.embedding, pair, rows, positions)


class Sweeper:
    """One prompt, recorded clean and corrupted, whose cells are run in sweeps."""

    def __init__(
        self, decoder: Decoder, pair: Pair, clean: Run, corrupted: Run, readout: Readout
    ) -> None:
        self.decoder = decoder
        self.pair = pair
        self.clean = clean
        self.corrupted = corrupted
        self.readout = readout
        self._first = pair.first
        self._templates = [corrupted.templates[layer] for layer in range(decoder.n_layers)]

    def rows(self, n_rows: int) -> Sweeper:
        """The same prompt with at most so many of its corrupted rows."""
        pair = next(self.pair.pieces(n_rows))
        corrupted = self.corrupted.rows(n_rows)
        return Sweeper(self.decoder, pair, self.clean, corrupted, self.readout)

    def can_act(self, cell: Cell) -> bool:
        """Whether the cell can differ from the corrupted run where logits are read.

        Not before the first corrupted token, and not behind the last block at an unread token.
        """
        reaches = cell.entry < self.decoder.n_layers or cell.token in self.readout.positions
        return reaches and cell.token >= self._first

    def logits(
        self, cells: Sequence[Cell], max_rows: int, reuse_prefix: bool
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Logits of the cells' runs, at most ``max_rows`` rows at a time (one cell at least).

        Each item holds indices of cells, and float32 logits (cell * corrupted row, read position,
        vocabulary).
        """
        order = sorted(
            range(len(cells)), key=lambda index: (cells[index].token, cells[index].entry)
        )
        per_sweep = max(1, max_rows // self.pair.n_rows)
        segments = Segments(self.decoder, self.pair, self._templates, reuse_prefix)
        for token, group in groupby(order, key=lambda index: cells[index].token):
            segment, indices = segments.at(token), list(group)
            for at in range(0, len(indices), per_sweep):
                some = indices[at : at + per_sweep]
                stream = self._sweep(segment, [cells[index] for index in some])
                yield some, self.head(stream, segment.start)

    @property
    def corrupted_logits(self) -> Tensor:
        """``head`` of the corrupted run with nothing restored."""
        return self.head(self.corrupted.stream[self.decoder.n_layers])

    def head(self, stream: Tensor, start: int = 0) -> Tensor:
        """What the model makes of its last block's output at the read positions.

        Args:
            stream: (row, position, width).
            start: the position in the prompt of its first one.

        Returns:
            Logits (row, read position, vocabulary), float32.
        """
        positions = list(self.readout.positions)
        read = stream[:, [position - start for position in positions]]
        # The head works on each position alone, so the prompt may be cut down to those read.
        ids = self.pair.corrupted[:1, positions].expand(len(read), -1)
        return self.decoder.head(ids, read, self._templates)

    def _sweep(self, segment: Segment, cells: Sequence[Cell]) -> Tensor:
        """The last block's output of all cells' rows, (cell * row, position, width).

        ``cells`` are of one token and in order of entry, so the rows of a cell follow those of the
        cells before it, in every block.
        """
        decoder, each = self.decoder, torch.arange(self.pair.n_rows, device=self.decoder.device)
        stream = self.corrupted.stream[cells[0].entry][:0, segment.start :]
        edits = self._edits(cells, segment.start)
        n_positions = self.pair.n_tokens - segment.start

        def shape(layer: int) -> tuple[int, int]:
            return len(each) * sum(cell.entry <= layer for cell in cells), n_positions

        with edited(decoder.model, decoder.anatomy, edits, shape):
            for layer in range(cells[0].entry, decoder.n_layers + 1):
                entering = [cell for cell in cells if cell.entry == layer]
                stream = torch.cat([stream, *(self._entry(c, segment.start) for c in entering)])
                if layer < decoder.n_layers:
                    rows = each.repeat(len(stream) // len(each))
                    stream = segment.run(layer, decoder.blocks[layer], stream, rows)
        return stream

    def _entry(self, cell: Cell, start: int) -> Tensor:
        """What goes into the cell's first block, (row, position, width)."""
        stream = self.corrupted.stream[cell.entry][:, start:]
        if cell.restores_stream:
            stream = stream.clone()
            stream[:, cell.token - start] = self.clean.stream[cell.entry][:, cell.token]
        return stream

    def _edits(self, cells: Sequence[Cell], start: int) -> Mapping[tuple[Part, int], Edit]:
        targets: dict[tuple[Part, int], list[int]] = {}
        for index, cell in enumerate(cells):
            if cell.part is not None:
                for layer in range(cell.first, cell.last):
                    targets.setdefault((cell.part, layer), []).append(index)
        return {key: self._edit(cells, key, where, start) for key, where in targets.items()}

    def _edit(
        self, cells: Sequence[Cell], key: tuple[Part, int], where: Sequence[int], start: int
    ) -> Edit:
        n_rows, token = self.pair.n_rows, cells[0].token

        def edit(added: Tensor) -> Tensor:
            added = added.clone()
            for index in where:
                source = self.clean if cells[index].clean else self.corrupted
                rows = slice(index * n_rows, (index + 1) * n_rows)
                added[rows, token - start] = source.parts[key][:, token]
            return added

        return edit


class Segments:
    """The ends of a prompt, from any token on, asked for in order of tokens."""

    def __init__(
        self, decoder: Decoder, pair: Pair, templates: Sequence[Any], reuse_prefix: bool
    ) -> None:
        self.decoder = decoder
        self.pair = pair
        self.templates = templates
        self.reuse_prefix = reuse_prefix
        self._whole: Segment | None = None
        self._cache: Cache | None = None
        self._cached = 0
        """How many tokens the cache holds."""

    def at(self, token: int) -> Segment:
        """The prompt from ``token`` on, or all of it where no prefix is reused."""
        if not self.reuse_prefix or token == 0:
            self._whole = self._whole or self._record(0, None)
            return self._whole
        if token > self._cached:
            rows, positions = torch.arange(self.pair.n_rows), slice(self._cached, token)
            with self.decoder.noise(self.pair, rows, positions):
                output = self.decoder.forward(
                    self.pair.corrupted[:, positions], use_cache=True, past_key_values=self._cache
                )
            self._cache, self._cached = output.past_key_values, token
        return self._record(token, self._cache)

    def _record(self, start: int, cache: Cache | None) -> Segment:
        rows = torch.arange(self.pair.n_rows)
        one_more = torch.cat([rows, rows[:1]])
        return Segment(
            self._calls(rows, start, cache), self._calls(one_more, start, cache), start, cache
        )

    def _calls(self, rows: Tensor, start: int, cache: Cache | None) -> list[Call]:
        options = {} if cache is None else {"use_cache": True, "past_key_values": cache}
        ids = self.pair.corrupted[rows.to(self.pair.corrupted.device), start:]
        with (
            self.decoder.noise(self.pair, rows, slice(start, None)),
            recorded_calls(self.decoder.blocks, self.templates) as calls,
        ):
            self.decoder.forward(ids, **options)
        return calls
