"""Criteria name probes and figures that exist, at a tier that has them."""

from __future__ import annotations

import pytest

import unlearn
from unlearn import registry
from unlearn.audit.runner import Job, run
from unlearn.audit.setup import setup_of
from unlearn.forget_set import ForgetSet
from unlearn.probes.probe import TIERS
from unlearn.verdicts.criteria import CRITERIA, criteria_of
from unlearn.verdicts.figures import findings_of


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: c.id)
def test_a_claim_rests_on_probes_of_its_tier_or_an_earlier_one(criterion):
    tiers = [registry.probes.get(c.probe).tier for c in criterion.comparisons]
    assert not tiers or min(map(TIERS.index, tiers)) <= TIERS.index(criterion.tier)
    assert all(comparison.limit >= 0 for comparison in criterion.comparisons)


def test_a_comparison_is_made_from_the_tier_on_that_runs_its_probe():
    def compared(tier):
        (membership,) = (c for c in criteria_of(tier) if c.id == "not-a-member")
        return {c.probe for c in membership.comparisons}

    assert compared("deep") - compared("standard") == {"membership-gradient-norm"}


def test_a_claim_has_one_id_and_smoke_judges_what_it_always_did():
    ids = [c.id for c in CRITERIA]
    assert len(ids) == len(set(ids))
    smoke = [c.id for c in criteria_of("smoke")]
    assert smoke == ids[: len(smoke)]
    assert [c.id for c in criteria_of("deep")] == ids


def test_low_precision_repeats_the_claims_of_forgetting_once_for_each_precision():
    (precise,) = (c for c in criteria_of("standard", ("bf16", "int4")) if c.precise)
    keys = {c.key for c in precise.comparisons}
    assert {"answers/forget@int4", "probability/forget@bf16"} <= keys
    assert len(keys) == len(precise.comparisons)
    assert {k.split("@")[0] for k in keys} == {
        c.key
        for criterion in criteria_of("smoke")
        if criterion.id.startswith("forgotten-")
        for c in criterion.comparisons
    }


def test_every_figure_a_claim_rests_on_is_measured_on_the_lab():
    """On a cut of the lab, so that a renamed metric does not leave a claim NOT RUN for ever."""
    whole = ForgetSet.read("lab:one-person")
    rich = [r for r in whole.forget if r.implications or r.translations]
    few = ForgetSet(
        "few",
        "Invented.",
        forget=tuple({r.id: r for r in (*whole.forget[:8], *rich)}.values()),
        retain=whole.retain[:24],
        neighbors=whole.neighbors[:16],
        holdout=whole.holdout[:24],
    )
    models = {
        "original": unlearn.load("lab:full"),
        "unlearned": unlearn.load("lab:reference-2"),
        "reference": unlearn.load("lab:reference"),
    }
    setup = setup_of(models, few, tier="standard", precisions=())
    measured = {
        finding.key
        for probe, condition, by_role in run(Job(setup.chosen.probes, models, setup.material))
        for finding in findings_of(probe, by_role, setup.material, 0, condition)
    }
    for criterion in criteria_of("standard"):
        for comparison in criterion.comparisons:
            assert comparison.key in measured, (criterion.id, comparison.key)
