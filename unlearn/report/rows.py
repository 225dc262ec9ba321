"""The figures of a report as rows: of the models as they are, and brought to lower precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unlearn.report import wording
from unlearn.report.figures import Axis, axes
from unlearn.types import AuditResult, Finding, Measured, Role

CONDITIONS = {
    "bf16": "16 bits (bf16)",
    "int8": "8 bits (int8)",
    "int4": "4 bits (int4)",
}
PRECISION = (
    "Weights are often rounded to fewer bits before a model is served, and that can undo small "
    "changes. Here both models were rounded first and then measured again; beside it stands the "
    "unlearned model as it is. Curves and all record values are in audit.json."
)


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
    reading: str
    """What a figure that is no mean says; empty for means."""
    finding: Finding
    axis: Axis


class Group(NamedTuple):
    """The findings that answer one question."""

    heading: str
    question: str
    rows: tuple[Row, ...]


class ConditionRow(NamedTuple):
    """One finding of models that were changed before measuring, beside the model as it is."""

    anchor: str
    title: str
    key: str
    split: str
    direction: str
    plain: Cell
    """Of the unlearned model as it is."""
    cells: tuple[Cell, ...]


class Condition(NamedTuple):
    """All findings of models brought to one precision."""

    name: str
    heading: str
    roles: tuple[Role, ...]
    """Of the cells of each row."""
    rows: tuple[ConditionRow, ...]


def groups(result: AuditResult) -> tuple[Group, ...]:
    """The findings of the models as they are, by what they ask."""
    numbered = [pair for pair in enumerate(result.findings, 1) if not pair[1].condition]
    scales = axes([finding for _, finding in numbered])
    rows = [
        (finding.property, _row(place, finding, scale, result.forget_set.subjects))
        for (place, finding), scale in zip(numbered, scales, strict=True)
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
        reading=reading(finding),
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


def conditions(result: AuditResult) -> tuple[Condition, ...]:
    """The other findings, by precision, in the order of the audit."""
    plain = {(f.metric, f.split): f for f in result.findings if not f.condition}
    found: dict[str, list[tuple[int, Finding]]] = {}
    for place, finding in enumerate(result.findings, 1):
        if finding.condition:
            found.setdefault(finding.condition, []).append((place, finding))
    return tuple(_condition(name, numbered, plain, result) for name, numbered in found.items())


def _condition(
    name: str,
    numbered: Sequence[tuple[int, Finding]],
    plain: Mapping[tuple[str, Measured], Finding],
    result: AuditResult,
) -> Condition:
    roles = tuple(r for r in wording.ROLES if any(r in f.models for _, f in numbered))

    def row(place: int, finding: Finding) -> ConditionRow:
        subjects = result.forget_set.subjects.get(finding.split, wording.FEW_SUBJECTS)
        as_it_is = plain.get((finding.metric, finding.split))
        beside = finding.model_copy(update={"models": as_it_is.models if as_it_is else {}})
        return ConditionRow(
            anchor=f"finding-{place}",
            title=finding.title,
            key=finding.key,
            split=wording.SPLITS[finding.split][0],
            direction=f"{finding.more_knowledge} = knows more",
            plain=_cell("unlearned", beside, subjects),
            cells=tuple(_cell(role, finding, subjects) for role in roles),
        )

    rows = tuple(row(place, finding) for place, finding in numbered)
    heading = f"{CONDITIONS.get(name, name)}: {wording.count(len(rows), 'figure')}"
    return Condition(name, heading, roles, rows)


def reading(finding: Finding) -> str:
    """What a figure that is no mean says; empty for means."""
    n = max((len(values) for values in finding.contrast.values()), default=0)
    unseen = wording.count(n, "never-seen record") if n else "never-seen records"
    if finding.summary == "auc":
        return (
            f"AUC against {unseen}: 0.5 tells nothing; above it the records look more like "
            "training data than those, below it less."
        )
    if finding.summary == "tpr":
        return f"Share above all but 1 % of {unseen}: 0.01 tells nothing."
    return ""
