"""Sites that no measurement chose: right size, drawn by the seed, checked against the model."""

import pytest
import torch

from unlearn.errors import ConfigError, UnknownNameError, UnsupportedError
from unlearn.locate import locate
from unlearn.locate.selection import take
from unlearn.locate.sites import Candidate, candidates
from unlearn.registry import locators
from unlearn.types import Sites


def test_the_four_locators_are_registered_and_describe_themselves():
    assert {"all", "fixed", "gradient-contrast", "random"} <= set(locators.names())
    for name in locators.names():
        found = locators.get(name)
        assert found.name == name and found.summary
        assert found.honours <= {"layers", "modules", "weight_mask", "token_mask"}


def test_an_unknown_locator_names_the_nearest(model, forget_set):
    with pytest.raises(UnknownNameError, match="Did you mean 'random'"):
        locate(model, forget_set, method="ramdom")


@pytest.mark.parametrize("method", ["all", "fixed", "random"])
def test_every_control_fills_what_it_says_and_survives_its_file_form(model, forget_set, method):
    settings = {"layers": "1-2", "modules": "*.mlp.*"} if method == "fixed" else {}
    sites = locate(model, forget_set, method=method, settings=settings, seed=4)
    assert sites.parts == locators.get(method).honours
    assert (sites.method, sites.seed) == (method, 4)
    assert sites.model_digest == model.digest
    assert sites.forget_set_digest == forget_set.digest
    assert Sites.model_validate_json(sites.model_dump_json()) == sites


def test_candidates_are_the_matrices_of_the_blocks_and_nothing_else(model):
    found = {c.name: c for c in candidates(model)}
    expected = {
        f"model.layers.{layer}.{part}_proj"
        for layer in range(4)
        for part in [*(f"self_attn.{x}" for x in "qkvo"), "mlp.gate", "mlp.up", "mlp.down"]
    }
    assert set(found) == expected
    assert found["model.layers.2.mlp.up_proj"].size == 32 * 48
    assert found["model.layers.2.mlp.up_proj"].layer == 2


def test_a_matrix_that_two_modules_share_counts_once(model):
    layers = model.model.model.layers
    layers[3].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    names = [c.name for c in candidates(model)]
    assert "model.layers.0.mlp.up_proj" in names and "model.layers.3.mlp.up_proj" not in names


def test_biases_count_towards_the_size(make_model):
    found = {c.name: c for c in candidates(make_model(mlp_bias=True))}
    assert found["model.layers.0.mlp.up_proj"].size == 32 * 48 + 48


def test_a_model_without_floating_point_matrices_is_refused(model):
    for layer in model.model.model.layers:
        for module in (*layer.self_attn.children(), *layer.mlp.children()):
            if hasattr(module, "weight"):
                quantised = torch.zeros(module.weight.shape, dtype=torch.int8)
                module.weight = torch.nn.Parameter(quantised, requires_grad=False)
    with pytest.raises(UnsupportedError, match="without quantisation"):
        candidates(model)


@pytest.mark.parametrize("top", [0.05, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_random_sites_are_as_large_as_the_contrast_they_stand_beside(model, forget_set, top):
    among = candidates(model)
    size = {c.name: c.size for c in among}
    tolerance = max(size.values()) / 2 / sum(size.values())

    def share(sites):
        return sum(size[name] for name in sites.modules) / sum(size.values())

    settings = {"top": str(top)}
    contrast = locate(model, forget_set, method="gradient-contrast", settings=settings)
    assert share(contrast) == pytest.approx(top, abs=tolerance)
    for seed in range(20):
        control = locate(model, forget_set, method="random", settings=settings, seed=seed)
        assert share(control) == pytest.approx(top, abs=tolerance)


def test_random_sites_follow_the_seed_and_reach_every_module(model, forget_set):
    drawn = [locate(model, forget_set, method="random", seed=seed).modules for seed in range(40)]
    assert drawn[0] == locate(model, forget_set, method="random", seed=0).modules
    assert len(set(drawn)) > 35
    assert {name for modules in drawn for name in modules} == {c.name for c in candidates(model)}


def candidate(name, size):
    return Candidate(name, 0, "mlp", (), size)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(10, "a"), (14, "ad"), (16, "ab"), (20, "ab"), (12, "ad"), (60, "abcd"), (1, "d"), (0, "d")],
)
def test_taking_stops_where_the_budget_is_met_best(budget, expected):
    order = [candidate(*pair) for pair in (("a", 10), ("b", 10), ("c", 38), ("d", 2))]
    assert "".join(c.name for c in take(order, budget)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2", (2,)), ("3,0", (0, 3)), ("0-2", (0, 1, 2)), (" 1 , 1-2", (1, 2))],
)
def test_layers_are_given_as_numbers_and_ranges(model, forget_set, text, expected):
    sites = locate(model, forget_set, method="fixed", settings={"layers": text})
    assert (sites.layers, sites.modules) == (expected, None)


def test_modules_are_given_by_name_or_pattern_in_the_order_of_the_model(model, forget_set):
    text = "model.layers.3.mlp, *.0.self_attn.?_proj"
    sites = locate(model, forget_set, method="fixed", settings={"modules": text})
    expected = [f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"]
    assert sites.modules == (*expected, "model.layers.3.mlp")
    assert sites.layers is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "give layers, modules or both"),
        ({"layers": "4"}, "there is no layer 4: tiny has layers 0 to 3"),
        ({"layers": "1-x"}, "layers are numbers and ranges"),
        ({"layers": "-1"}, "layers are numbers and ranges"),
        ({"layers": ""}, "layers are numbers and ranges"),
        ({"layers": "3-1"}, "give layers, modules or both"),
        ({"modules": "model.layers.0.mpl"}, "'model.layers.0.mpl'; similar: model.layers.0.mlp"),
        ({"modules": "*.mlp.act_fn"}, "with parameters is called"),
        ({"layer": "1"}, "Did you mean 'layers'"),
    ],
)
def test_fixed_sites_that_do_not_fit_are_refused(model, forget_set, settings, expected):
    with pytest.raises(ConfigError) as caught:
        locate(model, forget_set, method="fixed", settings=settings)
    assert expected in str(caught.value)


def test_all_names_every_layer_and_has_no_settings(model, forget_set):
    assert locate(model, forget_set, method="all").layers == (0, 1, 2, 3)
    with pytest.raises(ConfigError, match="has no setting 'top'"):
        locate(model, forget_set, method="all", settings={"top": "0.1"})


def test_a_shell_word_cannot_ask_for_a_million_layers_unnoticed(model, forget_set):
    with pytest.raises(ConfigError, match="there is no layer 4"):
        locate(model, forget_set, method="fixed", settings={"layers": "0-100000"})
