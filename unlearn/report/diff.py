"""What changed between two audits of one forget set: claims, rungs, figures, records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from unlearn.errors import InputError
from unlearn.types import AuditResult, Claim, Estimate, Finding, Measured, Noun, Rung, Verdict

Change = Literal["worse", "better", "changed", "same", "new", "gone"]
CHANGES: tuple[Change, ...] = ("worse", "better", "changed", "new", "gone", "same")
"""In the order they are shown."""

ANSWERED = 0.5
"""A record counts as answered when at least this share of its prompts brings the answer."""


class ClaimChange(Noun):
    """One claim before and after."""

    id: str
    statement: str
    change: Change
    """``worse``: from PASS to anything else, or from anything else to FAIL. ``better``: to PASS, or
    away from FAIL. ``changed``: between verdicts that prove nothing either way."""
    before: Verdict | None
    after: Verdict | None
    reason: str
    """Of the later audit; of the earlier one where the claim is gone."""


class RungChange(Noun):
    """One step of the ladder of assurance that changed."""

    id: str
    statement: str
    before: str
    """Its state; empty where the audit had no such step."""
    after: str


class FigureChange(Noun):
    """One figure of the unlearned model that moved."""

    key: str
    title: str
    unit: str
    before: Estimate
    after: Estimate
    knows: Literal["more", "less"]
    """What the move says of the model."""
    apart: bool
    """Whether the two 95 % intervals have nothing in common. That is a stricter test than 5 %, so
    intervals that overlap are no proof that nothing moved."""


class RecordChange(Noun):
    """How single records of one figure of answers changed."""

    key: str
    title: str
    split: Measured
    compared: int
    """Records that both audits have."""
    gained: int
    """Answered now and not before. On records to forget: what came back."""
    lost: int
    """Answered before and not now. On records to keep: what was damaged."""


class Diff(Noun):
    """Two audits, the later against the earlier."""

    verdict_before: Verdict
    verdict_after: Verdict
    label_before: str
    label_after: str
    notes: tuple[str, ...]
    """Why some of what changed may not come from the models."""
    claims: tuple[ClaimChange, ...]
    rungs: tuple[RungChange, ...]
    """Those whose state changed."""
    figures: tuple[FigureChange, ...]
    """Those that moved, by the order of the later audit."""
    figures_compared: int
    figures_new: tuple[str, ...]
    figures_gone: tuple[str, ...]
    records: tuple[RecordChange, ...]

    @property
    def worse(self) -> tuple[ClaimChange, ...]:
        """The claims that got worse."""
        return tuple(claim for claim in self.claims if claim.change == "worse")

    @property
    def exit_code(self) -> int:
        """1 where a claim got worse, else 0. New and gone claims do not count."""
        return 1 if self.worse else 0


def diff(before: AuditResult, after: AuditResult, *, other_set: bool = False) -> Diff:
    """What changed from one audit to another.

    Args:
        before: the earlier audit.
        after: the later one.
        other_set: compare although the forget sets differ. Single records are then left out.

    Raises:
        InputError: the forget sets differ, and ``other_set`` does not allow it.
    """
    one_set = before.forget_set.digest == after.forget_set.digest
    if not one_set and not other_set:
        raise InputError(
            f"the audits are of different forget sets: {_set(before)} and {_set(after)}, so their "
            "figures are about different records; audit both models on one forget set, or pass "
            "--other-forget-set to compare all the same"
        )
    old = {finding.key: finding for finding in before.findings}
    new = {finding.key: finding for finding in after.findings}
    pairs = [(old[key], new[key]) for key in new if key in old]
    return Diff(
        verdict_before=before.verdict,
        verdict_after=after.verdict,
        label_before=before.label,
        label_after=after.label,
        notes=tuple(_notes(before, after)),
        claims=tuple(_claims(before.claims, after.claims)),
        rungs=tuple(_rungs(before.assurance, after.assurance)),
        figures=tuple(change for pair in pairs for change in _figure(*pair)),
        figures_compared=sum("unlearned" in a.models and "unlearned" in b.models for a, b in pairs),
        figures_new=tuple(key for key in new if key not in old),
        figures_gone=tuple(key for key in old if key not in new),
        records=tuple(c for pair in pairs for c in _records(*pair)) if one_set else (),
    )


def change_of(before: Verdict | None, after: Verdict | None) -> Change:
    """What a pair of verdicts means for a claim; None where the audit had no such claim."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    if before is after:
        return "same"
    if before is Verdict.PASS or after is Verdict.FAIL:
        return "worse"
    return "better" if after is Verdict.PASS or before is Verdict.FAIL else "changed"


def _claims(before: Iterable[Claim], after: Iterable[Claim]) -> list[ClaimChange]:
    old = {claim.id: claim for claim in before}
    new = {claim.id: claim for claim in after}
    found = []
    for claim in {**old, **new}.values():
        was, is_ = (side[claim.id].verdict if claim.id in side else None for side in (old, new))
        found.append(
            ClaimChange(
                id=claim.id,
                statement=claim.statement,
                change=change_of(was, is_),
                before=was,
                after=is_,
                reason=claim.reason,
            )
        )
    return sorted(found, key=lambda one: CHANGES.index(one.change))


def _rungs(before: Iterable[Rung], after: Iterable[Rung]) -> Iterator[RungChange]:
    old = {rung.id: rung for rung in before}
    new = {rung.id: rung for rung in after}
    for rung in {**old, **new}.values():
        was, is_ = (side[rung.id].state if rung.id in side else "" for side in (old, new))
        if was != is_:
            yield RungChange(id=rung.id, statement=rung.statement, before=was, after=is_)


def _figure(before: Finding, after: Finding) -> Iterator[FigureChange]:
    was, is_ = before.models.get("unlearned"), after.models.get("unlearned")
    if was is None or is_ is None or was.value == is_.value:
        return
    grew = is_.value > was.value
    yield FigureChange(
        key=after.key,
        title=after.title,
        unit=after.unit,
        before=was,
        after=is_,
        knows="more" if grew == (after.more_knowledge == "higher") else "less",
        apart=is_.low > was.high or was.low > is_.high,
    )


def _records(before: Finding, after: Finding) -> Iterator[RecordChange]:
    """How many records of a figure of answers flipped; none where the audits share no record."""
    if after.summary != "mean" or not after.metric.endswith("answers"):
        return
    was, is_ = (_answered(finding.records.get("unlearned", {})) for finding in (before, after))
    both = [record_id for record_id in is_ if record_id in was]
    if both:
        yield RecordChange(
            key=after.key,
            title=after.title,
            split=after.split,
            compared=len(both),
            gained=sum(is_[record_id] and not was[record_id] for record_id in both),
            lost=sum(was[record_id] and not is_[record_id] for record_id in both),
        )


def _answered(values: Mapping[str, float]) -> dict[str, bool]:
    return {record_id: value >= ANSWERED for record_id, value in values.items()}


def _notes(before: AuditResult, after: AuditResult) -> Iterator[str]:
    """What else differs between the audits, one sentence each."""
    if before.forget_set.digest != after.forget_set.digest:
        yield f"The forget sets differ: {_set(before)} and {_set(after)}."
    if _digest(before, "unlearned") == _digest(after, "unlearned"):
        yield "Both audits are of the same model, bit for bit."
    for role in ("original", "reference"):
        was, is_ = _digest(before, role), _digest(after, role)
        if was != is_:
            yield f"The {role} models differ: {was or 'none'} and {is_ or 'none'}."
    pairs = (
        ("tiers", before.tier, after.tier),
        ("seeds", before.seed, after.seed),
        ("versions of unlearn", before.tool_version, after.tool_version),
    )
    for name, first, second in pairs:
        if first != second:
            yield f"The {name} differ: {first} and {second}."
    if before.calibration != after.calibration:
        yield "The margins differ: the audits were calibrated differently."
    if before.forget_set.records != after.forget_set.records:
        yield "Not the same numbers of records were measured."


def _digest(result: AuditResult, role: str) -> str:
    return next((m.digest[:12] for name, m in result.models.items() if name == role), "")


def _set(result: AuditResult) -> str:
    return f"{result.forget_set.name} ({result.forget_set.digest[:12]})"
