"""Strategies in a row: each on the other's result, as one artifact that goes back bit for bit."""

import pytest
import torch

from unlearn.errors import ConfigError, UnknownNameError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.strategies import forget
from unlearn.strategies.composition import Composition
from unlearn.types import Sites

SETTINGS = {
    "gradient-ascent.max_steps": "4",
    "gradient-ascent.learning_rate": "1e-3",
    "distillation.max_steps": "3",
}
BOTH = "gradient-ascent+distillation"


def test_it_is_what_the_parts_do_one_after_the_other(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    both = forget(model, forget_set, strategy=BOTH, settings=SETTINGS, seed=3)
    settings = {"max_steps": "4", "learning_rate": "1e-3"}
    first = forget(model, forget_set, settings=settings, seed=3).apply(model)
    settings = {"max_steps": "3"}
    second = forget(first, forget_set, strategy="distillation", settings=settings, seed=3)
    applied = both.apply(model)
    assert applied.digest == second.apply(first).digest
    assert both.revert(applied).digest == model.digest


def test_its_log_says_whose_each_step_is(model: LanguageModel, forget_set: ForgetSet) -> None:
    provenance = forget(model, forget_set, strategy=BOTH, settings=SETTINGS).provenance
    assert provenance.strategy == BOTH
    parts = [step["part"] for step in provenance.steps]
    assert parts == sorted(parts, reverse=True) and set(parts) == set(BOTH.split("+"))
    assert provenance.settings["distillation.max_steps"] == 3
    assert "gradient-ascent: " in provenance.stop_reason
    assert "; then distillation: budget: 3 steps" in provenance.stop_reason


def test_sites_hold_for_every_part(model: LanguageModel, forget_set: ForgetSet) -> None:
    digests = {"model_digest": model.digest, "forget_set_digest": forget_set.digest}
    sites = Sites(method="by-hand", layers=(2,), **digests)
    both = forget(model, forget_set, strategy=BOTH, settings=SETTINGS, sites=sites)
    before, after = model.model.state_dict(), both.apply(model).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".layers.2." in name for name in moved)


@pytest.mark.parametrize("name", ["edit+in-context", "in-context+edit", "patch+edit"])
def test_what_cannot_be_one_change_of_weights_is_refused_before_it_starts(name: str) -> None:
    with pytest.raises(UnsupportedError, match="`unlearn apply`"):
        Composition(name, {})


@pytest.mark.parametrize("key", ["max_steps", "edit.max_steps", "distillation."])
def test_a_setting_names_its_part(key: str) -> None:
    with pytest.raises(ConfigError, match="belongs to no part"):
        Composition(BOTH, {key: "3"})


@pytest.mark.parametrize("name", ["gradient-ascent+", "+", "edit+spell"])
def test_every_part_is_a_strategy(name: str) -> None:
    with pytest.raises(UnknownNameError, match="no strategy"):
        Composition(name, {})
