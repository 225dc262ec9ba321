"""What can be said of one person without any reference: how answers rank among unseen ones."""

from __future__ import annotations

from unlearn.probes.choices import decoys_of
from unlearn.probes.probe import fact_of
from unlearn.statistics.permutation import facts_needed, rank_test
from unlearn.types import Verdict
from unlearn.verdicts.case import Case, Decision
from unlearn.verdicts.criteria import ALPHA, Comparison


def by_rank(comparison: Comparison, case: Case) -> Decision | None:
    """FAIL where the answers rank above their decoys more than chance explains; None otherwise.

    The null of the test is a model that never saw the facts, so ranks that fit it show nothing by
    themselves: without a reference there is no PASS. The decision is INCONCLUSIVE then, with the
    number of facts that would show a shift of the standing margin.
    """
    finding = case.findings[comparison.key]
    shares = finding.records["unlearned"]
    records = [r for r in case.material["forget"] if r.id in shares]
    n_decoys = [len(decoys_of(case.material)[fact_of(record)]) for record in records]
    if not records or min(n_decoys) < 1:
        return None
    found = rank_test([shares[r.id] for r in records], n_decoys, seed=case.seed)
    evidence = (
        f"{finding.title}: {found.share:.3f}, 0.5 expected of a model that never saw them; "
        f"permutation test over {len(records)} facts, p = {found.p_known:.2g}."
    )
    if found.p_known <= ALPHA:
        return Decision(Verdict.FAIL, f"{evidence} No reference was needed to see that.")
    needed = max(
        len(records) + 1, facts_needed(comparison.limit, round(sum(n_decoys) / len(n_decoys)))
    )
    return Decision(
        Verdict.INCONCLUSIVE,
        f"{evidence} Without a never-trained reference nothing more can be said; {needed} facts "
        f"would show a shift of {comparison.limit:g}.",
    )
