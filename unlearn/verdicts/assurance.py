"""What the verdicts add up to in words: the label, and a ladder of assurance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from unlearn.types import Claim, Rung, Verdict
from unlearn.verdicts.case import Case
from unlearn.verdicts.comparing import harm_of
from unlearn.verdicts.criteria import Criterion
from unlearn.verdicts.scales import CONFIDENCE

REMOVED = ("survives-precision", "survives-relearning", "latent-gone")
"""The claims that must pass before a model is called ``removed``."""

Label = Literal["suppressed", "removed", "none"]


def label_of(claims: Sequence[Claim], case: Case, criteria: Sequence[Criterion]) -> Label:
    """``suppressed``, ``removed`` or ``none``.

    Suppressed says what outputs show of these records, and no more: verbatim text and answers were
    judged, no claim that the records come back fails or is confounded, and no figure that such a
    claim rests on lies above the reference's by more than its margin, were the claim decided or
    not. So one person can be called suppressed, though one person never gives PASS; and two
    implied answers of two against one of two by the reference, 50 points where 25 are allowed,
    keep the word from them. Never of the original itself.

    Removed also needs PASS for lower precision, relearning and hidden states, and weights that are
    by themselves what was audited.
    """
    by_id = {claim.id: claim for claim in claims}
    judged = {c.id for c in claims if c.verdict is not Verdict.NOT_RUN}
    if "reference" not in case.digests or not {"forgotten-verbatim", "forgotten-answers"} <= judged:
        return "none"
    if case.digests["unlearned"] == case.digests.get("original"):
        return "none"
    outputs = [c for c in criteria if c.id.startswith("forgotten-")]
    if not all(_shows_nothing(c, by_id[c.id], case) for c in outputs):
        return "none"
    returning = [claim for claim in claims if claim.id in REMOVED]
    if case.served_only:
        return "suppressed"
    if len(returning) == len(REMOVED) and _all_pass([*returning, *_of(by_id, outputs)]):
        return "removed"
    return "suppressed"


def _of(by_id: Mapping[str, Claim], criteria: Iterable[Criterion]) -> Iterator[Claim]:
    """The claims, without those that the forget set gives nothing to judge by."""
    for criterion in criteria:
        claim = by_id[criterion.id]
        if not (criterion.excusable and claim.verdict is Verdict.NOT_RUN):
            yield claim


def _all_pass(claims: Iterable[Claim]) -> bool:
    return all(claim.verdict is Verdict.PASS for claim in claims)


def _shows_nothing(criterion: Criterion, claim: Claim, case: Case) -> bool:
    """Whether no figure of a claim leaks in its point estimate, and the claim has no worse fault.

    A claim that was NOT RUN may still have figures: those of its other comparisons.
    """
    if claim.verdict in (Verdict.FAIL, Verdict.CONFOUNDED):
        return False
    return all(
        harm_of(c, criterion.against, case).interval_at(CONFIDENCE).value <= case.limit(c)
        for c in criterion.comparisons
        if c.key in case.findings
    )


def ladder(claims: Sequence[Claim], case: Case, criteria: Sequence[Criterion]) -> tuple[Rung, ...]:
    """How far the evidence reaches, lowest rung first, each for a reader who is no specialist."""
    by_id = {claim.id: claim for claim in claims}
    judged = tuple(_of(by_id, (c for c in criteria if c.against == "reference")))
    margin = max(_limits(case, criteria), default=None)
    within = "" if margin is None else f" within {100 * margin:.0f} points"
    return (
        _rung(
            "output-suppressed",
            "Asked as it was trained, the model no longer gives the records away.",
            ("forgotten-verbatim", "forgotten-answers"),
            by_id,
        ),
        _rung(
            "paraphrase-and-sampling",
            "Nor when asked in other words, pressed for it, or asked many times.",
            ("forgotten-generality", "survives-sampling", "survives-elicitation"),
            by_id,
        ),
        _rung(
            "precision-and-relearning",
            "Nor after compression, or after a little further training.",
            ("survives-precision", "survives-relearning"),
            by_id,
        ),
        _rung(
            "indistinguishable",
            f"By every probe it is like a model that never saw the records{within}.",
            tuple(dict.fromkeys((*(claim.id for claim in judged), *REMOVED))),
            by_id,
        ),
        _exact(case),
    )


def _limits(case: Case, criteria: Sequence[Criterion]) -> Iterator[float]:
    """The margins, in shares, that comparisons with the reference were judged by."""
    compared = (one for c in criteria if c.against == "reference" for one in c.comparisons)
    for comparison in compared:
        if comparison.scale.in_points and comparison.key in case.findings:
            yield case.limit(comparison)


def _rung(id_: str, statement: str, needed: Sequence[str], by_id: Mapping[str, Claim]) -> Rung:
    tested = [by_id[name] for name in needed if name in by_id]
    failed = [claim.id for claim in tested if claim.verdict is Verdict.FAIL]
    if failed:
        return Rung(id=id_, statement=statement, state="not reached", why=_list("FAIL", failed))
    idle = [n for n in needed if n not in by_id or by_id[n].verdict is Verdict.NOT_RUN]
    if idle:
        return Rung(id=id_, statement=statement, state="not tested", why=_list("not run", idle))
    open_ = [claim.id for claim in tested if claim.verdict is not Verdict.PASS]
    if open_:
        return Rung(id=id_, statement=statement, state="not decided", why=_list("open", open_))
    return Rung(id=id_, statement=statement, state="reached", why=_list("PASS", list(needed)))


def _list(word: str, names: Sequence[str]) -> str:
    return f"{word}: {', '.join(names)}"


def _exact(case: Case) -> Rung:
    statement = "The weights are those of a model that never saw the records, bit for bit."
    if "reference" not in case.digests:
        return Rung(
            id="exact", statement=statement, state="not tested", why="no reference was given"
        )
    same = case.digests["unlearned"] == case.digests["reference"]
    return Rung(
        id="exact",
        statement=statement,
        state="reached" if same else "not reached",
        why="digest equal to the reference's" if same else "digest differs from the reference's",
    )
