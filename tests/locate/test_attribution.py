"""Attribution patching as a locator: a screen that says so, and exact cells where it was asked."""

from dataclasses import replace

import numpy as np
import pytest

import unlearn.lab  # noqa: F401 - importing it makes lab: known
from unlearn.forget_set import ForgetSet
from unlearn.locate import locate_and_trace
from unlearn.model.language_model import LanguageModel

SETTINGS = {"window": "1", "retain_records": "0"}


@pytest.fixture(scope="module")
def lab():
    return LanguageModel.load("lab:full")


@pytest.fixture(scope="module")
def few():
    whole = ForgetSet.read("lab:one-person")
    return replace(whole, forget=(*whole.forget[:2], *whole.forget[4:6]))


def traced(lab, few, method, **settings):
    return locate_and_trace(lab, few, method=method, settings={**SETTINGS, **settings})


def test_a_screen_says_that_it_is_one_and_has_no_severed_runs(lab, few):
    sites, rough = traced(lab, few, "attribution")
    _, exact = traced(lab, few, "causal-trace")
    assert (rough.method, exact.method) == ("attribution", "causal-trace")
    assert (sites.method, sites.modules != ()) == ("attribution", True)
    for estimate, measured in zip(rough.records, exact.records, strict=True):
        assert estimate.severed == {} and measured.severed
        assert estimate.refined == measured.refined == ()
        assert estimate.clean == pytest.approx(measured.clean, abs=1e-3)
        assert estimate.corrupted == pytest.approx(measured.corrupted, abs=1e-3)
        together = [
            np.concatenate([np.ravel(fact.effects[kind]) for kind in ("hidden", "mlp")])
            for fact in (estimate, measured)
        ]
        assert np.corrcoef(*together)[0, 1] > 0.4
        assert np.abs(together[0] - together[1]).max() > 1


def test_refined_cells_are_exact_and_named(lab, few):
    _, exact = traced(lab, few, "causal-trace")
    _, rough = traced(lab, few, "attribution")
    _, fine = traced(lab, few, "attribution", refine="4")
    for a, b, c in zip(fine.records, exact.records, rough.records, strict=True):
        assert len(a.refined) == 4
        for kind, grid in a.effects.items():
            for token, row in enumerate(grid):
                for layer, effect in enumerate(row):
                    source = b if (kind, token, layer) in a.refined else c
                    assert effect == pytest.approx(source.effects[kind][token][layer], abs=1e-3)
