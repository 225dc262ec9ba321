"""All that a verdict may rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from unlearn.probes.probe import Material
from unlearn.types import Finding, Record, Role, Verdict
from unlearn.verdicts.criteria import Comparison

SEVERITY = (Verdict.FAIL, Verdict.CONFOUNDED, Verdict.INCONCLUSIVE, Verdict.NOT_RUN, Verdict.PASS)
"""The worst first."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts."""
    return min(verdicts, key=SEVERITY.index)


@dataclass(frozen=True)
class Case:
    """Figures, records and models of one audit."""

    findings: Mapping[str, Finding]
    material: Material
    digests: Mapping[Role, str]
    probes: frozenset[str]
    """The probes that were run."""
    seed: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Probes of the tier that were not run, and why."""
    served_only: bool = False
    """Whether the audited model is held by words in front of its prompts, not by its weights."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """Margins from calibration, by figure, in place of the standing ones."""

    def limit(self, comparison: Comparison) -> float:
        """How much harm is allowed."""
        return self.margins.get(comparison.figure, comparison.limit)

    def measured(self, comparison: Comparison) -> list[Record]:
        """The records of the comparison's split that it has figures of."""
        figures = self.findings[comparison.key].records["unlearned"]
        return [r for r in self.material[comparison.split] if r.id in figures]

    def lacking(self, comparison: Comparison) -> bool:
        """Whether the probe was run and found nothing to measure."""
        return comparison.probe in self.probes and comparison.key not in self.findings

    def why_missing(self, comparison: Comparison) -> str:
        """Why a comparison has no figures, as a sentence."""
        if comparison.probe not in self.probes:
            why = self.left_out.get(comparison.probe, "it is not installed")
            return f"The probe {comparison.probe!r} was not run: {why}."
        if not self.material.get(comparison.split):
            return f"The forget set has no {comparison.split} split."
        return f"The {comparison.split} split has too few {comparison.needs} to measure."


class Decision(NamedTuple):
    """What one comparison, or a claim, says."""

    verdict: Verdict
    reason: str
    n_needed: int | None = None


def joined(verdict: Verdict, decisions: list[Decision]) -> Decision:
    """One decision of several: all reasons, and the largest need where nothing is decided."""
    needs = [d.n_needed for d in decisions if d.n_needed is not None]
    return Decision(
        verdict,
        " ".join(d.reason for d in decisions),
        max(needs) if needs and verdict is Verdict.INCONCLUSIVE else None,
    )
