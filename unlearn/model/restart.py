"""Start a decoder in its middle: any block, on any rows, with what the decoder itself hands it.

What a block takes beside the residual stream (masks, rotary angles, inputs of its own layer) is
another thing in every architecture. So nothing here builds it: the decoder's own forward pass is
run with every block stubbed, which costs no block, and what each block would have got is kept.
Which dimension of a tensor counts rows is read off a second such pass with one row more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from unlearn.errors import UnsupportedError
from unlearn.model.hooks import first, replace_first


class Call(NamedTuple):
    """What a block is called with beside the stream."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    stream_key: str | None
    """The keyword of the stream; None where it is the first positional argument."""

    def arguments(self, stream: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """All arguments of the call, with this stream."""
        if self.stream_key is None:
            return (stream, *self.args), dict(self.kwargs)
        return self.args, {**self.kwargs, self.stream_key: stream}

    def on(self, block: nn.Module, stream: Tensor) -> Tensor:
        """The stream that the block puts out."""
        args, kwargs = self.arguments(stream)
        return first(block(*args, **kwargs))


def split_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Call]:
    """The stream of a block's call, and the rest of the call."""
    if args and isinstance(args[0], Tensor):
        return args[0], Call(args[1:], kwargs, None)
    for key, value in kwargs.items():
        if isinstance(value, Tensor):
            rest = {name: entry for name, entry in kwargs.items() if name != key}
            return value, Call(args, rest, key)
    raise UnsupportedError("a block was called without any tensor, so it has no stream to restart")


@contextmanager
def stubbed(
    blocks: Sequence[nn.Module], stub: Callable[[int, tuple[Any, ...], dict[str, Any]], Any]
) -> Iterator[None]:
    """A block in which each module returns ``stub(index, args, kwargs)`` and computes nothing."""
    before = [block.__dict__.get("forward") for block in blocks]

    def stand_in(index: int) -> Callable[..., Any]:
        return lambda *args, **kwargs: stub(index, args, kwargs)

    try:
        for index, block in enumerate(blocks):
            block.__dict__["forward"] = stand_in(index)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                block.__dict__.pop("forward", None)
            else:
                block.__dict__["forward"] = own


@contextmanager
def recorded_calls(blocks: Sequence[nn.Module], templates: Sequence[Any]) -> Iterator[list[Call]]:
    """The calls of all blocks, filled as the body runs the model; no block computes.

    Args:
        blocks: the blocks, in order.
        templates: what each block puts out, of any size; stubs answer in that form.
    """
    calls: list[Call] = []

    def stub(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream, call = split_call(args, kwargs)
        calls.append(call)
        return replace_first(templates[index], stream)

    with stubbed(blocks, stub):
        yield calls


@contextmanager
def final_stream(
    blocks: Sequence[nn.Module], templates: Sequence[Any], stream: Tensor
) -> Iterator[None]:
    """A block in which the decoder's last block puts out ``stream`` and no block computes."""

    def stub(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return replace_first(templates[index], stream)

    with stubbed(blocks, stub):
        yield


class Segment:
    """The last positions of a prompt, ready to be run through any block on any of its rows.

    Rows are chosen by their index among the rows the segment was recorded with, and may repeat.
    """

    def __init__(
        self, calls: Sequence[Call], one_more: Sequence[Call], start: int, cache: Cache | None
    ) -> None:
        self.calls = calls
        self.one_more = one_more
        self.start = start
        """The position of the first token; what stands before it is in the cache."""
        self.cache = cache

    def run(self, layer: int, block: nn.Module, stream: Tensor, rows: Tensor) -> Tensor:
        """The stream (row, position, width) that a block makes of ``stream``.

        Args:
            layer: index of the block.
            block: the block itself.
            stream: what goes in, one row for each entry of ``rows``.
            rows: which recorded row each row belongs to.
        """
        view = None if self.cache is None else view_of(self.cache, layer, rows)
        call, other = self.calls[layer], self.one_more[layer]
        args = tuple(
            take_rows(a, b, rows, view) for a, b in zip(call.args, other.args, strict=True)
        )
        kwargs = {
            key: take_rows(value, other.kwargs[key], rows, view)
            for key, value in call.kwargs.items()
        }
        return Call(args, kwargs, call.stream_key).on(block, stream)


def view_of(cache: Cache, layer: int, rows: Tensor) -> Cache:
    """A cache in which one layer holds the given rows; the original keeps what it has."""
    view = copy.copy(cache)
    # The shallow copy of a layer gets tensors of its own as soon as rows are selected.
    own: Any = copy.copy(cache.layers[layer])
    own.batch_select_indices(rows)
    view.layers = [*cache.layers[:layer], own, *cache.layers[layer + 1 :]]
    return view


def take_rows(value: Any, one_more: Any, rows: Tensor, cache: Cache | None) -> Any:
    """The argument for the given rows.

    Args:
        value: the argument as recorded.
        one_more: the same argument, recorded with one row more.
        rows: indices of recorded rows, (row,).
        cache: what takes the place of a cache.
    """
    if isinstance(value, Tensor):
        return _take_tensor(value, one_more, rows)
    if isinstance(value, Cache):
        return cache
    if isinstance(value, tuple | list):
        entries = [take_rows(a, b, rows, cache) for a, b in zip(value, one_more, strict=True)]
        make = getattr(value, "_make", type(value))
        return make(entries)
    if isinstance(value, dict):
        made = copy.copy(value)
        made.update({key: take_rows(v, one_more[key], rows, cache) for key, v in value.items()})
        return made
    return value


def _take_tensor(value: Tensor, one_more: Tensor, rows: Tensor) -> Tensor:
    if not isinstance(one_more, Tensor) or value.ndim != one_more.ndim:
        raise UnsupportedError("a block's inputs change their kind with the number of rows")
    grown = [d for d in range(value.ndim) if value.shape[d] != one_more.shape[d]]
    if not grown:
        return value
    if len(grown) > 1:
        raise UnsupportedError("a block's input has rows in more than one dimension")
    (dimension,) = grown
    # Some put the heads of all rows into one dimension: that many entries belong to each row.
    per_row = one_more.shape[dimension] - value.shape[dimension]
    index = rows[:, None] * per_row + torch.arange(per_row, device=rows.device)
    return value.index_select(dimension, index.flatten().to(value.device))
