"""Single facts and subjects that are answered although the reference does not answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from unlearn.probes.probe import fact_of
from unlearn.statistics.clusters import binomial_tail
from unlearn.types import Finding, Record
from unlearn.verdicts.scales import Scale


class Worst(NamedTuple):
    """The subject of whom most is still answered."""

    p: float
    """That the margin explains it: exact binomial, times the number of subjects (Bonferroni)."""
    words: str


class Leaks(NamedTuple):
    """Facts answered beyond the reference, and facts measured, subject by subject."""

    leaked: Counter[str]
    facts: Counter[str]

    def __str__(self) -> str:
        total = f"{self.leaked.total()} of {self.facts.total()} facts"
        return f"; answered beyond the reference: {total}" if self.facts else ""

    def worst(self, margin: float) -> Worst:
        """The subject whose share of answered facts the margin explains least."""
        tails = {
            subject: binomial_tail(self.leaked[subject], n_facts, margin)
            for subject, n_facts in self.facts.items()
        }
        if not tails:
            return Worst(1.0, "")
        worst = min(tails, key=tails.__getitem__)
        words = (
            f"of one subject {self.leaked[worst]} of {self.facts[worst]} facts are still answered"
        )
        return Worst(min(1.0, tails[worst] * len(tails)), words)


def leaks_of(scale: Scale, finding: Finding, records: Sequence[Record]) -> Leaks:
    """Where single facts or subjects leak; empty for figures that are no answers to forget."""
    if scale is not Scale.ABOVE or not finding.metric.endswith("answers"):
        return Leaks(Counter(), Counter())
    if "reference" not in finding.records:
        return Leaks(Counter(), Counter())
    audited, reference = finding.records["unlearned"], finding.records["reference"]
    facts = {fact_of(r) for r in records}
    leaked = {fact_of(r) for r in records if audited[r.id] > reference[r.id]}
    return Leaks(
        Counter(subject for subject, _ in leaked), Counter(subject for subject, _ in facts)
    )
