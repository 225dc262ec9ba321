"""The report as Markdown: the words and figures of the HTML, for a terminal or a repository."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from unlearn.report import obligations as duties
from unlearn.report import standouts as standing
from unlearn.report import wording
from unlearn.report.checking import AGAIN, Checking
from unlearn.report.curves import drawable
from unlearn.report.ladder import LADDER, STATES, STEPS
from unlearn.report.letter import COLUMNS, UNSENT, Letter, letter
from unlearn.report.page import Judgement, ModelLine, Page, Scene, page, short
from unlearn.report.readers import READERS, Reader, drawn
from unlearn.report.rows import PRECISION, Cell, Condition, ConditionRow, Group, Row
from unlearn.report.signature import Signature
from unlearn.types import AuditResult

_SIGNS = re.compile(r"([\\`*_\[\]|~$#])")
_LINE_START = re.compile(r"^([-+=]|\d+(?=[.)]))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def render_markdown(
    result: AuditResult, reader: Reader = "officer", signature: Signature | None = None
) -> str:
    """The audit as GitHub-flavoured Markdown for one reader; the same result, the same bytes."""

    def draw(shown: AuditResult) -> str:
        if reader == "subject":
            parts: Iterable[Iterable[str]] = (_letter(letter(shown, signature)),)
        else:
            parts = _report(page(shown, reader, signature))
        return "\n\n".join(block for part in parts for block in part) + "\n"

    return drawn(draw, reader, result)


def _report(shown: Page) -> Iterable[Iterable[str]]:
    return (
        _top(shown),
        _ladder(shown),
        _claims(shown.judgements),
        _scope(shown),
        ("## What this audit does not show", *listed(shown.limits + wording.STANDING_LIMITS)),
        _figures(shown),
        _standouts(shown),
        _examples(shown),
        _provenance(shown),
        _obligations(shown),
        _checking(shown.checking),
        _reading(),
    )


def text(raw: str) -> str:
    """Any string as one line of inert Markdown: it can neither format, link nor hold HTML."""
    line = " ".join(wording.visible(raw).split())
    line = re.sub("[&<>]", lambda found: _ENTITIES[found[0]], line)
    return _LINE_START.sub(_guard, _SIGNS.sub(r"\\\1", line))


def _guard(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def fence(raw: str) -> str:
    """Any string as a code block that it cannot leave."""
    shown = wording.visible(raw)
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def listed(items: Iterable[str]) -> Iterator[str]:
    """One list of any strings."""
    yield "\n".join(f"- {text(item)}" for item in items)


def _top(shown: Page) -> Iterator[str]:
    yield f"# Unlearning audit: {text(shown.title)}"
    for_whom = "" if shown.reader == "officer" else f"{READERS[shown.reader]}; "
    yield f"{for_whom}{text(shown.signed)}"
    yield f"**{wording.VERDICTS[shown.verdict].symbol} {shown.verdict}**: {text(shown.headline)}"
    yield text(shown.outcome)
    for warning in shown.warnings:
        yield f"> {text(warning)}"
    yield from listed(f"{verdict}: {wording.count(n, 'claim')}" for verdict, n in shown.tally)


def _ladder(shown: Page) -> Iterator[str]:
    if not shown.ladder:
        return
    yield f"## {LADDER}"
    yield f"{text(STEPS)} {text(shown.climbed)}"
    lines = []
    for place, step in enumerate(shown.ladder, 1):
        why = text("".join(link.title for link in step.why))
        state = f"**{STATES[step.state].symbol} {step.state}**"
        lines.append(f"{place}. {state}: {text(step.statement)}<br>{why}")
    yield "\n".join(lines)


def _claims(judgements: Sequence[Judgement]) -> Iterator[str]:
    yield "## What was claimed, and what the audit found"
    for one in judgements:
        yield f"### {wording.VERDICTS[one.verdict].symbol} {one.verdict}: {text(one.statement)}"
        yield "<br>".join(text(part) for part in (*one.reason, one.needed) if part)
        rests = "; ".join(text(link.title) for link in one.evidence)
        yield f"Claim {text(one.id)}." + (f" Rests on: {rests}" if rests else "")


def _scope(shown: Page) -> Iterator[str]:
    yield "## What was audited"
    yield table(("", ""), ((text(name), text(value)) for name, value in shown.facts))
    head = ("Model", "Source", "Digest", "Parameters", "Number format")
    yield table(head, (_model(line) for line in shown.models))
    yield table(
        ("Records", "What they are", "Records measured", "Subjects"),
        (tuple(text(part) for part in line) for line in shown.splits),
    )


def _model(line: ModelLine) -> tuple[str, ...]:
    name, model = text(f"{line.name}, {line.meaning}"), line.model
    if model is None:
        return (name, *[wording.NOT_MEASURED] * 4)
    return (name, *map(text, (model.source, short(model.digest), line.parameters, model.dtype)))


def _figures(shown: Page) -> Iterator[str]:
    yield "## The figures"
    yield "Each figure is a mean, unless it says otherwise, with its 95 % interval in brackets."
    for group in shown.groups:
        yield from _group(group)
    if not shown.groups:
        yield "This audit holds no figures."
    if shown.conditions:
        yield "### At lower precision"
        yield text(PRECISION)
    for condition in shown.conditions:
        yield from _condition(condition)


def _group(group: Group) -> Iterator[str]:
    yield f"### {text(group.heading)}"
    yield text(group.question)
    head = ("Figure", *(f"{name}, {meaning}" for name, meaning in wording.ROLES.values()))
    yield table(head, (_row(row) for row in group.rows))
    for row in group.rows:
        yield from _curves(row)


def _row(row: Row) -> tuple[str, ...]:
    about = (row.split, f"{row.key} by {row.probe}", row.direction, row.reading, row.note)
    title = f"**{text(row.title)}**<br>" + "<br>".join(text(part) for part in about if part)
    return (title, *map(_cell, row.cells))


def _cell(cell: Cell) -> str:
    if not cell.interval:
        return cell.value
    return f"{text(f'{cell.value} {cell.unit}')} [{text(cell.interval)}]<br>{text(cell.size)}"


def _curves(row: Row) -> Iterator[str]:
    lines = drawable(row.finding.curves)
    if not lines:
        return
    yield f"{text(row.title)}, by {text(row.finding.axis)}:"
    along = sorted({x for points in lines.values() for x, _ in points})
    body = []
    for role, points in lines.items():
        at = dict(points)
        values = (wording.number(at[x]) if x in at else "" for x in along)
        body.append((wording.ROLES[role][0], *values))
    yield table((text(row.finding.axis), *map(wording.number, along)), body)


def _condition(condition: Condition) -> Iterator[str]:
    yield f"#### {text(condition.heading)}"
    roles = (f"{wording.ROLES[role][0]}, {text(condition.name)}" for role in condition.roles)
    head = ("Figure", "Unlearned, as it is", *roles)
    yield table(head, (_condition_row(row) for row in condition.rows))


def _condition_row(row: ConditionRow) -> tuple[str, ...]:
    about = "<br>".join(text(part) for part in (row.split, row.key, row.direction))
    return (f"**{text(row.title)}**<br>{about}", *map(_cell, (row.plain, *row.cells)))


def _standouts(shown: Page) -> Iterator[str]:
    if not shown.standouts.summary:
        return
    yield f"## {standing.HEADING}"
    yield text(standing.ABOUT)
    yield f"**{text(shown.standouts.summary)}**"
    if shown.standouts.rows:
        yield table(
            standing.COLUMNS, ([text(cell) for cell in row] for row in shown.standouts.rows)
        )


def _examples(shown: Page) -> Iterator[str]:
    if not shown.scenes:
        return
    yield "## Before and after"
    yield text(wording.PERSONAL)
    for scene in shown.scenes:
        yield from _scene(scene)
    if shown.scenes_left_out:
        yield text(wording.left_out(shown.scenes_left_out))


def _scene(scene: Scene) -> Iterator[str]:
    yield f"### {text(scene.title)}"
    for said in scene.texts:
        yield f"{text(said.who)}:"
        yield fence(said.text)


def _provenance(shown: Page) -> Iterator[str]:
    yield "## How the unlearned model came to be"
    if not shown.provenance:
        yield text(wording.NO_PROVENANCE)
    else:
        yield table(("", ""), ((text(name), text(value)) for name, value in shown.provenance))
    if shown.cost:
        yield "### What forgetting took"
        yield table(("", ""), ((text(name), text(value)) for name, value in shown.cost))
    if shown.strengths:
        yield f"### {wording.STRENGTHS}"
        yield text(wording.ABOUT_STRENGTHS)
        yield table(
            wording.STRENGTH_COLUMNS, ([text(cell) for cell in row] for row in shown.strengths)
        )


def _obligations(shown: Page) -> Iterator[str]:
    yield f"## {duties.HEADING}"
    yield f"> {text(duties.READING_AID)}"
    yield table(
        duties.COLUMNS,
        (
            (
                text(one.rule),
                text(one.asks),
                text("; ".join(link.title for link in one.evidence)),
                text(one.missing),
            )
            for one in shown.obligations
        ),
    )


def _checking(shown: Checking) -> Iterator[str]:
    yield "## How to check this report"
    yield text(shown.state)
    yield fence(shown.command)
    if shown.facts:
        yield "### What is signed"
        yield table(("", ""), ((text(name), text(value)) for name, value in shown.facts))
        yield "### What the signature does not prove"
        yield from listed(shown.limits)
    yield text(AGAIN)


def _letter(shown: Letter) -> Iterator[str]:
    yield " · ".join(text(part) for part in (shown.day, shown.request) if part)
    yield f"# {text(shown.title)}"
    yield "## What you asked"
    yield text(shown.asked)
    yield "## What was done"
    yield from map(text, shown.done)
    yield "## What was found"
    yield f"**{text(shown.outcome)}**"
    yield text(shown.measured)
    yield table(COLUMNS, ((text(asked), text(found)) for asked, found in shown.answers))
    yield "## What is still open"
    yield from listed(shown.still_open)
    yield "## Your rights"
    yield from listed(shown.rights)
    yield "---"
    yield text(shown.small_print)
    yield text(UNSENT)


def _reading() -> Iterator[str]:
    yield "## How to read this report"
    yield from map(text, wording.INTERVALS)
    yield "### The verdicts"
    yield from listed(f"{v.symbol} {name}: {v.meaning}" for name, v in wording.VERDICTS.items())
    yield "### The words"
    yield from listed(f"{term}: {meaning}" for term, meaning in wording.GLOSSARY)
