"""How much memory a stretch of work takes."""

from __future__ import annotations

import ctypes
import gc
import threading
from types import TracebackType

import psutil

INTERVAL = 0.005
"""Seconds between two looks."""


class Peak:
    """The most memory that the process held beyond what it held when the block began, in MiB.

    A thread looks every 5 ms: the peak of the process itself would be that of the imports. What was
    freed before is given back to the system first, where that can be asked for (glibc): a block
    that took pages which lie ready would seem to need none.

    >>> with Peak() as peak:                                       # doctest: +SKIP
    ...     work()
    >>> peak.mib                                                   # doctest: +SKIP
    """

    def __enter__(self) -> Peak:
        _give_back()
        self.process = psutil.Process()
        self.before = self.highest = self._held()
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.done.set()
        self.watcher.join()

    @property
    def mib(self) -> float:
        """So far, or of the whole block once it has ended."""
        return self.highest - self.before

    def _watch(self) -> None:
        while not self.done.wait(INTERVAL):
            self.highest = max(self.highest, self._held())

    def _held(self) -> float:
        held: int = self.process.memory_info().rss
        return held / 2**20


def _give_back() -> None:
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
