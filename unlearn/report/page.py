"""What a report says, in order and in plain values: the one source of its HTML and its Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unlearn.report import wording
from unlearn.report.checking import Checking, checking, summary
from unlearn.report.ladder import Link, Step, climbed, steps
from unlearn.report.obligations import Obligation, obligations
from unlearn.report.readers import Reader
from unlearn.report.rows import Condition, Group, conditions, groups
from unlearn.report.signature import Signature
from unlearn.report.standouts import Standouts, standouts
from unlearn.types import (
    MEASURED,
    SPLITS,
    AuditedModel,
    AuditResult,
    Claim,
    Example,
    Finding,
    Role,
    Verdict,
)

SHOWN_EXAMPLES = 20
SHOWN_CHARACTERS = 600
"""Per text of an example. Keeps one file small enough to send by mail; audit.json holds all."""


class Judgement(NamedTuple):
    """One claim, as it is shown."""

    anchor: str
    id: str
    statement: str
    verdict: Verdict
    reason: tuple[str, ...]
    """One part for each figure that the claim rests on, where the reason names it."""
    needed: str
    """What would decide an inconclusive claim, or nothing."""
    evidence: tuple[Link, ...]


class ModelLine(NamedTuple):
    """One role, and the model that played it."""

    role: Role
    name: str
    meaning: str
    model: AuditedModel | None

    @property
    def parameters(self) -> str:
        """How many parameters, with thousands marked."""
        if self.model is None:
            return wording.NOT_MEASURED
        n = self.model.parameters
        return wording.ONLY_SERVED if n is None else f"{n:,}"


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
    climbed: str
    """How much of the ladder is reached; empty where the audit has none."""
    ladder: tuple[Step, ...]
    tally: tuple[tuple[Verdict, int], ...]
    judgements: tuple[Judgement, ...]
    facts: tuple[tuple[str, str], ...]
    models: tuple[ModelLine, ...]
    splits: tuple[SplitLine, ...]
    limits: tuple[str, ...]
    groups: tuple[Group, ...]
    conditions: tuple[Condition, ...]
    standouts: Standouts
    scenes: tuple[Scene, ...]
    scenes_left_out: int
    provenance: tuple[tuple[str, str], ...]
    cost: tuple[tuple[str, str], ...]
    """What forgetting took."""
    strengths: tuple[tuple[str, str, str, str], ...]
    """Multiple of the change, share still known, retain NLL, and whether it was kept."""
    reader: Reader
    signed: str
    """Whether the audit is signed, in a few words."""
    obligations: tuple[Obligation, ...]
    checking: Checking


def page(
    result: AuditResult, reader: Reader = "officer", signature: Signature | None = None
) -> Page:
    """The page that an audit fills, for a reader who may see all of ``result``."""
    audited = result.models.get("unlearned")
    return Page(
        title=result.forget_set.name,
        digest=short(audited.digest) if audited else wording.NOT_MEASURED,
        verdict=result.verdict,
        headline=wording.headline(result),
        outcome=wording.LABELS[result.label],
        warnings=_warnings(result),
        climbed=climbed(result.assurance),
        ladder=steps(result),
        tally=wording.tally(result.claims),
        judgements=_judgements(result),
        facts=_facts(result),
        models=tuple(
            ModelLine(role, *words, result.models.get(role))
            for role, words in wording.ROLES.items()
        ),
        splits=_splits(result),
        limits=result.limits or (wording.NO_LIMITS,),
        groups=groups(result),
        conditions=conditions(result),
        standouts=standouts(result),
        scenes=tuple(_scene(example) for example in result.examples[:SHOWN_EXAMPLES]),
        scenes_left_out=max(0, len(result.examples) - SHOWN_EXAMPLES),
        provenance=tuple((key.replace("_", " "), text) for key, text in result.provenance.items()),
        cost=tuple((name, wording.number(value)) for name, value in result.efficiency.items()),
        strengths=tuple(
            (
                f"{point.strength:g}",
                wording.number(point.still_known),
                wording.number(point.retain_nll),
                "kept" if point.kept else "",
            )
            for point in result.strengths
        ),
        reader=reader,
        signed=summary(signature),
        obligations=obligations(result),
        checking=checking(signature),
    )


def short(digest: str) -> str:
    """The first twelve characters of a digest."""
    return digest[:12]


def _warnings(result: AuditResult) -> tuple[str, ...]:
    missing = (("reference", wording.NO_REFERENCE), ("original", wording.NO_ORIGINAL))
    return tuple(text for role, text in missing if role not in result.models)


def _judgements(result: AuditResult) -> tuple[Judgement, ...]:
    links = {
        finding.key: Link(_title(finding), f"finding-{place}")
        for place, finding in enumerate(result.findings, 1)
    }
    return tuple(_judgement(place, claim, links) for place, claim in enumerate(result.claims, 1))


def _title(finding: Finding) -> str:
    return f"{finding.title}, {finding.condition}" if finding.condition else finding.title


def _judgement(place: int, claim: Claim, links: dict[str, Link]) -> Judgement:
    needed = ""
    if claim.n_needed is not None:
        needed = f"About {wording.count(claim.n_needed, 'subject')} would decide it."
        needed = "" if needed.replace(",", "") in claim.reason.replace(",", "") else needed
    evidence = tuple(
        links.get(key, Link(f"{key} (not in this audit)", "")) for key in claim.findings
    )
    reason = apart(claim.reason, [link.title for link in evidence])
    return Judgement(
        f"claim-{place}", claim.id, claim.statement, claim.verdict, reason, needed, evidence
    )


def apart(reason: str, titles: Sequence[str]) -> tuple[str, ...]:
    """The reason, cut where it turns to the next figure, so that nobody reads a wall of text.

    >>> apart("Answers: 1.000. Ranks: 0.5. Enough.", ["Answers", "Ranks"])
    ('Answers: 1.000.', 'Ranks: 0.5. Enough.')
    """
    cuts = {reason.find(f" {title}: ") + 1 for title in titles if title}
    starts = sorted(cuts | {0})
    return tuple(
        reason[start:end].strip(" ") for start, end in zip(starts, [*starts[1:], None], strict=True)
    )


def _facts(result: AuditResult) -> tuple[tuple[str, str], ...]:
    rounded = wording.below_half_step(result.below_half_step)
    return (
        ("Audited on", wording.day(result.created)),
        ("Tier", f"{result.tier}: {wording.TIERS[result.tier]}"),
        ("Forget set", f"{result.forget_set.name}, digest {short(result.forget_set.digest)}"),
        ("Margins", wording.margins(result.calibration)),
        *((("Smaller than rounding", rounded),) if rounded else ()),
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
        for split in MEASURED
        if split in SPLITS or used.records.get(split)
    )


def _scene(example: Example) -> Scene:
    outputs = (
        Said(
            f"{name}, {meaning}",
            wording.cut(example.outputs.get(role, f"({wording.NOT_MEASURED})"), SHOWN_CHARACTERS),
            role,
        )
        for role, (name, meaning) in wording.ROLES.items()
    )
    name = wording.cut(example.record_id, SHOWN_CHARACTERS)
    return Scene(
        f"Record {name}, {wording.SPLITS[example.split][0].lower()}",
        (
            Said("Prompt", wording.cut(example.prompt, SHOWN_CHARACTERS)),
            Said("Answer in the record", wording.cut(example.expected, SHOWN_CHARACTERS)),
            *outputs,
        ),
    )
