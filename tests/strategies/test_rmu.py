"""Representation misdirection against its formula, and what it may move."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from unlearn.errors import ConfigError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.hooks import capture
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies.ascent_config import GradientAscentConfig
from unlearn.strategies.gradient_ascent import GradientAscent
from unlearn.strategies.matching import Ingredients
from unlearn.strategies.rmu import RmuObjective, default_sites, steered_block
from unlearn.strategies.sites import find_scope
from unlearn.strategies.training import Pairs
from unlearn.types import Sites


def config(**settings: object) -> GradientAscentConfig:
    return GradientAscentConfig(variant="rmu", layer=1, **settings)  # type: ignore[arg-type]


def made(model: LanguageModel, work: LanguageModel, records: ForgetSet, **settings: object):  # type: ignore[no-untyped-def]
    pairs = Pairs(
        encode(model, records.forget), encode(model, records.retain), config(**settings), 0
    )
    given = Ingredients(model, work, find_scope(work, None), pairs, None, ())
    return RmuObjective.of(given, config(**settings), seed=3), pairs


def state(model: LanguageModel, ids: list[int], block: str) -> np.ndarray:
    with capture(model.model, [block]) as states, torch.no_grad():
        model.model(input_ids=torch.tensor([ids]))
    return states[block][0].double().numpy()


def test_the_loss_is_that_of_the_paper_in_units_of_the_original_states(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    objective, pairs = made(model, untrained, forget_set, steering=3.0, retain_weight=7.0)
    block = model.anatomy.layers[1]
    texts = [state(model, e.ids, block) for e in pairs.forget]
    unit = np.mean([np.square(text).mean() for text in texts])
    goal = objective.goal.double().numpy()
    assert np.linalg.norm(goal) == pytest.approx(3.0 * np.sqrt(unit * len(goal)), rel=1e-5)
    assert (goal >= 0).all()
    (batch,) = pairs.step()
    forget = np.mean(
        [
            np.square(state(untrained, pairs.forget[i].ids, block) - goal).mean()
            for i in batch.forget.records.tolist()
        ]
    )
    assert batch.retain is not None
    retain = np.mean(
        [
            np.square(state(untrained, e.ids, block) - state(model, e.ids, block)).mean()
            for e in (pairs.retain[i] for i in batch.retain.records.tolist())
        ]
    )
    with torch.no_grad():
        found = objective(untrained.model, batch)
    assert float(found.forget) == pytest.approx(forget / unit, rel=1e-4)
    assert float(found.retain) == pytest.approx(retain / unit, rel=1e-4)
    assert float(found.total) == pytest.approx((forget + 7 * retain) / unit, rel=1e-4)


def test_a_step_in_pieces_has_the_loss_of_the_whole(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    def total(pieces: int) -> float:
        settings = {"retain_per_forget": 2.0, "accumulation": pieces}
        objective, pairs = made(model, untrained, forget_set, **settings)
        with torch.no_grad():
            return sum(float(objective(untrained.model, b).total) for b in pairs.step())

    assert total(3) == pytest.approx(total(1), rel=1e-4)


def test_three_down_projections_move_unless_sites_say_otherwise(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    down = [f"model.layers.{layer}.mlp.down_proj" for layer in range(3)]
    assert default_sites(model, 2).modules == tuple(down)
    assert default_sites(model, 0).modules == tuple(down[:1])
    strategy = GradientAscent(config(max_steps=3))
    artifact = strategy.forget(model, forget_set)
    assert set(artifact.delta) == {f"{name}.weight" for name in down[:2]}
    sites = Sites(method="by hand", modules=(down[0],))
    assert set(strategy.forget(model, forget_set, sites).delta) == {f"{down[0]}.weight"}


def test_it_forgets_and_holds_the_rest(model: LanguageModel, forget_set: ForgetSet) -> None:
    unlearned = GradientAscent(config(max_steps=80)).forget(model, forget_set).apply(model)

    def right(records):  # type: ignore[no-untyped-def]
        return np.mean([scored.correct for scored in score(unlearned, records)])

    # Not by greedy answers: one in five or six is guessed right.
    assert np.mean([one.nll_per_token for one in score(unlearned, forget_set.forget)]) > 1
    assert right(forget_set.retain) >= 0.9


def test_the_block_is_a_quarter_up_and_must_be_there(model: LanguageModel) -> None:
    assert steered_block(model, None) == 2
    assert steered_block(model, 0) == 0
    with pytest.raises(ConfigError, match="blocks 0 to 2"):
        steered_block(model, 3)


def test_terms_that_it_has_not_are_refused() -> None:
    for wrong in ({"retain": "nll"}, {"near_per_forget": 1.0}):
        with pytest.raises(ValidationError, match="rmu"):
            config(**wrong)
    with pytest.raises(ValidationError, match="states is for"):
        GradientAscentConfig(retain="states")
