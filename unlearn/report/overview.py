"""Many audits or requests on one page: which is due, and what each audit said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from urllib.parse import quote

from unlearn.errors import InputError
from unlearn.report import wording
from unlearn.report.files import AUDIT, read
from unlearn.report.html import draw, inert
from unlearn.report.markdown import table, text
from unlearn.report.page import short
from unlearn.report.readers import request_of, seen_by
from unlearn.report.signature import signature_of
from unlearn.types import AuditResult, Noun, Text, Verdict

TITLE = "Requests and audits"
COLUMNS = ("Request", "State", "Due", "Verdict", "Audited", "Model", "Signature")
ANSWERED = frozenset({"notified", "closed"})
"""States in which nothing is due any more: the person was told."""
SOON_DAYS = 7
SHOWN_CHARACTERS = 500
"""Of any one text."""


class OverviewRow(Noun):
    """One request or audit on the page. Holds no name and no record."""

    id: Text
    """Of the request; of an audit that knows of none, its folder's name."""
    state: str = ""
    """Of the request; empty where only the audit is known."""
    due: date | None = None
    verdict: Verdict | None = None
    """None where there is no audit yet, or it cannot be read."""
    audited: str = ""
    """When, ISO 8601."""
    tier: str = ""
    model: str = ""
    """Digest of the unlearned model."""
    signed: bool | None = None
    """Whether a signature of this very audit lies beside it, unchecked; None without an audit."""
    link: str = ""
    """URL of the report, relative to the page."""
    note: str = ""
    """What else there is to say, for example why an audit cannot be read."""

    def is_overdue(self, today: date) -> bool:
        """Whether it should have been done by now."""
        return self.due is not None and self.due < today and self.state not in ANSWERED

    def due_words(self, today: date) -> str:
        """The due date, and how near it is where that matters."""
        if self.due is None:
            return "not known"
        days = (self.due - today).days
        if self.state in ANSWERED or days > SOON_DAYS:
            return self.due.isoformat()
        left = "today" if days == 0 else f"in {wording.count(days, 'day')}"
        left = f"overdue by {wording.count(-days, 'day')}" if days < 0 else left
        return f"{self.due.isoformat()}, {left}"


def rows_of(
    folders: Iterable[Path], page: Path, due: Mapping[str, date] | None = None
) -> tuple[OverviewRow, ...]:
    """A row for each audit in or below the folders, those of earlier requests (``after``) apart.

    Args:
        folders: where to look.
        page: where the page will be; links are relative to its folder.
        due: id of a request to its due date.

    Raises:
        InputError: a folder holds no audit at all.
    """
    found = []
    for folder in folders:
        below = sorted(folder.rglob(AUDIT))
        audits = [path for path in below if "after" not in path.relative_to(folder).parts]
        if not audits:
            raise InputError(f"{folder} holds no {AUDIT}, and no folder below it does")
        found += [row_of(path.parent, page, due) for path in audits]
    return tuple(found)


def row_of(folder: Path, page: Path, due: Mapping[str, date] | None = None) -> OverviewRow:
    """The row of one audit; of one that cannot be read, a row that says why."""
    html = folder / "audit.html"
    link = quote(Path(os.path.relpath(html, page.parent)).as_posix()) if html.is_file() else ""
    try:
        result = seen_by("officer", read(folder), SHOWN_CHARACTERS)
        signature = signature_of(folder)
    except InputError as error:
        return OverviewRow(
            id=folder.resolve().name, link=link, note=wording.cut(str(error), SHOWN_CHARACTERS)
        )
    request = request_of(result) or folder.resolve().name
    return OverviewRow(
        id=request,
        due=(due or {}).get(request),
        verdict=result.verdict,
        audited=result.created,
        tier=result.tier,
        model=_digest(result),
        signed=signature is not None and signature.fits,
        link=link,
    )


def _digest(result: AuditResult) -> str:
    return result.models["unlearned"].digest if "unlearned" in result.models else ""


def ordered(rows: Iterable[OverviewRow]) -> list[OverviewRow]:
    """What is due first comes first; what is answered, last."""
    return sorted(rows, key=lambda row: (row.state in ANSWERED, row.due or date.max, row.id))


def render_overview_html(rows: Sequence[OverviewRow], today: date) -> str:
    """The page as HTML; the same rows and day give the same bytes."""
    return draw(
        "overview",
        rows=[(row, cells(row, today)) for row in ordered(rows)],
        columns=COLUMNS,
        title=TITLE,
        day=today,
        tally=tally(rows, today),
        data=inert([row.model_dump(mode="json") for row in ordered(rows)]),
    )


def render_overview_markdown(rows: Sequence[OverviewRow], today: date) -> str:
    """The same as Markdown."""
    lines = []
    for row in ordered(rows):
        name, *others = cells(row, today)
        name = f"[{text(name)}]({row.link})" if row.link else text(name)
        lines.append((f"{name}<br>{text(row.note)}" if row.note else name, *map(text, others)))
    return "\n\n".join((f"# {TITLE}", tally(rows, today), table(COLUMNS, lines))) + "\n"


def cells(row: OverviewRow, today: date) -> tuple[str, ...]:
    """A row in words, by column."""
    verdict = "no audit" if row.verdict is None else str(row.verdict)
    when = f"{wording.day(row.audited)}, {row.tier}" if row.audited else "not yet"
    signed = {True: "signed, not checked here", False: "not signed", None: "–"}[row.signed]
    state = row.state or "not known"
    return (row.id, state, row.due_words(today), verdict, when, short(row.model) or "–", signed)


def tally(rows: Sequence[OverviewRow], today: date) -> str:
    """How many rows there are, overdue ones and verdicts counted."""
    verdicts = Counter("no audit" if row.verdict is None else str(row.verdict) for row in rows)
    return ", ".join(_counted(rows, verdicts, today)) + "."


def _counted(rows: Sequence[OverviewRow], verdicts: Counter[str], today: date) -> Iterator[str]:
    yield f"On {today.isoformat()}: {wording.count(len(rows), 'row')}"
    if overdue := sum(row.is_overdue(today) for row in rows):
        yield f"{overdue:,} overdue"
    for name in (*(str(verdict) for verdict in Verdict), "no audit"):
        if verdicts[name]:
            yield f"{verdicts[name]:,} {name}"
