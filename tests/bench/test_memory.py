"""The peak of memory against an allocation of known size."""

import mmap
import time

import numpy as np
import pytest

from unlearn.bench.memory import Peak


def held(mib: int) -> None:
    """Hold so much for a while: pages of its own, where an array may get ones that lie ready."""
    with mmap.mmap(-1, mib * 2**20) as pages:
        for _ in range(mib):
            pages.write(b"x" * 2**20)
        time.sleep(0.05)


def test_the_peak_is_that_of_the_block_even_below_an_earlier_one() -> None:
    held(256)  # gone when the block begins
    with Peak() as peak:
        held(64)
    assert 56 < peak.mib < 96


def test_pages_that_lie_ready_count_as_taken() -> None:
    # Blocks below the allocator's threshold stay with the process when they are freed.
    before = [np.ones(2**13) for _ in range(1024)]  # 64 MiB
    fence = np.ones(2**13)
    del before
    with Peak() as peak:
        again = [np.ones(2**13) for _ in range(1024)]
        time.sleep(0.05)
        del again
    assert peak.mib > 48
    del fence


def test_the_watch_ends_with_the_block_also_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), Peak() as peak:
        raise ZeroDivisionError
    assert not peak.watcher.is_alive()
