"""How near an unlearned model is to one that never knew, by its worst figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from unlearn.types import AuditResult

FIGURES: Mapping[str, str] = {
    "extraction_strength/forget": "extraction strength",
    "probability/forget": "probability",
    "held_out_answers/forget": "held-out prompts",
    "implied_answers/forget": "two-hop",
    "translated_answers/forget": "second language",
    "relearned_answers/forget": "relearned",
    "answers/forget@int8": "int8",
    "answers/forget@int4": "int4",
    "lens_answers/forget": "logit lens",
    "patched_knowledge/forget": "patching depth",
}
"""The figures that count, and what a table calls them."""

PROBES = (
    "answers",
    "extraction-strength",
    "probability",
    "held-out-answers",
    "implied-answers",
    "translated-answers",
    "relearn-facts",
    "logit-lens",
    "patching-depth",
    "kept-answers",
    "perplexity",
)
"""What has to be run for them, and for what was to stay."""

LEAST = 0.1
"""Original and reference have to differ by so much, or a figure tells nothing of forgetting."""

FEWEST = 8
"""A figure of fewer records is left out: of two answers one more or less is half of everything."""


class Equivalence(NamedTuple):
    """Retrain equivalence: 1 for a model that nothing tells from the reference."""

    value: float
    """The least of the shares; negative for a model that is farther away than the original."""
    worst: str
    """The figure that has it."""
    shares: Mapping[str, float]
    """Figure to ``1 - |unlearned - reference| / |original - reference|``."""


def equivalence(result: AuditResult) -> Equivalence | None:
    """``R = min over figures of 1 - |x_unlearned - x_reference| / |x_original - x_reference|``.

    Higher = more forgotten, at most 1. A figure above the reference and one below it count alike:
    to be told apart by what is missing is no better than by what is left. Figures of fewer than 8
    records are left out, and those in which original and reference differ by less than 0.1; None
    where no figure is left. The original is not measured at lower precision; its figure at full
    precision stands in.
    """
    shares = {}
    found = {finding.key: finding.models for finding in result.findings}
    for key in FIGURES:
        models = {**found.get(key.partition("@")[0], {}), **found.get(key, {})}
        if key not in found or not {"original", "reference"} <= models.keys():
            continue
        unlearned, original, reference = (
            models[role].value for role in ("unlearned", "original", "reference")
        )
        enough = models["unlearned"].n >= FEWEST
        if enough and abs(original - reference) >= LEAST:
            shares[key] = 1 - abs(unlearned - reference) / abs(original - reference)
    if not shares:
        return None
    worst = min(shares, key=lambda key: shares[key])
    return Equivalence(shares[worst], worst, shares)
