"""``unlearn report``: the report of an audit, drawn again."""

from __future__ import annotations

from pathlib import Path

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit
from unlearn.errors import InputError

FORMATS = ("html", "md", "json")


@click.command(epilog="\b\nExample:\n  unlearn report audit --format html\n")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    help="What to draw; may be given more than once.  [default: all]",
)
@opt.shared_idle
def report(options: opt.Options, *, directory: Path, formats: tuple[str, ...]) -> None:
    """Draw the report in DIR again from its audit.json."""
    if not (directory / "audit.json").is_file():
        raise InputError(
            f"{directory} holds no audit.json; give a folder that `unlearn audit -o DIR` wrote"
        )
    from unlearn.report import read
    from unlearn.report import report as draw

    written = draw(read(directory), directory, formats or FORMATS)
    paths = {name: str(path) for name, path in written.items()}
    emit(options, paths, "\n".join(paths.values()))
