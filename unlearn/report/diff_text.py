"""The difference of two audits for a terminal and as Markdown: the same rows, once in each form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from textwrap import fill
from typing import NamedTuple

from unlearn.report import wording
from unlearn.report.diff import ClaimChange, Diff, FigureChange, RecordChange
from unlearn.report.markdown import table
from unlearn.report.markdown import text as inert

WIDTH = 100
SYMBOLS = {"worse": "▼", "better": "▲", "changed": "◆", "new": "+", "gone": "−", "same": "="}
KNOWS = {"more": "knows more", "less": "knows less"}


class Part(NamedTuple):
    """One section: a heading, a table, and what stands below it."""

    heading: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


def render_diff_text(found: Diff) -> str:
    """The difference as lines of at most 100 columns, but for words longer than that."""
    lines = [_outcome(found), *(fill(f"note: {note}", WIDTH) for note in found.notes)]
    for part in _parts(found):
        lines += ["", part.heading]
        lines += [_columns(part)] if part.rows else []
        lines += [fill(line, WIDTH) for line in part.below]
    return wording.visible("\n".join([*lines, "", _verdict(found)]))


def render_diff_markdown(found: Diff) -> str:
    """The difference as GitHub-flavoured Markdown."""
    blocks = ["# What changed between two audits", f"**{inert(_verdict(found))}**"]
    blocks.append(inert(_outcome(found)))
    blocks += [f"> {inert(note)}" for note in found.notes]
    for part in _parts(found):
        blocks.append(f"## {inert(part.heading)}")
        if part.rows:
            rows = (tuple(inert(cell) for cell in row) for row in part.rows)
            blocks.append(table(part.head, rows))
        blocks += [inert(line) for line in part.below]
    return "\n\n".join(blocks) + "\n"


def _outcome(found: Diff) -> str:
    verdict = f"verdict {found.verdict_before} → {found.verdict_after}"
    return f"{verdict} · label {found.label_before} → {found.label_after}"


def _verdict(found: Diff) -> str:
    n = len(found.worse)
    return f"{wording.count(n, 'claim')} got worse" if n else "no claim got worse"


def _parts(found: Diff) -> Iterator[Part]:
    yield _claims(found.claims)
    if found.rungs:
        rows = ((r.before or "–", r.after or "–", r.statement) for r in found.rungs)
        yield Part("Ladder of assurance", ("before", "after", "step"), tuple(rows))
    yield _figures(found)
    if found.records:
        yield _records(found.records)


def _claims(claims: Sequence[ClaimChange]) -> Part:
    rows = tuple(
        (
            f"{SYMBOLS[one.change]} {one.change}",
            one.before or "–",
            one.after or "–",
            one.statement,
        )
        for one in claims
        if one.change != "same"
    )
    same = sum(one.change == "same" for one in claims)
    below = [f"{one.id}: {one.reason}" for one in claims if one.change == "worse"]
    below.append(f"{wording.count(same, 'claim')} unchanged.")
    return Part("Claims", ("change", "before", "after", "claim"), rows, tuple(below))


def _figures(found: Diff) -> Part:
    apart = [one for one in found.figures if one.apart]
    plain = {one.key for one in apart}
    # What moved at full precision is no news at a lower one.
    shown = [one for one in apart if one.key.partition("@")[0] not in plain - {one.key}]
    rows = tuple(_figure(one) for one in shown)
    moved = wording.count(len(found.figures) - len(apart), "other figure")
    below = [
        "Above: figures of the unlearned model whose 95 % intervals have nothing in common. "
        f"{_alike(len(apart) - len(shown))}{moved} of {found.figures_compared} moved by less; "
        "--json holds them all."
    ]
    for words, keys in (("New", found.figures_new), ("Gone", found.figures_gone)):
        if keys:
            below.append(f"{words}: {', '.join(keys)}.")
    head = ("figure", "before", "after", "the model")
    return Part("Figures", head, rows, tuple(below))


def _alike(n: int) -> str:
    if not n:
        return ""
    return f"{wording.count(n, 'more figure')} moved likewise at lower precision. "


def _figure(one: FigureChange) -> tuple[str, ...]:
    sides = (f"{wording.number(e.value)} [{wording.interval(e)}]" for e in (one.before, one.after))
    return (one.key, *sides, KNOWS[one.knows])


def _records(records: Sequence[RecordChange]) -> Part:
    gained = {one.key: one.gained for one in records}
    shown = [
        one
        for one in records
        if "@" not in one.key or one.gained > gained.get(one.key.partition("@")[0], 0)
    ]
    rows = tuple((one.key, str(one.compared), str(one.gained), str(one.lost)) for one in shown)
    head = ("answers", "records", "answered now, not before", "answered before, not now")
    below = "Of lower precisions those where more is answered anew than at full precision."
    return Part("Single records", head, rows, (below,) if len(shown) < len(records) else ())


def _columns(part: Part) -> str:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for place, name in enumerate(part.head):
        last = place == len(part.head) - 1
        shown.add_column(name, no_wrap=not last, overflow="fold" if last else "ellipsis")
    for row in part.rows:
        shown.add_row(*row)
    out = StringIO()
    Console(file=out, width=WIDTH, markup=False, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
