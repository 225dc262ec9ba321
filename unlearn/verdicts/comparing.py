"""One comparison: the audited model's figure against another model's, with a margin.

PASS needs the 90 % interval of the difference, over subjects, inside the margin (one-sided tests at
5 %); FAIL needs it outside; anything else is INCONCLUSIVE, with the number of subjects that would
decide. Fewer than five subjects never give PASS; they give FAIL where a sign-flip test over facts
shows that these records themselves exceed the margin. Nor does a good mean hide a person: one
subject of whom far more is still answered than the margin explains makes the comparison FAIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unlearn.probes.probe import fact_of
from unlearn.statistics.clusters import (
    ZERO_SPREAD,
    Interval,
    Sample,
    clusters_needed,
    clusters_needed_for_bound,
    mean_interval,
    position,
    sign_flip,
    spread_between,
)
from unlearn.statistics.differences import difference_of_means
from unlearn.statistics.multiplicity import p_by_inversion
from unlearn.statistics.ranking import auc_difference
from unlearn.types import Finding, Record, Role, Verdict
from unlearn.verdicts.case import Case, Decision
from unlearn.verdicts.criteria import ALPHA, MIN_SUBJECTS, Comparison
from unlearn.verdicts.figures import clusters_of, key_of, sample_of, seed_of
from unlearn.verdicts.leaks import leaks_of
from unlearn.verdicts.scales import CONFIDENCE, Scale

MOST_SUBJECTS = 100_000
"""A need beyond this is not stated: the figure lies on the margin itself."""

MOST_TRIED = 5_000
"""Subjects up to which exact bounds are computed to find a need. Beyond, too, none is stated."""


class Compared(NamedTuple):
    """What a comparison says by itself, and how surely it says FAIL."""

    decision: Decision
    p: float = 1.0
    """Of the test that failed it; 1 where it did not fail."""
    evidence: str = ""
    """The figures, without what they decide."""
    figure: str = ""
    """What was compared, whatever the precision."""


class Harm(NamedTuple):
    """The harm of a comparison: its interval at any confidence, and record by record if it is."""

    interval_at: Callable[[float], Interval]
    records: Sequence[Record]
    sample: Sample | None
    """None where the harm is no mean over records."""

    @property
    def n_subjects(self) -> int:
        """How many subjects the records are about."""
        return len({record.subject for record in self.records})


def compare(comparison: Comparison, against: Role, case: Case) -> Compared:
    """What the figures of a comparison decide."""
    finding = case.findings[comparison.key]
    if against == "original" and case.digests["unlearned"] == case.digests["original"]:
        same = f"{finding.title}: the audited model is the original, bit for bit."
        return Compared(Decision(Verdict.PASS, same))
    harm = harm_of(comparison, against, case)
    limit = case.limit(comparison)
    interval = harm.interval_at(CONFIDENCE)
    leaks = leaks_of(comparison.scale, finding, harm.records)
    n = len(harm.records)
    evidence = (
        f"{_where(comparison)}{comparison.scale.describe(finding, against, interval, limit)}; "
        f"n = {n} record{'s' * (n != 1)}, "
        f"{harm.n_subjects} subject{'s' * (harm.n_subjects != 1)}{leaks}"
    )
    if harm.n_subjects >= MIN_SUBJECTS:
        worst = leaks.worst(limit)
        verdict, p, words = _of_subjects(harm, interval, comparison, limit)
        if verdict is not Verdict.FAIL and worst.p <= ALPHA:
            verdict, p, words = Verdict.FAIL, worst.p, f"The mean hides a subject: {worst.words}."
    else:
        verdict, p, words = _of_facts(harm, comparison, limit, case.seed)
    if verdict is not Verdict.INCONCLUSIVE:
        decision = Decision(verdict, f"{evidence}. {words}")
        return Compared(decision, p, evidence, comparison.figure)
    needed = subjects_needed(harm, comparison, limit)
    enough = f"About {needed} subjects would decide it." if needed else "It lies on the margin."
    return Compared(Decision(verdict, f"{evidence}. {words} {enough}", needed))


def harm_of(comparison: Comparison, against: Role, case: Case) -> Harm:
    """The harm of a comparison whose figures are there."""
    finding = case.findings[comparison.key]
    records = case.measured(comparison)
    seed = seed_of(case.seed, f"{comparison.key} {comparison.scale}")
    if comparison.scale is Scale.AUC:
        return Harm(_auc_harm(finding, against, case), records, None)
    if comparison.scale is Scale.APART:
        return Harm(_apart_harm(comparison, finding, case), records, None)
    values = (
        np.array([finding.records[role][record.id] for record in records])
        for role in ("unlearned", against)
    )
    harm = comparison.scale.harm(*values)
    sample = Sample(harm.tolist(), clusters_of(records).labels)
    facts = len({fact_of(record) for record in records})

    def interval_at(confidence: float) -> Interval:
        return mean_interval(
            sample, confidence, seed=seed, bounds=comparison.scale.bounds, n_units=facts
        )

    return Harm(interval_at, records, sample)


def _auc_harm(finding: Finding, against: Role, case: Case) -> Callable[[float], Interval]:
    forget, holdout = case.material["forget"], case.material["holdout"]
    samples = [
        sample_of(values[role], records)
        for role in ("unlearned", against)
        for values, records in ((finding.records, forget), (finding.contrast, holdout))
    ]
    return lambda confidence: auc_difference(*samples, confidence=confidence)


def _apart_harm(
    comparison: Comparison, finding: Finding, case: Case
) -> Callable[[float], Interval]:
    unseen = case.findings.get(key_of(comparison.metric, "holdout", comparison.condition))
    forget = sample_of(finding.records["unlearned"], case.material[comparison.split])
    if unseen is None:
        return lambda confidence: Interval(forget.mean, -1.0, 1.0)
    holdout = sample_of(unseen.records["unlearned"], case.material["holdout"])
    return lambda confidence: difference_of_means(
        forget, holdout, confidence, bounds=comparison.scale.bounds
    )


def _where(comparison: Comparison) -> str:
    return f"In {comparison.condition}: " if comparison.condition else ""


def _place(interval: Interval, scale: Scale, limit: float) -> str:
    low = -limit if scale.two_sided else -math.inf
    return position(interval, low=low, high=limit)


def _of_subjects(
    harm: Harm, interval: Interval, comparison: Comparison, limit: float
) -> tuple[Verdict, float, str]:
    """The verdict where there are subjects enough for an interval over them."""
    where = _place(interval, comparison.scale, limit)
    if where == "outside":
        p = p_by_inversion(harm.interval_at, limit, two_sided=comparison.scale.two_sided)
        return Verdict.FAIL, p, "Beyond the margin."
    if where == "inside":
        return Verdict.PASS, 1.0, "Within the margin."
    return Verdict.INCONCLUSIVE, 1.0, "Not decided: the interval reaches across the margin."


def _of_facts(
    harm: Harm, comparison: Comparison, limit: float, seed: int
) -> tuple[Verdict, float, str]:
    """The verdict where subjects are too few: whether these very facts exceed the margin."""
    facts = [fact_of(record) for record in harm.records]
    if harm.sample is None:
        verdict, p, words = _of_subjects(harm, harm.interval_at(CONFIDENCE), comparison, limit)
        if verdict is Verdict.FAIL:
            return verdict, p, f"{words[:-1]} on these records."
    else:
        p = sign_flip(Sample((harm.sample.values - limit).tolist(), facts), seed=seed)
        if p <= ALPHA:
            test = f"sign-flip test over {len(set(facts))} facts, p = {p:.2g}"
            return Verdict.FAIL, p, f"Beyond the margin on these records ({test})."
    n = harm.n_subjects
    few = f"{n} subject{' is' if n == 1 else 's are'} too few for a PASS"
    words = f"Not decided: {few}, which needs at least {MIN_SUBJECTS}."
    return Verdict.INCONCLUSIVE, 1.0, words


def subjects_needed(harm: Harm, comparison: Comparison, limit: float) -> int | None:
    """Roughly how many subjects would decide if the figures stay as they are; None if too many."""
    if harm.sample is None:
        return _needed_of_interval(harm, comparison, limit)
    sample = harm.sample
    distance = abs(limit - sample.mean)
    if distance < ZERO_SPREAD:
        return None
    subjects = [record.subject for record in harm.records]
    facts = [fact_of(record) for record in harm.records]
    spread = spread_between(Sample(sample.figures, subjects), facts)
    needed = [MIN_SUBJECTS, harm.n_subjects + 1, clusters_needed(spread, distance, alpha=ALPHA)]
    if math.isfinite(comparison.scale.bounds[1]) and sample.mean < limit:
        per_subject = len(set(facts)) / harm.n_subjects
        bound = clusters_needed_for_bound(sample, limit, per_subject, most=MOST_TRIED, alpha=ALPHA)
        if bound is None:
            return None
        needed.append(bound)
    return max(needed) if max(needed) <= MOST_SUBJECTS else None


def _needed_of_interval(harm: Harm, comparison: Comparison, limit: float) -> int | None:
    """The need where only an interval is known: its width shrinks with the root of the subjects."""
    value, low, high = harm.interval_at(CONFIDENCE)
    beyond = abs(value) if comparison.scale.two_sided else value
    distance = abs(limit - beyond)
    if not math.isfinite(high - low) or distance < ZERO_SPREAD:
        return None
    needed = math.ceil(harm.n_subjects * ((high - low) / 2 / distance) ** 2)
    needed = max(MIN_SUBJECTS, harm.n_subjects + 1, needed)
    return needed if needed <= MOST_SUBJECTS else None
