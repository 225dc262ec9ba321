"""Writes ``cli.md``, the reference of the command line, from the commands' own help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from unlearn.cli.main import cli

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 88
HEAD = """# The command line

Written by `make docs` from the commands' own help; do not edit by hand.

Results go to stdout, progress and errors to stderr. With `--json`, stdout is one JSON document.
Exit codes: 0 done or pass, 1 an audit failed, 2 wrong usage or input, 3 inconclusive, 70 a bug, 130
interrupted with Ctrl-C. An output folder that holds anything else is never written to, unless
`--force` says so.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(
        f"\n## {context.command_path}\n\n```text\n{help_of(context)}\n```\n"
        for context in contexts(cli, None)
    )


def contexts(command: click.Command, parent: click.Context | None) -> Iterator[click.Context]:
    """A context for the command and for every command below it."""
    name = "unlearn" if parent is None else command.name
    settings = {**command.context_settings, "terminal_width": WIDTH}
    context = click.Context(command, parent, info_name=name, **settings)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from contexts(found, context)


def help_of(context: click.Context) -> str:
    """The help of a command, without trailing blanks."""
    return "\n".join(line.rstrip() for line in context.get_help().splitlines()).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
