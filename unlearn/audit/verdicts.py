"""From findings to verdicts: one claim at a time, and the worst of them for the whole audit.

A claim compares the audited model with another one on the same records. PASS needs the 90 %
interval of the paired difference, over subjects, inside the margin (one-sided tests at 5 %); FAIL
needs it outside; anything else is INCONCLUSIVE, with the number of subjects that would decide.

Fewer than five subjects never give PASS; they give FAIL where a sign-flip test over facts shows
that these records themselves exceed the margin. Nor does a good mean hide a person: one subject of
whom far more is still answered than the margin explains makes the claim FAIL.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from unlearn.audit.criteria import (
    ALPHA,
    CONFIDENCE,
    CRITERIA,
    DOUBT_MARGIN,
    MIN_SUBJECTS,
    Comparison,
    Criterion,
    Scale,
)
from unlearn.audit.figures import clusters_of, seed_of
from unlearn.probes.probe import Material, fact_of
from unlearn.statistics.clusters import (
    ZERO_SPREAD,
    Interval,
    Sample,
    binomial_tail,
    clusters_needed,
    clusters_needed_for_bound,
    mean_interval,
    position,
    sign_flip,
    spread_between,
)
from unlearn.types import Claim, Finding, Record, Role, Verdict

MOST_SUBJECTS = 100_000
"""A need beyond this is not stated: the figure lies on the margin itself."""

MOST_TRIED = 5_000
"""Subjects up to which exact bounds are computed to find a need. Beyond, too, none is stated."""

SEVERITY = (Verdict.FAIL, Verdict.CONFOUNDED, Verdict.INCONCLUSIVE, Verdict.NOT_RUN, Verdict.PASS)


@dataclass(frozen=True)
class Case:
    """All that a verdict may rest on."""

    findings: Mapping[str, Finding]
    material: Material
    digests: Mapping[Role, str]
    probes: frozenset[str]
    """The probes that were run."""
    seed: int


class Judgement(NamedTuple):
    """All claims, and what they add up to."""

    claims: tuple[Claim, ...]
    verdict: Verdict


class Decision(NamedTuple):
    """What one comparison says."""

    verdict: Verdict
    reason: str
    n_needed: int | None = None


def judge(case: Case) -> Judgement:
    """Every claim's verdict, and the worst of them.

    FAIL over CONFOUNDED over INCONCLUSIVE over PASS. A claim that was NOT RUN makes the whole at
    best INCONCLUSIVE, except where the forget set has no implications to ask for.
    """
    claims = tuple(_claim(criterion, case) for criterion in CRITERIA)
    excused = {
        c.id for c in CRITERIA if c.excusable and all(_lacking(p, case) for p in c.comparisons)
    }
    counted = [
        claim.verdict
        for claim in claims
        if not (claim.verdict is Verdict.NOT_RUN and claim.id in excused)
    ]
    worst = min(counted, key=SEVERITY.index)
    return Judgement(claims, Verdict.INCONCLUSIVE if worst is Verdict.NOT_RUN else worst)


def _claim(criterion: Criterion, case: Case) -> Claim:
    found = [c for c in criterion.comparisons if c.key in case.findings]
    decision = _decide(criterion, found, case)
    if criterion.against == "reference":
        doubt = reference_doubt(case)
        if doubt and decision.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE):
            decision = Decision(Verdict.CONFOUNDED, f"{doubt} {decision.reason}")
    return Claim(
        id=criterion.id,
        statement=criterion.statement,
        verdict=decision.verdict,
        reason=decision.reason,
        findings=tuple(c.key for c in found),
        n_needed=decision.n_needed,
    )


def _decide(criterion: Criterion, found: Sequence[Comparison], case: Case) -> Decision:
    missing = [
        c
        for c in criterion.comparisons
        if c not in found and not (c.optional and _lacking(c, case))
    ]
    against = criterion.against
    if found and against in case.digests:
        decisions = [_compare(comparison, against, case) for comparison in found]
        worst = min((d.verdict for d in decisions), key=SEVERITY.index)
        if not missing or worst is Verdict.FAIL:
            return _joined(worst, decisions)
    if missing:
        return Decision(Verdict.NOT_RUN, _why_missing(missing[0], case))
    if against == "original":
        return Decision(Verdict.NOT_RUN, "No original model was given to compare with.")
    figures = "; ".join(
        f"{case.findings[c.key].title}: {case.findings[c.key].models['unlearned'].value:.3f}"
        for c in found
    )
    return Decision(
        Verdict.INCONCLUSIVE,
        "No never-trained reference was given, so nothing says how a model that never saw the "
        f"records would score. {figures}.",
    )


def _joined(verdict: Verdict, decisions: Sequence[Decision]) -> Decision:
    """One decision of several: the worst verdict, all reasons, the largest need."""
    needs = [d.n_needed for d in decisions if d.n_needed is not None]
    return Decision(
        verdict,
        " ".join(d.reason for d in decisions),
        max(needs) if needs and verdict is Verdict.INCONCLUSIVE else None,
    )


def _lacking(comparison: Comparison, case: Case) -> bool:
    """Whether the probe was run and found nothing to measure."""
    return comparison.probe in case.probes and comparison.key not in case.findings


def _why_missing(comparison: Comparison, case: Case) -> str:
    if comparison.probe not in case.probes:
        return f"The probe {comparison.probe!r} was not run."
    if not case.material.get(comparison.split):
        return f"The forget set has no {comparison.split} split."
    return f"The {comparison.split} split has too few {comparison.needs} to measure."


def _compare(comparison: Comparison, against: Role, case: Case) -> Decision:
    finding = case.findings[comparison.key]
    if against == "original" and case.digests["unlearned"] == case.digests["original"]:
        return Decision(
            Verdict.PASS, f"{finding.title}: the audited model is the original, bit for bit."
        )
    records = _measured(comparison, case)
    harm = _harm(comparison, finding, against, records)
    interval = mean_interval(
        harm,
        CONFIDENCE,
        seed=seed_of(case.seed, f"{comparison.key} {comparison.scale}"),
        bounds=comparison.scale.bounds,
        n_units=len({fact_of(record) for record in records}),
    )
    subjects = len({record.subject for record in records})
    leaks = _leaks(comparison, finding, records)
    evidence = comparison.scale.describe(finding, against, interval, comparison.limit)
    n = len(records)
    evidence += f"; n = {n} record{'s' * (n != 1)}, "
    evidence += f"{subjects} subject{'s' * (subjects != 1)}{leaks}"
    if subjects >= MIN_SUBJECTS:
        decision = _of_subjects(interval, leaks, comparison.limit)
    else:
        decision = _of_facts(harm, records, comparison.limit, case.seed)
    reason = f"{evidence}. {decision.reason}"
    if decision.verdict is not Verdict.INCONCLUSIVE:
        return Decision(decision.verdict, reason)
    needed = subjects_needed(harm, records, comparison)
    enough = f"About {needed} subjects would decide it." if needed else "It lies on the margin."
    return Decision(decision.verdict, f"{reason} {enough}", needed)


def _of_subjects(interval: Interval, leaks: Leaks, limit: float) -> Decision:
    """The verdict where there are subjects enough for an interval over them."""
    where = position(interval, high=limit)
    if where == "outside":
        return Decision(Verdict.FAIL, "Beyond the margin.")
    if worst := leaks.standing_out(limit):
        return Decision(Verdict.FAIL, f"The mean hides a subject: {worst}.")
    if where == "inside":
        return Decision(Verdict.PASS, "Within the margin.")
    return Decision(Verdict.INCONCLUSIVE, "Not decided: the interval reaches across the margin.")


def _of_facts(harm: Sample, records: Sequence[Record], limit: float, seed: int) -> Decision:
    """The verdict where subjects are too few: whether these very facts exceed the margin."""
    facts = [fact_of(record) for record in records]
    p = sign_flip(Sample((harm.values - limit).tolist(), facts), seed=seed)
    if p <= ALPHA:
        test = f"sign-flip test over {len(set(facts))} facts, p = {p:.2g}"
        return Decision(Verdict.FAIL, f"Beyond the margin on these records ({test}).")
    n = len({record.subject for record in records})
    few = f"{n} subject{' is' if n == 1 else 's are'} too few for a PASS"
    return Decision(
        Verdict.INCONCLUSIVE, f"Not decided: {few}, which needs at least {MIN_SUBJECTS}."
    )


def _harm(
    comparison: Comparison, finding: Finding, against: Role, records: Sequence[Record]
) -> Sample:
    values = (
        np.array([finding.records[role][record.id] for record in records])
        for role in ("unlearned", against)
    )
    harm = comparison.scale.harm(*values)
    return Sample(harm.tolist(), clusters_of(records).labels)


class Leaks(NamedTuple):
    """Facts that are answered although the reference does not answer them, subject by subject."""

    leaked: Counter[str]
    facts: Counter[str]

    def __str__(self) -> str:
        total = f"{self.leaked.total()} of {self.facts.total()} facts"
        return f"; answered beyond the reference: {total}" if self.facts else ""

    def standing_out(self, margin: float) -> str:
        """The worst subject, if the margin cannot explain it; empty otherwise.

        Exact binomial test of each subject's share against the margin, at 5 % over all subjects
        (Bonferroni).
        """
        tails = {
            subject: binomial_tail(self.leaked[subject], n_facts, margin)
            for subject, n_facts in self.facts.items()
        }
        worst = min(tails, key=tails.__getitem__, default=None)
        if worst is None or tails[worst] * len(tails) > ALPHA:
            return ""
        return (
            f"of one subject {self.leaked[worst]} of {self.facts[worst]} facts are still answered"
        )


def _leaks(comparison: Comparison, finding: Finding, records: Sequence[Record]) -> Leaks:
    """Where single facts or subjects leak; empty for figures that are no answers to forget."""
    if comparison.scale is not Scale.ABOVE or not finding.metric.endswith("answers"):
        return Leaks(Counter(), Counter())
    audited, reference = finding.records["unlearned"], finding.records["reference"]
    facts = {fact_of(r) for r in records}
    leaked = {fact_of(r) for r in records if audited[r.id] > reference[r.id]}
    return Leaks(
        Counter(subject for subject, _ in leaked), Counter(subject for subject, _ in facts)
    )


def subjects_needed(harm: Sample, records: Sequence[Record], comparison: Comparison) -> int | None:
    """Roughly how many subjects would decide if the figures stay as they are; None if too many."""
    limit = comparison.limit
    distance = abs(limit - harm.mean)
    if distance < ZERO_SPREAD:
        return None
    subjects = [record.subject for record in records]
    facts = [fact_of(record) for record in records]
    n_subjects = len(set(subjects))
    spread = spread_between(Sample(harm.figures, subjects), facts)
    needed = [MIN_SUBJECTS, n_subjects + 1, clusters_needed(spread, distance, alpha=ALPHA)]
    if math.isfinite(comparison.scale.bounds[1]) and harm.mean < limit:
        per_subject = len(set(facts)) / n_subjects
        bound = clusters_needed_for_bound(harm, limit, per_subject, most=MOST_TRIED, alpha=ALPHA)
        if bound is None:
            return None
        needed.append(bound)
    return max(needed) if max(needed) <= MOST_SUBJECTS else None


def reference_doubt(case: Case) -> str | None:
    """Why the reference cannot stand for a model that never saw the records; None if it can.

    It is the original itself, or it answers forget records clearly better than holdout records,
    which nobody was trained on.
    """
    if "reference" not in case.digests:
        return None
    if case.digests["reference"] == case.digests.get("original"):
        return "The reference is the original itself, so it is no model that never saw the records."
    forget, holdout = (case.findings.get(f"answers/{split}") for split in ("forget", "holdout"))
    if forget is None or holdout is None:
        return None
    known, guessed = forget.models["reference"], holdout.models["reference"]
    if known.low <= guessed.high + DOUBT_MARGIN:
        return None
    return (
        f"The reference answers {known.value:.0%} of the forget records but {guessed.value:.0%} of "
        "the holdout records: it seems to have seen what it should never have seen."
    )


def label_of(claims: Sequence[Claim], case: Case) -> Literal["suppressed", "none"]:
    """``suppressed`` or ``none``; the word ``removed`` needs probes of the deep tier.

    Suppressed says what these outputs show of these records, and no more: verbatim text and
    answers were judged, no ``forgotten-*`` claim fails or is confounded, and no figure that such a
    claim rests on lies above the reference's by more than its margin, were the claim decided or
    not. So one person can be called suppressed, though one person never gives PASS; and two
    implied answers of two against one of two by the reference, 50 points where 25 are allowed,
    keep the word from them. Never of the original itself.
    """
    judged = {c.id for c in claims if c.verdict is not Verdict.NOT_RUN}
    if "reference" not in case.digests or not {"forgotten-verbatim", "forgotten-answers"} <= judged:
        return "none"
    if case.digests["unlearned"] == case.digests.get("original"):
        return "none"
    forgotten = [claim for claim in claims if claim.id.startswith("forgotten-")]
    return "suppressed" if all(_shows_nothing(claim, case) for claim in forgotten) else "none"


def _shows_nothing(claim: Claim, case: Case) -> bool:
    """Whether no figure of a claim leaks in its point estimate, and the claim has no worse fault.

    A claim that was NOT RUN may still have figures: those of its other comparisons.
    """
    if claim.verdict in (Verdict.FAIL, Verdict.CONFOUNDED):
        return False
    (criterion,) = (c for c in CRITERIA if c.id == claim.id)
    return all(
        _harm(c, case.findings[c.key], criterion.against, _measured(c, case)).mean <= c.limit
        for c in criterion.comparisons
        if c.key in case.findings
    )


def _measured(comparison: Comparison, case: Case) -> list[Record]:
    """The records of the comparison's split that it has figures of."""
    figures = case.findings[comparison.key].records["unlearned"]
    return [record for record in case.material[comparison.split] if record.id in figures]
