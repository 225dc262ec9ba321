"""Intervention: the strategy's own step, tried module by module, and undone."""

import pytest
import torch

from unlearn.errors import ConfigError, UnknownNameError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.locate import locate
from unlearn.locate.answers import answers, encode
from unlearn.locate.intervention import (
    Effect,
    Intervention,
    InterventionConfig,
    first_step,
    shifted,
)
from unlearn.locate.sites import candidates
from unlearn.registry import strategies
from unlearn.strategies.gradient_ascent import GradientAscent, GradientAscentConfig


@pytest.fixture
def model(make_model, forget_set):
    """The tiny model once it knows the records, more or less."""
    made = make_model()
    encoded = encode(made, (*forget_set.forget, *forget_set.retain))
    optimiser = torch.optim.Adam(made.model.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        answers(made, encoded).nll_per_token_sum().backward()
        optimiser.step()
    made.model.zero_grad()
    made.changed()
    return made


def log_odds(network, record, model):
    """Mean over answer tokens of log p/(1-p), token by token."""
    ids, start = model.encode(record.prompt, record.completion)
    odds = []
    for position in range(start, len(ids)):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([ids[:position]])).logits[0, -1].double()
        p = logits.softmax(0)[ids[position]]
        odds.append(float(torch.log(p / (1 - p))))
    return sum(odds) / len(odds)


def test_log_odds_of_a_batch_are_those_of_a_loop_over_tokens(model, forget_set):
    encoded = encode(model, forget_set.retain)
    by_text = {tuple(model.encode(r.prompt, r.completion).ids): r for r in forget_set.retain}
    with torch.no_grad():
        found = answers(model, encoded).log_odds()
    expected = [log_odds(model.model, by_text[tuple(e.ids)], model) for e in encoded]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_log_odds_keep_their_slope_where_a_probability_is_one(model, forget_set):
    encoded = encode(model, forget_set.forget)
    found = answers(model, encoded)
    sure = found._replace(logits=found.logits.scatter(1, found.ids[:, None], 60.0))
    surer = found._replace(logits=found.logits.scatter(1, found.ids[:, None], 61.0))
    assert (surer.log_odds() - sure.log_odds()).tolist() == pytest.approx([1.0] * 3, abs=1e-3)


def test_the_step_is_the_first_of_the_strategy_itself(model, forget_set):
    step = first_step(model, forget_set, "gradient-ascent", seed=3)
    artifact = GradientAscent(GradientAscentConfig(max_steps=1)).forget(model, forget_set, seed=3)
    after = dict(artifact.apply(model).model.named_parameters())
    for name, before in model.model.named_parameters():
        change = step.get(name, torch.zeros_like(before))
        assert torch.equal(change, (after[name] - before).detach()), name
    assert step


def test_effects_are_those_of_a_copy_with_the_module_changed(model, forget_set):
    among = candidates(model)
    step = first_step(model, forget_set, "gradient-ascent", 0)
    found = Intervention(InterventionConfig(steps=7)).effects(model, forget_set, among, step, 0)
    changed = 0
    for candidate, effect in list(zip(among, found, strict=True))[::5]:
        copy = model.copy()
        name = f"{candidate.name}.weight"
        with torch.no_grad():
            copy.model.get_parameter(name).add_(7 * step[name])
        drops = {
            split: [
                log_odds(model.model, r, model) - log_odds(copy.model, r, model)
                for r in forget_set.split(split)
            ]
            for split in ("forget", "retain")
        }
        gain = sum(drops["forget"]) / len(drops["forget"])
        damage = sum(max(0.0, drop) for drop in drops["retain"]) / len(drops["retain"])
        assert effect == pytest.approx((gain, damage), abs=2e-5)
        changed += abs(gain) > 1e-4
    assert changed


def test_a_score_is_the_share_of_the_gain_minus_that_of_the_damage():
    found = [Effect(3.0, 1.0), Effect(1.0, 3.0), Effect(-2.0, 0.0)]
    config = InterventionConfig(damage_weight=0.5)
    expected = [0.75 - 0.5 * 0.25, 0.25 - 0.5 * 0.75, -0.5]
    assert Intervention(config)._scores(found) == pytest.approx(expected)
    assert Intervention()._scores([Effect(0.0, 0.0)]) == [0.0]


def test_the_best_are_chosen_and_the_model_is_as_it_was(model, forget_set):
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    sites = locate(model, forget_set, method="intervention", settings={"top": "modules:3"})
    assert len(sites.modules) == 3
    worst = min(sites.scores[name] for name in sites.modules)
    assert worst >= max(s for name, s in sites.scores.items() if name not in sites.modules)
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(before[name], tensor), name


def test_weights_come_back_to_the_bit_also_after_an_error(model):
    name = "model.layers.1.mlp.up_proj.weight"
    before = model.model.get_parameter(name).detach().clone()
    with pytest.raises(KeyError), shifted(model, {name: torch.full_like(before, 1e8)}):
        assert bool((model.model.get_parameter(name) > 1e7).all())
        raise KeyError
    assert torch.equal(model.model.get_parameter(name), before)


def test_it_needs_a_retain_split_and_a_strategy_with_steps(model, forget_set, monkeypatch):
    without = ForgetSet("bare", "No retain.", forget_set.forget, ())
    with pytest.raises(UnsupportedError, match="needs a retain split"):
        locate(model, without, method="intervention")
    with pytest.raises(UnknownNameError, match="gradient-ascent"):
        locate(model, forget_set, method="intervention", settings={"strategy": "gradient-ascend"})
    with pytest.raises(ConfigError, match="steps"):
        locate(model, forget_set, method="intervention", settings={"steps": "0"})

    class Stepless:
        class Config(InterventionConfig):
            pass

    monkeypatch.setitem(strategies._classes, "stepless", Stepless)
    with pytest.raises(UnsupportedError, match="no max_steps"):
        locate(model, forget_set, method="intervention", settings={"strategy": "stepless"})
