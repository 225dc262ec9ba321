"""The peak of memory against an allocation of known size."""

import time

import numpy as np
import pytest

from unlearn.bench.memory import Peak


def test_the_peak_is_that_of_the_block_even_below_an_earlier_one() -> None:
    before = np.ones(2**25)  # 256 MiB, gone when the block begins
    del before
    with Peak() as peak:
        work = np.ones(2**23)  # 64 MiB
        time.sleep(0.05)
        del work
    assert 56 < peak.mib < 96


def test_the_watch_ends_with_the_block_also_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), Peak() as peak:
        raise ZeroDivisionError
    assert not peak.watcher.is_alive()
