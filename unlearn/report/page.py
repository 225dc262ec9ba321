"""What a report says, in order and in plain values: the one source of its HTML and its Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from unlearn.report import wording
from unlearn.report.figures import Axis, axes
from unlearn.types import (
    SPLITS,
    AuditedModel,
    AuditResult,
    Claim,
    Example,
    Finding,
    Measured,
    Role,
    Verdict,
)

SHOWN_EXAMPLES = 20
SHOWN_CHARACTERS = 600
"""Per text. Keeps one file small enough to send by mail; audit.json holds everything."""


class Link(NamedTuple):
    """A finding that a claim rests on."""

    title: str
    anchor: str
    """Empty where the audit holds no such finding."""


class Judgement(NamedTuple):
    """One claim, as it is shown."""

    statement: str
    verdict: Verdict
    reason: str
    needed: str
    """What would decide an inconclusive claim, or nothing."""
    evidence: tuple[Link, ...]


class Cell(NamedTuple):
    """One model's figure in one row."""

    role: Role
    value: str
    unit: str
    interval: str
    """Empty where the model was not measured."""
    size: str


class Row(NamedTuple):
    """One finding, as it is shown."""

    anchor: str
    title: str
    key: str
    probe: str
    split: str
    direction: str
    cells: tuple[Cell, ...]
    note: str
    finding: Finding
    axis: Axis


class Group(NamedTuple):
    """The findings that answer one question."""

    heading: str
    question: str
    rows: tuple[Row, ...]


class ModelLine(NamedTuple):
    """One role, and the model that played it."""

    role: Role
    name: str
    meaning: str
    model: AuditedModel | None

    @property
    def parameters(self) -> str:
        """How many parameters, with thousands marked."""
        return f"{self.model.parameters:,}" if self.model else wording.NOT_MEASURED


class SplitLine(NamedTuple):
    """One group of records, and how much of it was measured."""

    name: str
    meaning: str
    records: str
    subjects: str


class Said(NamedTuple):
    """One text of an example: who says it, and what."""

    who: str
    text: str
    role: Role | None = None


class Scene(NamedTuple):
    """One example, as it is shown."""

    title: str
    texts: tuple[Said, ...]


@dataclass(frozen=True)
class Page:
    """A whole report. Texts are raw: each format escapes them its own way."""

    title: str
    digest: str
    """Of the unlearned model, short."""
    verdict: Verdict
    headline: str
    outcome: str
    warnings: tuple[str, ...]
    tally: tuple[tuple[Verdict, int], ...]
    judgements: tuple[Judgement, ...]
    facts: tuple[tuple[str, str], ...]
    models: tuple[ModelLine, ...]
    splits: tuple[SplitLine, ...]
    limits: tuple[str, ...]
    groups: tuple[Group, ...]
    scenes: tuple[Scene, ...]
    scenes_left_out: int
    provenance: tuple[tuple[str, str], ...]


def page(result: AuditResult) -> Page:
    """The page that an audit fills."""
    audited = result.models.get("unlearned")
    return Page(
        title=result.forget_set.name,
        digest=short(audited.digest) if audited else wording.NOT_MEASURED,
        verdict=result.verdict,
        headline=wording.headline(result),
        outcome=wording.LABELS[result.label],
        warnings=_warnings(result),
        tally=wording.tally(result.claims),
        judgements=_judgements(result),
        facts=_facts(result),
        models=tuple(
            ModelLine(role, *words, result.models.get(role))
            for role, words in wording.ROLES.items()
        ),
        splits=_splits(result),
        limits=result.limits or (wording.NO_LIMITS,),
        groups=_groups(result),
        scenes=tuple(_scene(example) for example in result.examples[:SHOWN_EXAMPLES]),
        scenes_left_out=max(0, len(result.examples) - SHOWN_EXAMPLES),
        provenance=tuple((key.replace("_", " "), text) for key, text in result.provenance.items()),
    )


def short(digest: str) -> str:
    """The first twelve characters of a digest."""
    return digest[:12]


def _warnings(result: AuditResult) -> tuple[str, ...]:
    missing = (("reference", wording.NO_REFERENCE), ("original", wording.NO_ORIGINAL))
    return tuple(text for role, text in missing if role not in result.models)


def _judgements(result: AuditResult) -> tuple[Judgement, ...]:
    links = {
        finding.key: Link(finding.title, f"finding-{place}")
        for place, finding in enumerate(result.findings, 1)
    }
    return tuple(_judgement(claim, links) for claim in result.claims)


def _judgement(claim: Claim, links: dict[str, Link]) -> Judgement:
    needed = ""
    if claim.n_needed is not None:
        needed = f"About {wording.count(claim.n_needed, 'subject')} would decide it."
        needed = "" if needed.replace(",", "") in claim.reason.replace(",", "") else needed
    evidence = tuple(
        links.get(key, Link(f"{key} (not in this audit)", "")) for key in claim.findings
    )
    return Judgement(claim.statement, claim.verdict, claim.reason, needed, evidence)


def _facts(result: AuditResult) -> tuple[tuple[str, str], ...]:
    return (
        ("Audited on", wording.day(result.created)),
        ("Tier", f"{result.tier}: {wording.TIERS[result.tier]}"),
        ("Forget set", f"{result.forget_set.name}, digest {short(result.forget_set.digest)}"),
        ("Seed", str(result.seed)),
        ("Took", wording.duration(result.seconds)),
        ("Written by", f"unlearn {result.tool_version}, schema {result.schema_version}"),
    )


def _splits(result: AuditResult) -> tuple[SplitLine, ...]:
    used = result.forget_set

    def amount(n: int | None) -> str:
        return f"{n:,}" if n else wording.NOT_MEASURED

    return tuple(
        SplitLine(
            *wording.SPLITS[split],
            amount(used.records.get(split)),
            amount(used.subjects.get(split)),
        )
        for split in SPLITS
    )


def _groups(result: AuditResult) -> tuple[Group, ...]:
    scales = zip(result.findings, axes(result.findings), strict=True)
    rows = [
        (finding.property, _row(place, finding, scale, result.forget_set.subjects))
        for place, (finding, scale) in enumerate(scales, 1)
    ]
    return tuple(
        Group(*words, tuple(row for kind, row in rows if kind == name))
        for name, words in wording.PROPERTIES.items()
        if any(kind == name for kind, _ in rows)
    )


def _row(place: int, finding: Finding, axis: Axis, subjects: Mapping[Measured, int]) -> Row:
    groups = min((one.clusters for one in finding.models.values()), default=wording.FEW_SUBJECTS)
    n_subjects = subjects.get(finding.split, groups)
    return Row(
        anchor=f"finding-{place}",
        title=finding.title,
        key=finding.key,
        probe=finding.probe,
        split=wording.SPLITS[finding.split][0],
        direction=f"{finding.more_knowledge} = knows more",
        cells=tuple(_cell(role, finding, n_subjects) for role in wording.ROLES),
        note=wording.few_subjects(groups, n_subjects),
        finding=finding,
        axis=axis,
    )


def _cell(role: Role, finding: Finding, n_subjects: int) -> Cell:
    estimate = finding.models.get(role)
    if estimate is None:
        return Cell(role, wording.NOT_MEASURED, "", "", "")
    return Cell(
        role,
        wording.number(estimate.value),
        finding.unit,
        wording.interval(estimate),
        wording.sample_size(estimate, n_subjects),
    )


def _scene(example: Example) -> Scene:
    outputs = (
        Said(
            f"{name}, {meaning}", _cut(example.outputs.get(role, f"({wording.NOT_MEASURED})")), role
        )
        for role, (name, meaning) in wording.ROLES.items()
    )
    return Scene(
        f"Record {example.record_id}, {wording.SPLITS[example.split][0].lower()}",
        (
            Said("Prompt", _cut(example.prompt)),
            Said("Answer in the record", _cut(example.expected)),
            *outputs,
        ),
    )


def _cut(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS
    if left <= 0:
        return text
    return f"{text[:SHOWN_CHARACTERS]}… ({wording.count(left, 'more character')} in audit.json)"
