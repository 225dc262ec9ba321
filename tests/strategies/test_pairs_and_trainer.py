"""Batches, accumulation, and what training leaves behind."""

import random
from itertools import chain

import numpy as np
import pytest
import torch

from unlearn.errors import NumericalError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import IGNORED, encode
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.ascent_config import GradientAscentConfig
from unlearn.strategies.ascent_objective import AscentObjective, Guesses
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.retention import Retention
from unlearn.strategies.trainer import train
from unlearn.strategies.training import Losses, MicroBatch, Pairs, Step


def make_pairs(model: LanguageModel, forget_set: ForgetSet, **settings: object) -> Pairs:
    config = GradientAscentConfig(**settings)
    near = encode(model, near_statements(model, forget_set, 5))
    forget, retain = encode(model, forget_set.forget), encode(model, forget_set.retain)
    return Pairs(forget, retain, config, 5, near)


def objective(pairs: Pairs, original: LanguageModel, variant: str = "ascent") -> AscentObjective:
    config = GradientAscentConfig(variant=variant)
    shape = (len(pairs.forget), max(len(encoding.ids) for encoding in pairs.forget))
    unknown = Guesses(torch.full(shape, -torch.inf))
    return AscentObjective(config, torch.zeros(shape), None, unknown, Retention.of(original, pairs))


def nudged(model: LanguageModel) -> LanguageModel:
    other = model.copy()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.5)
    return other


def chosen(batches: list[MicroBatch]) -> tuple[set[int], set[int]]:
    forget = chain.from_iterable(batch.forget.records.tolist() for batch in batches)
    retain = chain.from_iterable(b.retain.records.tolist() for b in batches if b.retain)
    return set(forget), set(retain)


def test_only_answer_tokens_carry_labels(untrained: LanguageModel, forget_set: ForgetSet) -> None:
    (batch,) = make_pairs(untrained, forget_set).step()
    rows = batch.forget
    assert torch.equal(rows.labels != IGNORED, rows.answer)
    for row, record in enumerate(rows.records.tolist()):
        encoding = untrained.encode(
            forget_set.forget[record].prompt, forget_set.forget[record].completion
        )
        n = len(encoding.ids)
        assert rows.ids[row, :n].tolist() == encoding.ids
        assert rows.attention[row].sum() == n
        assert rows.answer[row].nonzero().flatten().tolist() == list(range(encoding.start, n))


def test_labels_on_text_cover_all_but_the_first_token(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    (batch,) = make_pairs(untrained, forget_set, loss_on="text").step()
    labelled = batch.forget.labels != IGNORED
    assert torch.equal(labelled[:, 1:], batch.forget.attention[:, 1:].bool())
    assert not labelled[:, 0].any()
    assert batch.forget.answer.sum() < labelled.sum()
    assert batch.retain is not None
    assert batch.n_retain_labels == (batch.retain.labels != IGNORED).sum()


def test_wanted_records_fill_a_step_first(untrained: LanguageModel, forget_set: ForgetSet) -> None:
    pairs = make_pairs(untrained, forget_set, forget_batch=3)
    pairs.want([1, 4])
    for _ in range(5):
        forget, _ = chosen(list(pairs.step()))
        assert {1, 4} < forget and len(forget) == 3
    pairs.want([])
    forget, _ = chosen(list(pairs.step()))
    assert len(forget) == 3


def test_the_ratio_of_retain_to_forget_records_is_kept(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    pairs = make_pairs(untrained, forget_set, forget_batch=4, retain_per_forget=2.5)
    forget, retain = chosen(list(pairs.step()))
    assert (len(forget), len(retain)) == (4, 10)


@pytest.mark.parametrize("variant", ["npo", "simnpo", "grad-diff", "inverted-hinge"])
def test_accumulation_gives_the_gradient_of_one_big_batch(
    untrained: LanguageModel, forget_set: ForgetSet, variant: str
) -> None:
    original = nudged(untrained)

    def gradient(accumulation: int, near_per_forget: float = 2.0) -> torch.Tensor:
        settings = {"accumulation": accumulation, "near_per_forget": near_per_forget}
        pairs = make_pairs(untrained, forget_set, **settings)
        untrained.model.zero_grad()
        for batch in pairs.step():
            objective(pairs, original, variant)(untrained.model, batch).total.backward()
        return torch.cat([p.grad.flatten() for p in untrained.model.parameters()])

    whole = gradient(1)
    assert whole.norm() > 0.1
    # Four micro-batches of unequal size: six forget records, nine retain, twelve near statements.
    assert torch.allclose(whole, gradient(4), atol=1e-6)
    assert not torch.allclose(whole, gradient(1, near_per_forget=0), atol=1e-3)


def test_the_trainer_does_not_scale_the_gradient_again(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    norms = []
    for accumulation in (1, 4):
        pairs = make_pairs(untrained, forget_set, accumulation=accumulation, max_steps=3)
        steps: list[Step] = []

        def after(step: Step, steps: list[Step] = steps) -> bool:
            steps.append(step)
            return True

        train(untrained.copy(), pairs, objective(pairs, untrained.copy(), "npo"), after, seed=0)
        assert [step.step for step in steps] == [1]
        norms.append((steps[0].grad_norm, steps[0].forget_loss, steps[0].retain_loss))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    pairs = make_pairs(untrained, forget_set)
    (batch,) = pairs.step()
    objective(pairs, untrained.copy(), "npo")(untrained.model, batch).total.backward()
    gradient = torch.cat([p.grad.flatten() for p in untrained.model.parameters()])
    assert norms[0][0] == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_dropout_is_off_while_training(untrained: LanguageModel, forget_set: ForgetSet) -> None:
    pairs = make_pairs(untrained, forget_set, max_steps=1)
    seen: list[bool] = []

    def watching(model: torch.nn.Module, batch: MicroBatch) -> Losses:
        seen.append(any(module.training for module in model.modules()))
        return objective(pairs, untrained.copy(), "npo")(model, batch)

    train(untrained, pairs, watching, lambda step: False, seed=0)
    assert seen == [False]
    assert not untrained.model.training


def test_global_randomness_and_the_working_folder_stay_as_they_were(
    untrained: LanguageModel,
    forget_set: ForgetSet,
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(str(tmp_path))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    pairs = make_pairs(untrained, forget_set, max_steps=2)
    train(untrained, pairs, objective(pairs, untrained.copy(), "npo"), lambda step: False, seed=0)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_loss_that_is_not_finite_is_an_error(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    pairs = make_pairs(untrained, forget_set)

    def broken(model: torch.nn.Module, batch: MicroBatch) -> Losses:
        nothing = torch.tensor(float("nan"), requires_grad=True)
        return Losses(nothing, nothing.detach(), nothing.detach())

    with pytest.raises(NumericalError, match="nan at step 1; lower learning_rate"):
        train(untrained, pairs, broken, lambda step: False, seed=0)


def test_the_warm_up_rises_in_even_steps_and_the_first_one_moves(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    pairs = make_pairs(untrained, forget_set, max_steps=5, warmup_steps=3, learning_rate=4e-5)
    rates: list[float] = []
    before = untrained.digest

    def after(step: Step) -> bool:
        rates.append(step.learning_rate)
        untrained.changed()
        assert untrained.digest != before
        return False

    train(untrained, pairs, objective(pairs, untrained.copy(), "npo"), after, seed=0)
    assert rates == pytest.approx([1e-5, 2e-5, 3e-5, 4e-5, 4e-5])
