"""``unlearn report``: the report of an audit, drawn again, signed, checked and compared."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.audit_folder import check_audit
from unlearn.cli.console import emit
from unlearn.cli.report_signing import keygen, sign, verify
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.report.overview import OverviewRow
    from unlearn.report.readers import Reader

FORMATS = ("html", "md", "json", "junit", "pdf")
READERS = ("officer", "regulator", "subject")
HELP = ("-h", "--help")
PATH = click.Path(path_type=Path)


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
    subcommand_metavar="DIR | draw DIR | diff BEFORE AFTER | index DIR... | keygen FILE | "
    "sign DIR | verify DIR",
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
@click.argument("directory", metavar="DIR", type=PATH)
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


@report.command(epilog="\b\nExample:\n  unlearn report diff audit-last-week audit-today\n")
@click.argument("before", metavar="BEFORE", type=PATH)
@click.argument("after", metavar="AFTER", type=PATH)
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


@report.command(
    epilog="\b\nExamples:\n"
    "  unlearn report index reports -o reports/index.html\n"
    "  unlearn report index --store office -o overview.html\n"
)
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=PATH)
@click.option(
    "--store",
    type=PATH,
    metavar="DIR",
    help="A store of `unlearn request`: its requests with their states and due dates.",
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    metavar="FILE.html",
    help="The page; the same as Markdown goes beside it, into FILE.md.",
)
@opt.force
@opt.shared_idle
def index(
    options: opt.Options,
    *,
    directories: tuple[Path, ...],
    store: Path | None,
    output: Path,
    force: bool,
) -> None:
    """Make one page of the audits in and below each DIR, or of the requests of a store.

    An audit that cannot be read has a row that says so.
    """
    from unlearn.report.overview import render_overview_html, render_overview_markdown, rows_of

    if output.suffix != ".html":
        raise InputError(f"{output}: the page is a file that ends in .html")
    if not directories and store is None:
        raise InputError("there is nothing to list; give folders with audits, or --store DIR")
    today = datetime.now(UTC).date()
    rows = (*rows_of(directories, output), *_requests(store, output))
    drawn = {
        output: render_overview_html(rows, today),
        output.with_suffix(".md"): render_overview_markdown(rows, today),
    }
    for path in drawn:
        outputs.check_file(path, force=force, ours=_is_overview)
    for path, text in drawn.items():
        with outputs.file(path, force=force, ours=_is_overview) as made:
            made.write_text(text, encoding="utf-8", newline="\n")
    pages = [str(path) for path in drawn]
    emit(options, {"pages": pages, "rows": len(rows)}, "\n".join(pages))


def _requests(store: Path | None, page: Path) -> tuple[OverviewRow, ...]:
    if store is None:
        return ()
    from unlearn.deletion.overview import rows_of_store
    from unlearn.deletion.store import Store

    with Store(store) as opened:
        return rows_of_store(opened, page)


def _is_overview(path: Path) -> bool:
    from unlearn.report.overview import TITLE

    start = path.read_text(encoding="utf-8", errors="replace")[:2000]
    return start.startswith(f"# {TITLE}\n") or f"<title>{TITLE}</title>" in start
