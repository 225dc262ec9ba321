"""``unlearn report``: the report of an audit, drawn again, signed, checked and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit
from unlearn.cli.report_signing import keygen, sign, verify
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.report.readers import Reader

FORMATS = ("html", "md", "json", "junit", "pdf")
READERS = ("officer", "regulator", "subject")
HELP = ("-h", "--help")


class Report(click.Group):
    """A group whose command may be left out: ``unlearn report DIR`` draws."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the command's name, and takes anything else for what to draw."""
        if args and args[0] not in {*self.commands, *HELP}:
            args = ["draw", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=Report,
    options_metavar="",
    subcommand_metavar="DIR | draw DIR | diff BEFORE AFTER | keygen FILE | sign DIR | verify DIR",
    epilog="\b\nExamples:\n"
    "  unlearn report audit --for regulator --format html\n"
    "  unlearn report diff audit-last-week audit-today\n"
    "  unlearn report sign audit --key officer.pem --model unlearned-model\n",
)
def report() -> None:
    """Draw the report of an audit, sign and check it, or compare two audits.

    `unlearn report DIR` is short for `unlearn report draw DIR`. A folder that is called like a
    command is given as ./draw, ./diff and so on.
    """


report.add_command(keygen)
report.add_command(sign)
report.add_command(verify)


@report.command(epilog="\b\nExample:\n  unlearn report audit --for subject --format pdf\n")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--for",
    "reader",
    type=click.Choice(READERS),
    default="officer",
    show_default=True,
    help="Who reads it. regulator: without record texts, names and paths. subject: a letter of one "
    "page to the person who asked.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    help="What to draw; may be given more than once. junit, for a CI server, goes into "
    "audit.junit.xml; pdf needs Chromium, Chrome or Edge.  [default: html, md, json; of a letter "
    "html, md]",
)
@opt.shared_idle
def draw(
    options: opt.Options, *, directory: Path, reader: Reader, formats: tuple[str, ...]
) -> None:
    """Draw the report in DIR again from its audit.json.

    The files are audit.html and so on for the officer, audit.regulator.html and audit.subject.html
    for the others. An audit.json that is signed stays as it is.
    """
    check_audit(directory)
    from unlearn.report import read
    from unlearn.report import report as draw_all

    written = draw_all(read(directory), directory, _chosen(directory, reader, formats), reader)
    paths = {name: str(path) for name, path in written.items()}
    emit(options, paths, "\n".join(paths.values()))


def _chosen(directory: Path, reader: Reader, formats: tuple[str, ...]) -> tuple[str, ...] | None:
    """The formats asked for; the usual ones leave a signed audit.json alone."""
    from unlearn.report.signature import STATEMENT

    if reader != "officer" or not (directory / STATEMENT).exists():
        return formats or None
    if "json" in formats:
        raise InputError(
            f"{directory / 'audit.json'} is signed and stays as it is; leave --format json out"
        )
    return formats or ("html", "md")


def redraw(directory: Path) -> None:
    """Draws again the pages that are in the folder, after what they tell of has changed."""
    from unlearn.report import FOR, read
    from unlearn.report import report as draw_all

    result = read(directory)
    for reader in FOR:
        stem = "audit" if reader == "officer" else f"audit.{reader}"
        there = [kind for kind in ("html", "md") if (directory / f"{stem}.{kind}").exists()]
        draw_all(result, directory, there, reader)


@report.command(epilog="\b\nExample:\n  unlearn report diff audit-last-week audit-today\n")
@click.argument("before", metavar="BEFORE", type=click.Path(path_type=Path))
@click.argument("after", metavar="AFTER", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(("text", "md")),
    default="text",
    show_default=True,
    help="How to print it; --json prints everything.",
)
@click.option(
    "--other-forget-set",
    is_flag=True,
    help="Compare although the forget sets differ. Single records are left out then.",
)
@opt.shared_idle
def diff(
    options: opt.Options, *, before: Path, after: Path, format_: str, other_forget_set: bool
) -> None:
    """Say what changed from the audit in BEFORE to the audit in AFTER.

    A claim got worse when it passed and does no more, or fails now and did not. Claims that only
    one audit has are listed and do not count.

    Exit codes: 0 no claim got worse, 1 a claim got worse, 2 the audits cannot be compared.
    """
    check_audit(before)
    check_audit(after)
    from unlearn.report import read
    from unlearn.report.diff import diff as compare
    from unlearn.report.diff_text import render_diff_markdown, render_diff_text
    from unlearn.report.files import plain

    found = compare(read(before), read(after), other_set=other_forget_set)
    render = render_diff_markdown if format_ == "md" else render_diff_text
    emit(options, plain(found.model_dump()), render(found))
    raise click.exceptions.Exit(found.exit_code)


def check_audit(directory: Path) -> None:
    """Refuses a folder without an audit.

    Raises:
        InputError: there is none.
    """
    if not (directory / "audit.json").is_file():
        raise InputError(
            f"{directory} holds no audit.json; give a folder that `unlearn audit -o DIR` wrote"
        )
