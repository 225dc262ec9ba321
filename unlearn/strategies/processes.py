"""Several processes on one run, as ``accelerate launch -m unlearn forget`` and torchrun start them.

Each reads the model, draws the same records, and trains on its share of every step; gradients are
summed, so that all arrive at the same weights. What is decided, shown and written is up to the
first of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from unlearn.errors import UnsupportedError


class Place(NamedTuple):
    """Which process of how many this one is."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether it speaks and writes for all."""
        return self.rank == 0


def place() -> Place:
    """What the launcher says; the only process where nothing launched several."""
    if "LOCAL_RANK" not in os.environ:
        return Place(0, 1)
    return Place(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def joined(device: str) -> Iterator[None]:
    """A block in which the processes know one another and ``cuda`` is each one's own."""
    if place().size == 1:
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    yield
    # After an error the others wait in vain, and the launcher ends them.
    state.destroy_process_group()


def require_one(what: str) -> None:
    """Nothing, if this is the only process.

    Raises:
        UnsupportedError: there are several, and ``what`` has no use for them.
    """
    if place().size > 1:
        raise UnsupportedError(
            f"{what} runs in one process, and {place().size} were launched; call unlearn without "
            "a launcher"
        )


def summed(values: list[float]) -> list[float]:
    """The sum of each value over all processes."""
    if place().size == 1:
        return values
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    # float64 holds whole numbers of tokens exactly.
    mine = torch.tensor(values, dtype=torch.float64, device=PartialState().device)
    return [float(value) for value in reduce(mine, "sum")]


def as_the_first_says(answer: bool) -> bool:
    """The answer of the first process, for all: clocks differ, and a run has to end at once."""
    return bool(summed([float(answer and place().is_first)])[0])
