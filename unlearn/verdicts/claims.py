"""From comparisons to verdicts: one claim at a time, and the worst of them for the whole audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unlearn.statistics.multiplicity import holm
from unlearn.types import Claim, Verdict
from unlearn.verdicts.case import SEVERITY, Case, Decision, joined
from unlearn.verdicts.comparing import Compared, compare
from unlearn.verdicts.criteria import ALPHA, DOUBT_MARGIN, Comparison, Criterion
from unlearn.verdicts.decoys import by_rank

BLIND = "blind_membership/forget"
"""The finding that tells forget from holdout records without any model."""


class Judgement(NamedTuple):
    """All claims, and what they add up to."""

    claims: tuple[Claim, ...]
    verdict: Verdict


def judge(case: Case, criteria: Sequence[Criterion]) -> Judgement:
    """Every claim's verdict, and the worst of them.

    FAIL over CONFOUNDED over INCONCLUSIVE over PASS. A claim that was NOT RUN makes the whole at
    best INCONCLUSIVE, except where the forget set has no implications to ask for.
    """
    claims = tuple(_claim(criterion, case) for criterion in criteria)
    excused = {
        c.id for c in criteria if c.excusable and all(case.lacking(p) for p in c.comparisons)
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
    if doubt := _doubt(criterion, case):
        spared = Verdict.FAIL if not criterion.needs_blind or reference_doubt(case) else None
        if decision.verdict not in (Verdict.NOT_RUN, spared):
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
        c for c in criterion.comparisons if c not in found and not (c.optional and case.lacking(c))
    ]
    against = criterion.against
    if found and against in case.digests:
        decisions = _corrected([compare(c, against, case) for c in found], criterion)
        worst = min((d.verdict for d in decisions), key=SEVERITY.index)
        if not missing or worst is Verdict.FAIL:
            return joined(worst, decisions)
    if missing:
        return Decision(Verdict.NOT_RUN, case.why_missing(missing[0]))
    if not found:
        return Decision(Verdict.NOT_RUN, _why_nothing(criterion))
    if against == "original":
        return Decision(Verdict.NOT_RUN, "No original model was given to compare with.")
    if criterion.by_rank and (ranked := by_rank(found[0], case)):
        return ranked
    figures = "; ".join(
        f"{case.findings[c.key].title}: {case.findings[c.key].models['unlearned'].value:.3f}"
        for c in found
    )
    return Decision(
        Verdict.INCONCLUSIVE,
        "No never-trained reference was given, so nothing says how a model that never saw the "
        f"records would score. {figures}.",
    )


def _why_nothing(criterion: Criterion) -> str:
    if criterion.precise:
        return "No copy at lower precision was measured."
    return "The records carry nothing that its probes could use."


def _corrected(compared: Sequence[Compared], criterion: Criterion) -> list[Decision]:
    """The decisions, a FAIL taken back where Holm's correction over the search does not hold it."""
    if not criterion.searching:
        return [one.decision for one in compared]
    return [_in_search(one, _attempts(one, compared, criterion)) for one in compared]


def _attempts(
    one: Compared, compared: Sequence[Compared], criterion: Criterion
) -> Sequence[Compared]:
    """The comparisons that search for the same leak: attacks, or one figure's precisions."""
    if not criterion.precise:
        return compared
    return [other for other in compared if other.figure == one.figure]


def _in_search(one: Compared, attempts: Sequence[Compared]) -> Decision:
    if one.decision.verdict is not Verdict.FAIL:
        return one.decision
    adjusted = holm([other.p for other in attempts])
    p = next(q for other, q in zip(attempts, adjusted, strict=True) if other is one)
    if p <= ALPHA:
        return one.decision
    return Decision(
        Verdict.INCONCLUSIVE,
        f"{one.evidence}. Beyond the margin if it had been the only attempt (p = {one.p:.2g}), but "
        f"not shown as one of {len(attempts)} (p = {p:.2g}, Holm).",
    )


def _doubt(criterion: Criterion, case: Case) -> str:
    """Why a claim cannot be judged whatever its figures say; empty if it can."""
    if criterion.needs_blind and (blind := blind_doubt(case)):
        return blind
    return reference_doubt(case) if criterion.against == "reference" else ""


def blind_doubt(case: Case) -> str:
    """Why membership figures mean nothing: the records differ without any model; empty if not.

    The interval of the blind AUC excludes one half (Duan et al. 2024, SoK on distribution shift).
    """
    finding = case.findings.get(BLIND)
    if finding is None:
        return ""
    blind = finding.models["unlearned"]
    if blind.low <= 0.5 <= blind.high:
        return ""
    return (
        f"Without any model, forget and holdout records are told apart by their wording alone (AUC "
        f"{blind.value:.2f}, 95% interval {blind.low:.2f} to {blind.high:.2f}), so no membership "
        "figure can be read; draw the holdout as the forget records were drawn."
    )


def reference_doubt(case: Case) -> str:
    """Why the reference cannot stand for a model that never saw the records; empty if it can.

    It is the original itself, or it answers forget records clearly better than holdout records,
    which nobody was trained on.
    """
    if "reference" not in case.digests:
        return ""
    if case.digests["reference"] == case.digests.get("original"):
        return "The reference is the original itself, so it is no model that never saw the records."
    forget, holdout = (case.findings.get(f"answers/{split}") for split in ("forget", "holdout"))
    if forget is None or holdout is None:
        return ""
    known, guessed = forget.models["reference"], holdout.models["reference"]
    if known.low <= guessed.high + DOUBT_MARGIN:
        return ""
    return (
        f"The reference answers {known.value:.0%} of the forget records but {guessed.value:.0%} of "
        "the holdout records: it seems to have seen what it should never have seen."
    )
