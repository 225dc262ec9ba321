"""Agreement and drift: who is compared with whom, on what."""

from __future__ import annotations

import pytest

import unlearn
from unlearn.probes.agreement import Agreement, Drift
from unlearn.probes.probe import Bench
from unlearn.types import Record


def record(id_, prompt, answer):
    return Record(id=id_, subject=prompt.split()[0], relation="r", prompt=prompt, answer=answer)


@pytest.fixture(scope="module")
def bench():
    full, reference = unlearn.load("lab:full"), unlearn.load("lab:reference")
    material = {
        "forget": (record("f", "Brentro Merro was born in the town of", "Dalwick"),),
        "retain": (record("r", "The town of", "Masmere"),),
        "holdout": (record("h", "Nobody was born in the town of", "Thinford"),),
    }
    return Bench({"original": full, "unlearned": full, "reference": reference}, material)


def figures(found, role):
    return {(m.metric, m.split): m.values for m in found[role]}


def test_a_model_that_knows_is_far_from_the_reference_on_what_it_knows(bench):
    found = Agreement().measure(bench)
    assert set(found) == {"original", "unlearned"}
    apart = figures(found, "unlearned")
    assert set(apart) == {
        ("divergence_from_reference", "forget"),
        ("divergence_from_reference", "holdout"),
    }
    assert 0.5 < apart["divergence_from_reference", "forget"]["f"] <= 1
    assert figures(found, "original") == apart


def test_a_model_that_is_the_reference_is_at_no_distance(bench):
    models = {**bench.models, "unlearned": bench.models["reference"]}
    found = figures(Agreement().measure(Bench(models, bench.material)), "unlearned")
    assert found["divergence_from_reference", "forget"]["f"] == pytest.approx(0, abs=1e-6)


def test_drift_is_from_the_original_and_on_all_but_forget(bench):
    found = Drift().measure(bench)
    assert set(found) == {"unlearned", "reference"}
    none, some = figures(found, "unlearned"), figures(found, "reference")
    metrics = ("kl_from_original", "state_drift")
    splits = ("retain", "holdout")
    assert set(none) == set(some) == {(m, s) for m in metrics for s in splits}
    assert all(v == pytest.approx(0, abs=1e-5) for values in none.values() for v in values.values())
    assert some["state_drift", "retain"]["r"] > 0.1
    assert some["kl_from_original", "holdout"]["h"] > 0.01


def test_nothing_outside_forget_is_no_drift(bench):
    alone = {"forget": bench.material["forget"]}
    assert Drift().measure(Bench(bench.models, alone))["unlearned"] == []


def test_progress_rises(bench):
    told = []
    Agreement().measure(
        Bench(bench.models, bench.material, progress=lambda _, fraction: told.append(fraction))
    )
    assert told == sorted(told)
