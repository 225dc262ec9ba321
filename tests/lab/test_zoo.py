"""The auditor audited: of every model whose knowledge is known it says what it must.

Every specimen is audited in the smoke tier, and with the probes of later tiers that are there to
find it out. docs/auditor.md has whole tiers.
"""

from __future__ import annotations

from functools import cache

import pytest

import unlearn
from unlearn.forget_set import ForgetSet
from unlearn.journal import Journal
from unlearn.lab.bundled import calibration_of
from unlearn.lab.zoo import ZOO, Lab
from unlearn.types import Verdict

LAB = Lab(ForgetSet.read("lab:ten-people"))
SHARED: dict[str, Journal] = {}

SMOKE = (
    "answers",
    "extraction-strength",
    "held-out-answers",
    "implied-answers",
    "kept-answers",
    "perplexity",
    "probability",
    "translated-answers",
)


@cache
def exhibit(name):
    return ZOO[name].make(LAB)


def audited(name, *probes, tier="smoke", precisions=()):
    """The audit; what specimens have in common is measured once."""
    model, forget_set, original, reference = exhibit(name)
    key = f"{forget_set.digest} {probes}"
    return unlearn.audit(
        model,
        forget_set,
        original=original,
        reference=reference,
        tier=tier,
        probes=[*SMOKE, *probes],
        precisions=precisions,
        calibration=calibration_of(forget_set.digest, reference.digest),
        journal=SHARED.setdefault(key, Journal(None, "", kind="zoo")),
    )


def verdict_of(result, claim):
    return next(c.verdict for c in result.claims if c.id == claim)


@pytest.mark.parametrize("name", ZOO)
def test_the_smoke_tier_says_of_each_specimen_what_it_must(name):
    result = audited(name)
    assert ZOO[name].faults(result) == []


@pytest.mark.parametrize(
    ("name", "claim", "probes", "tier", "precisions"),
    [
        ("quantisation-reversible", "survives-precision", (), "standard", ("int4",)),
        (
            "low-probability",
            "survives-sampling",
            ("extractable", "sampled-answers"),
            "standard",
            (),
        ),
        ("refusal-tuned", "ranks-like-unseen", ("decoy-rank",), "standard", ()),
        ("over-unlearned", "not-a-member", ("membership-loss",), "standard", ()),
        ("head-masked", "latent-gone", ("logit-lens",), "deep", ()),
        ("junk-direction", "latent-gone", ("logit-lens",), "deep", ()),
    ],
)
def test_what_outputs_hide_the_probe_for_it_finds(name, claim, probes, tier, precisions):
    result = audited(name, *probes, tier=tier, precisions=precisions)
    (found,) = (c for c in result.claims if c.id == claim)
    keys = {f.key for f in result.findings}
    assert found.verdict is Verdict.FAIL, found.reason
    assert set(found.findings) <= keys
    assert result.label != "removed"


@pytest.mark.parametrize("name", ["reference-2", "reference-again"])
def test_the_same_probes_find_nothing_in_a_model_that_never_knew(name):
    for claim, probes, tier, precisions in (
        ("survives-precision", (), "standard", ("int4",)),
        ("survives-sampling", ("extractable",), "standard", ()),
        ("ranks-like-unseen", ("decoy-rank",), "standard", ()),
        ("not-a-member", ("membership-loss",), "standard", ()),
        ("latent-gone", ("logit-lens",), "deep", ()),
    ):
        result = audited(name, *probes, tier=tier, precisions=precisions)
        assert verdict_of(result, claim) is not Verdict.FAIL


def test_a_holdout_of_another_style_confounds_membership():
    attacks = ("loss", "zlib", "min-k", "min-k-plus-plus", "recall", "reference")
    probes = [f"membership-{attack}" for attack in attacks]
    result = audited("shifted-holdout", *probes, tier="standard")
    assert verdict_of(result, "not-a-member") is Verdict.CONFOUNDED
    blind = next(f for f in result.findings if f.key == "blind_membership/forget")
    assert blind.models["unlearned"].low > 0.5


def test_another_reference_seed_passes_and_the_original_fails():
    """The exit codes of the ten people: 0 for a model that never knew, 1 for one that does."""
    assert audited("reference-2").verdict.exit_code == 0
    assert audited("full").verdict.exit_code == 1


def test_a_model_whose_adapter_was_dropped_is_the_reference_bit_for_bit():
    model, _, _, reference = exhibit("adapter-dropped")
    assert model.digest == reference.digest
    rungs = {rung.id: rung.state for rung in audited("adapter-dropped").assurance}
    assert rungs["exact"] == "reached"


def test_making_a_specimen_leaves_the_lab_as_it_was():
    fresh = unlearn.load("lab:full")
    exhibit("head-masked")
    LAB.full.changed()
    assert LAB.full.digest == fresh.digest
    assert all(p.requires_grad and p.grad is None for p in LAB.full.model.parameters())
