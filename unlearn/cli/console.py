"""What a command shows: its result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import click

from unlearn.cli.options import Options

Progress = Callable[[str, float], None]

QUIET_SECONDS = 5.0
"""Plain progress is no more frequent than this, so that a log stays readable."""


@contextmanager
def working(options: Options) -> Iterator[Progress]:
    """A progress callback for the work inside, on stderr: a bar on a terminal, else plain lines.

    What a library prints meanwhile goes to stderr too: stdout carries the result and nothing else.
    """
    with redirect_stdout(sys.stderr):
        if options.quiet:
            yield _silent
        elif sys.stderr.isatty():
            with _bar() as progress:
                yield progress
        else:
            yield PlainProgress(sys.stderr)


class PlainProgress:
    """Progress as lines: the end of each piece of work, and a line now and then before it."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.clock = clock
        self._last_line = ""
        self._last_time = clock()
        self._pace = Remaining(clock)

    def __call__(self, what: str, fraction: float) -> None:
        """Writes a line if the work is done, or if the last line was a while ago."""
        now = self.clock()
        left = self._pace.left(fraction)
        if fraction < 1 and now - self._last_time < QUIET_SECONDS:
            return
        line = f"{what}: {min(max(fraction, 0.0), 1.0):.0%}{left}"
        if line != self._last_line:
            print(line, file=self.stream, flush=True)
        self._last_line, self._last_time = line, now


class Remaining:
    """How long a piece of work will take, if it goes on as it went."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._started = clock()
        self._fraction = 0.0

    def left(self, fraction: float) -> str:
        """In words, as the end of a line; empty where there is nothing to go by or left to do.

        A fraction smaller than the one before begins another piece of work.
        """
        now = self.clock()
        if fraction < self._fraction:
            self._started = now
        self._fraction = fraction
        spent = now - self._started
        if spent < QUIET_SECONDS or not 0 < fraction < 1:
            return ""
        seconds = spent * (1 - fraction) / fraction
        amount = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        return f", about {amount} left"


def emit(options: Options, document: Any, text: str) -> None:
    """Prints the result: the document as JSON with ``--json``, else the text."""
    if options.json:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)
    click.echo(text.rstrip("\n"))


def say(options: Options, line: str) -> None:
    """Writes a line to stderr, unless it should be quiet."""
    if not options.quiet:
        click.echo(line, err=True)


def _silent(what: str, fraction: float) -> None:
    pass


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(what: str, fraction: float) -> None:
            bar.update(task, description=what, completed=fraction)

        yield show
