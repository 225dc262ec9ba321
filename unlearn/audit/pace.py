"""How far an audit is: every pass and probe of models counts for a share of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unlearn.audit.subject import Progress


class Pace:
    """The progress of an audit from 0 to 1, told with what is going on.

    ``stages`` are the parts of one unit of work, for example scoring and generating.
    """

    def __init__(self, progress: Progress | None, units: int, stages: int = 1) -> None:
        self.progress = progress
        self.units = max(1, units)
        self.stages = max(1, stages)
        self._done = 0.0
        self._stage = 0
        self._what = ""

    @contextmanager
    def unit(self, what: str) -> Iterator[None]:
        """One unit of work; ``what`` completes a label such as "score the reference"."""
        self._what, self._stage = what, 0
        yield
        self._done += 1

    def skip(self) -> None:
        """One unit that needs no work."""
        self._done += 1

    def stage(self, verb: str, *, of_unit: bool = True) -> Progress | None:
        """A callback for the next part of the unit; None where nobody listens."""
        if self.progress is None:
            return None
        tell = self.progress
        parts = self.stages if of_unit else 1
        start = self._done + (self._stage / parts if of_unit else 0)
        self._stage += 1
        label = f"{verb} {self._what}".strip()
        return lambda _, fraction: tell(label, min(1.0, (start + fraction / parts) / self.units))
