"""Single records that the unlearned model still gives away more of than the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from unlearn.report import wording
from unlearn.types import AuditResult, Finding

HEADING = "Records that stand out"
MARGIN = 0.1
"""Far enough above the reference to be shown. No verdict rests on it."""
SHOWN = 10
ABOUT = (
    "Records to forget of which the unlearned model shows more than the reference does, by more "
    f"than {MARGIN:g} in a figure that runs from 0 to 1. Single records differ by chance too; what "
    "they come to is in the claims. Only ids are shown, no text of a record."
)
COLUMNS = ("Record", "Stands out in", "Furthest above the reference", "in the figure")


class Standout(NamedTuple):
    """One record, as it is shown."""

    record: str
    figures: str
    """In how many of those that measured it."""
    excess: str
    title: str
    """Of the figure where it is furthest above."""


class Standouts(NamedTuple):
    """The records that stand out, the worst first."""

    rows: tuple[Standout, ...]
    summary: str
    """How many there are; empty where no figure can tell."""


def standouts(result: AuditResult) -> Standouts:
    """The records that stand out in the figures of the models as they are.

    Figures count that are a mean over records to forget, lie between 0 and 1 for each of them, and
    were measured on the reference as well.
    """
    telling = [finding for finding in result.findings if _tells(finding)]
    by_record: dict[str, list[tuple[float, str]]] = {}
    for finding in telling:
        for record, excess in _excess(finding).items():
            by_record.setdefault(record, []).append((excess, finding.title))
    found = sorted(_found(by_record), key=lambda one: (-one[0], -one[1], one[2].record))
    return Standouts(
        tuple(row for *_, row in found[:SHOWN]), _summary(len(found), len(by_record), len(telling))
    )


def _tells(finding: Finding) -> bool:
    measured = [finding.records.get(role, {}) for role in ("unlearned", "reference")]
    return (
        (finding.split, finding.summary, finding.condition) == ("forget", "mean", "")
        and all(measured)
        and all(0 <= value <= 1 for values in measured for value in values.values())
    )


def _excess(finding: Finding) -> dict[str, float]:
    sign = 1 if finding.more_knowledge == "higher" else -1
    reference = finding.records["reference"]
    return {
        record: sign * (value - reference[record])
        for record, value in finding.records["unlearned"].items()
        if record in reference
    }


def _found(
    by_record: Mapping[str, Sequence[tuple[float, str]]],
) -> Iterator[tuple[int, float, Standout]]:
    for record, excesses in by_record.items():
        n = sum(excess > MARGIN for excess, _ in excesses)
        if n:
            most, title = max(excesses)
            words = f"{n} of {wording.count(len(excesses), 'figure')}"
            yield n, most, Standout(record, words, f"+{wording.number(most)}", title)


def _summary(n_found: int, n_records: int, n_figures: int) -> str:
    if not n_figures:
        return ""
    which = f"{n_found:,} of {wording.count(n_records, 'record')}"
    more = f"; the first {SHOWN} are shown" if n_found > SHOWN else ""
    verb = "stands" if n_found == 1 else "stand"
    return f"{which} {verb} out in at least one of {wording.count(n_figures, 'figure')}{more}."
