"""The values of an edit: gradients by finite differences, bounds, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from tests.model.reading import hooks_on
from unlearn.model.keys import project
from unlearn.model.lens import Lens
from unlearn.model.scoring import score
from unlearn.strategies.counterfactual import guesses
from unlearn.strategies.edit_values import (
    Task,
    ValueSettings,
    essence_loss,
    find_values,
    loss_at,
)
from unlearn.strategies.ignorance import LowProbability, MaxEntropy, Refusal
from unlearn.strategies.spots import find_row, find_spots, keys_at
from unlearn.strategies.stopping import find_targets

SETTINGS = ValueSettings(
    steps=40, learning_rate=0.25, decay=0.01, clamp=4.0, essence_weight=0.1, enough=0.05
)


def make_task(model, forget_set, at="answer", layer=1, kind="low-probability") -> Task:
    records = forget_set.forget
    spots = find_spots(model, records, at)
    old = project(model, layer, keys_at(model, spots, [layer])[layer]).float()
    targets = find_targets(model, forget_set, 0.9, 3, guesses(model, forget_set, 6, 0)).records
    ignorance = {
        "low-probability": LowProbability(targets, [s.logprobs for s in score(model, records)]),
        "refusal": Refusal(),
        "max-entropy": MaxEntropy(),
    }[kind]
    rows = [find_row(model, i, record, at) for i, record in enumerate(records)]
    lens, depths = (Lens(model), (1,)) if kind == "max-entropy" else (None, ())
    return Task(layer, rows, spots.groups, spots.mean_by_value(old), ignorance, (), lens, depths)


@pytest.mark.parametrize("kind", ["low-probability", "refusal", "max-entropy"])
@pytest.mark.parametrize("at", ["answer", "subject"])
def test_the_gradient_is_that_of_finite_differences(model, forget_set, kind, at) -> None:
    exact = model.copy()
    exact.model.double()
    task = make_task(model, forget_set, at, 1, kind)
    task = task._replace(old=task.old.double(), lens=Lens(exact) if task.lens else None)
    generator = torch.Generator().manual_seed(0)
    # Away from 0, where every token is so certain that nothing has a slope.
    moves = 0.5 * torch.randn(task.old.shape, generator=generator, dtype=torch.float64)
    moves.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_at(exact, task, moves), moves)
    direction = torch.randn(moves.shape, generator=generator, dtype=torch.float64)
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (loss_at(exact, task, moves + s * direction) for s in (step, -step))
    # Losses are computed in float32 from the logits on.
    by_difference = float(ahead - behind) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(by_difference, rel=0.02, abs=2e-2)


def test_what_is_found_makes_the_answers_as_unlikely_as_those_of_unseen_names(
    model, forget_set
) -> None:
    task = make_task(model, forget_set)
    found = find_values(model, task, SETTINGS)
    assert found.loss < 0.1 * found.start and not found.stalled
    with torch.no_grad():
        assert float(loss_at(model, task, found.moves.float())) == pytest.approx(
            found.loss, abs=1e-4
        )


def test_no_value_is_longer_than_the_clamp_allows(model, forget_set) -> None:
    task = make_task(model, forget_set)
    short = SETTINGS.model_copy(update={"clamp": 0.5, "decay": 0.0})
    found = find_values(model, task, short)
    lengths = found.moves.norm(dim=1) / task.old.double().norm(dim=1)
    assert 0.4 < float(lengths.max()) <= 0.5 + 1e-6


def test_decay_keeps_values_short(model, forget_set) -> None:
    task = make_task(model, forget_set)
    lengths = []
    for decay in (0.0, 10.0):
        changed = SETTINGS.model_copy(update={"decay": decay, "enough": 1e-9})
        lengths.append(float(find_values(model, task, changed).moves.norm(dim=1).mean()))
    assert lengths[1] < lengths[0]


def test_a_place_where_nothing_helps_is_given_up_early(model, forget_set) -> None:
    """Behind the last block's attention nobody reads what is added at the subject."""
    task = make_task(model, forget_set, "subject", model.anatomy.n_layers - 1)
    found = find_values(model, task, SETTINGS)
    assert found.stalled and found.steps == 10


def test_the_essence_is_held_by_its_divergence(model, forget_set) -> None:
    record = forget_set.forget[0]
    task = make_task(model, forget_set, "subject", 0)
    row = find_row(model, 0, record, "subject")
    task = task._replace(essence=[row])
    from unlearn.strategies.edit_values import _essence

    before = _essence(model, task)
    nothing = torch.zeros(task.old.shape)
    with torch.no_grad():
        assert float(essence_loss(model, task, nothing, before)) == pytest.approx(0, abs=1e-6)
        assert float(essence_loss(model, task, nothing + 3, before)) > 0.01
    free, held = (
        find_values(model, task, SETTINGS.model_copy(update={"essence_weight": w, "enough": 1e-9}))
        for w in (0.0, 100.0)
    )
    with torch.no_grad():
        drifts = [
            float(essence_loss(model, task, one.moves.float(), before)) for one in (free, held)
        ]
    assert drifts[1] < drifts[0]


def test_a_crash_inside_leaves_no_hook_and_no_gradient(model, forget_set) -> None:
    hooks = hooks_on(model.model)  # transformers leaves some of its own

    def crash(seen):
        raise RuntimeError("inside")

    task = make_task(model, forget_set)._replace(ignorance=crash)
    with pytest.raises(RuntimeError, match="inside"):
        find_values(model, task, SETTINGS)
    assert hooks_on(model.model) == hooks


def test_equal_inputs_give_equal_values(model, forget_set) -> None:
    task = make_task(model, forget_set)
    one, other = (find_values(model, task, SETTINGS) for _ in range(2))
    assert torch.equal(one.moves, other.moves)
