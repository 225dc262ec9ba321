"""``unlearn``: the group of all commands, and what an error looks like.

Nothing here imports torch: each command is imported when it is called, and imports what is heavy in
its own body.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from unlearn import __version__
from unlearn.errors import UnlearnError

INTERRUPTED = 130
"""128 + SIGINT, what a shell reports of a program that Ctrl-C ended."""

READER_GONE = 141
"""128 + SIGPIPE, what a shell reports of a program whose output nobody reads any more."""

BUG = 70
"""EX_SOFTWARE of sysexits.h. Python's own code for a traceback is 1, which here means FAIL."""


class Entry:
    """Where a command lives, and what ``unlearn --help`` says of it before it is imported."""

    def __init__(self, target: str, summary: str) -> None:
        self.target = target
        self.summary = summary

    def load(self) -> click.Command:
        """The command itself."""
        module, _, name = self.target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


COMMANDS = {
    "demo": Entry("unlearn.cli.demo:demo", "Run everything on the bundled lab: request to report."),
    "lab": Entry("unlearn.cli.lab:lab", "The bundled models and forget sets."),
    "import": Entry("unlearn.cli.import_:import_", "Make a forget set of a table or of texts."),
    "locate": Entry("unlearn.cli.locate:locate", "Find where a model keeps what must go."),
    "forget": Entry("unlearn.cli.forget:forget", "Make a model forget; writes an artifact."),
    "apply": Entry("unlearn.cli.apply:apply", "Merge an artifact into plain weights."),
    "audit": Entry("unlearn.cli.audit:audit", "Measure what is left, and what broke."),
    "report": Entry(
        "unlearn.cli.report:report", "Draw, sign, check and compare reports of audits."
    ),
    "request": Entry("unlearn.cli.request:request", "Take deletion requests in, and process them."),
    "bench": Entry("unlearn.cli.bench:bench", "Compare strategies on the same records."),
    "list": Entry("unlearn.cli.list:list_", "List strategies, locators or probes."),
}
"""In the order of the work, which is the order of the help."""


class OneLineError(click.ClickException):
    """A mistake of the user: one line on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Prints the line."""
        click.echo(f"unlearn: error: {' '.join(self.message.split())}", file=file, err=True)


class Commands(click.Group):
    """Commands that are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        entry = COMMANDS.get(cmd_name)
        return entry.load() if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was called; in several processes there is only one that may be."""
        found = super().resolve_command(ctx, args)
        if found[0] != "forget":
            from unlearn.strategies.processes import require_one

            require_one(f"unlearn {found[0]}")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing them, so that help is instant."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """A context; a wrong option of the group itself is reported in one line."""
        with _one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a mistake of the user becomes one line and exit code 2."""
        try:
            with _one_line_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("unlearn: interrupted", err=True)
            ctx.exit(INTERRUPTED)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except UnlearnError as error:
        raise OneLineError(str(error)) from error
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "unlearn"
        message = error.format_message().rstrip(".")
        raise OneLineError(f"{message}. See: {path} --help") from error
    except OSError as error:
        if error.errno == errno.EPIPE:
            # Click would exit with 1 here, which means that an audit failed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(READER_GONE) from error
        if error.errno in _FULL and error.filename is None:
            raise OneLineError(f"{error.strerror}; free some, or write elsewhere") from error
        if error.filename is None or error.errno not in _DISK_ERRORS:
            raise
        raise OneLineError(f"{error.filename}: {error.strerror}") from error


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a write is refused for; the error of a write names no file."""

_DISK_ERRORS = _FULL | {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
}
"""What a disk refuses the user, and no bug of ours."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unlearn", message="%(prog)s %(version)s")
def cli() -> None:
    """Make language models forget, and prove how far that went.

    MODEL is a folder, a hub name (id or id@revision) or a bundled one: lab:full or
    lab:reference. FORGET_SET is a folder or a bundled one: lab:one-person, lab:ten-people,
    lab:hazard.

    Exit codes: 0 done or pass, 1 an audit failed, 2 wrong usage or input, 3 inconclusive,
    70 a bug of unlearn (with a traceback), 130 interrupted.
    """


def main() -> NoReturn:
    """Runs the command line and exits with its code; a bug prints its traceback."""
    try:
        cli(prog_name="unlearn")
    except Exception:
        traceback.print_exc()
        sys.exit(BUG)
    raise AssertionError("click exits by itself")
