"""What holds for every locator: it runs on the lab, says how it did, and leaves the model alone."""

from dataclasses import replace

import pytest
import torch

import unlearn.lab  # noqa: F401 - importing it makes lab: known
from unlearn.forget_set import ForgetSet
from unlearn.locate import locate
from unlearn.locate.sites import candidates
from unlearn.model.language_model import LanguageModel
from unlearn.registry import locators
from unlearn.types import Sites

SETTINGS = {
    "attribution": {"retain_records": "8"},
    "causal-trace": {"window": "1", "retain_records": "8"},
    "fixed": {"layers": "1-2"},
    "intervention": {"max_records": "16"},
}


@pytest.fixture(scope="module")
def lab():
    return LanguageModel.load("lab:full")


@pytest.fixture(scope="module")
def small():
    """Few facts to forget, and as few to retain as the probes can do with."""
    whole = ForgetSet.read("lab:one-person")
    retain = tuple(r for r in whole.retain if r.relation in ("university", "employer"))
    return replace(whole, forget=whole.forget[:8], retain=retain)


def test_there_are_the_locators_that_the_documents_name():
    expected = (
        "all attribution causal-trace fact-lookup fixed gradient-contrast intervention random"
    )
    assert locators.names() == expected.split()


def test_fact_lookup_is_what_is_used_unless_told_otherwise(lab, small):
    assert locate(lab, small).method == "fact-lookup"


@pytest.mark.parametrize("method", locators.names())
def test_it_runs_on_the_lab_and_leaves_the_model_as_it_was(lab, small, method):
    network = lab.model
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.model.layers[3].train()
    flags = [(p.requires_grad, p.grad) for p in network.parameters()]
    modes = [module.training for module in network.modules()]
    sites = locate(lab, small, method=method, settings=SETTINGS.get(method, {}), seed=2)
    assert [module.training for module in network.modules()] == modes
    network.eval()
    assert [(p.requires_grad, p.grad) for p in network.parameters()] == flags
    assert all(torch.equal(weights[n], tensor) for n, tensor in network.state_dict().items())
    for module in network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert (sites.method, sites.seed) == (method, 2)
    assert sites.parts and sites.parts <= locators.get(method).honours
    assert Sites.model_validate_json(sites.model_dump_json()) == sites
    if sites.scores:
        assert set(sites.scores) == {candidate.name for candidate in candidates(lab)}


@pytest.mark.parametrize("method", ["attribution", "gradient-contrast", "random"])
def test_so_many_modules_or_layers_are_chosen_as_asked(lab, small, method):
    for top, n in (("modules:3", 3), ("layers:2", None)):
        settings = {**SETTINGS.get(method, {}), "top": top}
        sites = locate(lab, small, method=method, settings=settings)
        chosen = [c for c in candidates(lab) if c.name in sites.modules]
        share = sum(c.size for c in chosen) / sum(c.size for c in candidates(lab))
        assert sites.settings["share_of_parameters"] == pytest.approx(share, abs=1e-4)
        assert len(chosen) == n or len({c.layer for c in chosen}) == 2
