"""The strength of a change: the search against a plain scan, and scaling against arithmetic."""

import itertools

import numpy as np
import pytest
import torch

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.gradient_ascent import GradientAscent, GradientAscentConfig
from unlearn.strategies.stopping import Evaluation, Target
from unlearn.strategies.strength import GRID, Change, search

TARGETS = (Target(2.0, 0.5), Target(2.0, 0.5))


def evaluation(nll: float, retain: float | None) -> Evaluation:
    return Evaluation(0, TARGETS, np.array([nll, nll + 1]), np.zeros(2), retain)


def linear(slope: float, cost: float = 0.0):  # type: ignore[no-untyped-def]
    return lambda s: evaluation(slope * s, 0.1 + cost * s)


@pytest.mark.parametrize("threshold", [0.03, 0.26, 0.5, 0.81, 1.0, 1.3, 1.99])
def test_the_search_finds_the_smallest_strength_to_within_an_eighth_of_a_step(
    threshold: float,
) -> None:
    sweep = search(linear(2.0 / threshold), limit=1.0)
    step = next(b - a for a, b in itertools.pairwise(GRID) if b >= threshold)
    assert sweep.reached
    assert threshold <= sweep.chosen < threshold + step / 8 + 1e-9
    assert list(sweep.evaluations) == sorted(sweep.evaluations)


def test_a_strength_that_costs_too_much_is_not_taken() -> None:
    sweep = search(linear(2.0, cost=1.0), limit=0.9)
    assert not sweep.reached
    assert sweep.chosen == 0.75
    assert "2 records are left at 0.75" in str(sweep) or "1 records" in str(sweep)


def test_a_change_that_does_nothing_is_left_out() -> None:
    assert search(linear(0.0), limit=1.0).chosen == 0.0


def test_no_retain_split_is_no_limit() -> None:
    assert search(lambda s: evaluation(2 * s, None), limit=0.0).reached


def test_an_original_that_does_not_know_needs_no_change() -> None:
    assert search(lambda s: evaluation(5.0, 0.1), limit=1.0).chosen == 0.0


def test_scaling_is_linear_and_exact_at_both_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    before = {"w": torch.randn(3, 2, generator=generator)}
    after = {"w": torch.randn(3, 2, generator=generator)}
    live = {"w": torch.zeros(3, 2)}
    change = Change(live, before, after)
    change.scale(0.25)
    assert torch.allclose(live["w"], 0.75 * before["w"] + 0.25 * after["w"])
    for strength, side in ((0.0, before), (1.0, after)):
        change.scale(strength)
        assert torch.equal(live["w"], side["w"])


def forgotten(model: LanguageModel, records: ForgetSet, **settings: object):  # type: ignore[no-untyped-def]
    config = GradientAscentConfig(max_steps=30, **settings)  # type: ignore[arg-type]
    return GradientAscent(config).forget(model, records, seed=0)


def test_the_artifact_keeps_the_sweep_and_holds_the_chosen_multiple(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    found = forgotten(model, forget_set, strength="search")
    full = forgotten(model, forget_set)
    chosen = found.provenance.strength
    assert {entry["strength"] for entry in found.provenance.sweep} >= set(GRID)
    assert chosen in {entry["strength"] for entry in found.provenance.sweep}
    assert full.provenance.strength == 1
    assert {entry["strength"] for entry in full.provenance.sweep} == set(GRID)
    theta = dict(model.model.named_parameters())
    whole = dict(full.apply(model).model.named_parameters())
    for name, parameter in found.apply(model).model.named_parameters():
        wanted = theta[name] + chosen * (whole[name] - theta[name])
        assert torch.allclose(parameter, wanted, atol=1e-6), name


def test_a_number_scales_the_change_by_it(model: LanguageModel, forget_set: ForgetSet) -> None:
    once = forgotten(model, forget_set, strength=1).apply(model)
    twice = forgotten(model, forget_set, strength=2).apply(model)
    name = "model.layers.1.mlp.down_proj.weight"
    theta = model.model.get_parameter(name)
    moved = once.model.get_parameter(name) - theta
    assert moved.abs().max() > 0
    assert torch.allclose(twice.model.get_parameter(name) - theta, 2 * moved, atol=1e-6)


def test_another_grid_goes_further() -> None:
    sweep = search(linear(2.0 / 7.0), limit=1.0, grid=(0.0, 4.0, 8.0))
    assert sweep.reached
    assert 7.0 <= sweep.chosen <= 7.5
    assert not search(linear(2.0 / 7.0), limit=1.0).reached
