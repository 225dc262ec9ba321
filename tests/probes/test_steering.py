"""Steering: directions by hand, what undoing them does, and a junk direction that is found."""

import pytest
import torch
from known_towns import (
    FORGET,
    MATERIAL,
    RETAIN,
    answered,
    bench,
    by_hand,
    figures,
    logprobs_by_hand,
    pushed,
    pushed_on_forget_prompts,
    trio,
)

from unlearn.probes.probe import Bench
from unlearn.probes.steering import (
    Shift,
    Steering,
    halved,
    mean_states,
    shifts,
    steered,
    tried,
    undo,
)


def test_mean_states_are_those_of_prompts_read_one_by_one():
    lm, last, every = trio().original, [], []
    for one in FORGET:
        prompt = by_hand(lm, one)[:, : len(lm.encode(one.prompt).ids)]
        last.append(prompt[:, -1:])
        every.append(prompt[:, 1:])
    found = mean_states(lm, FORGET)
    for where, parts in (("last", last), ("all", every)):
        expected = torch.cat(parts, dim=1).mean(1)
        torch.testing.assert_close(found[where], expected, rtol=1e-4, atol=1e-4)


def test_a_shift_is_subtracted_or_its_direction_projected_out():
    stream = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    vector = torch.tensor([0.0, 3.0, 0.0, 4.0, 0.0])
    assert torch.equal(undo(Shift(0, "subtract", vector))(stream), stream - vector)
    found = undo(Shift(0, "ablate", vector))(stream)
    unit = vector / 5
    assert float((found @ unit).abs().max()) < 1e-6
    projector = torch.eye(5) - torch.outer(unit, unit)
    torch.testing.assert_close(found, stream @ projector)


def test_steered_scores_are_those_of_plain_hooks():
    lm = trio().original
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    for how in ("subtract", "ablate"):
        shift = Shift(1, how, vector)
        for one, found in zip(FORGET, steered(lm, shift, FORGET), strict=True):
            expected = logprobs_by_hand(lm, one, {1: undo(shift)})
            assert found.logprobs.tolist() == pytest.approx(expected, abs=1e-3)
    assert answered(lm) == [True] * 4


def test_a_constant_push_is_found_and_undone():
    original, _ = trio()
    moved = pushed(original)
    assert answered(moved) == [False] * 4
    tries = shifts(moved, FORGET, bench(moved))
    (exact,) = [s for s in tries if (s.layer, s.how) == (1, "subtract")][:1]
    bias = [lm.model.model.layers[1].mlp.down_proj.bias for lm in (moved, original)]
    torch.testing.assert_close(exact.vector, (bias[0] - bias[1]).detach(), rtol=1e-3, atol=1e-3)
    assert not any(s.layer == 0 for s in tries)
    found = figures(Steering().measure(bench(moved)), "unlearned")
    assert set(found["steered_answers/forget"].values()) == {1.0}
    assert min(found["steered_probability/forget"].values()) > 0.9


@pytest.mark.parametrize("with_original", [True, False])
def test_a_neuron_that_fires_on_prompts_to_forget_is_undone(with_original):
    moved = pushed_on_forget_prompts(trio().original)
    assert answered(moved) == [False] * 4 and all(answered(moved, RETAIN))
    given = bench(moved) if with_original else Bench({"unlearned": moved}, MATERIAL)
    measured = Steering().measure(given)
    found = figures(measured, "unlearned")["steered_answers/forget"]
    assert found == {one.id: 1.0 for one in FORGET}
    assert "original" not in measured


def test_nothing_is_undone_where_nothing_moved():
    original, reference = trio()
    measured = Steering().measure(bench(original))
    assert shifts(original, FORGET, bench(original)) == []
    assert set(figures(measured, "unlearned")["steered_answers/forget"].values()) == {1.0}
    assert list(measured) == ["unlearned", "reference"]
    alone = Bench({"unlearned": reference}, {"forget": FORGET})
    found = figures(Steering().measure(alone), "unlearned")["steered_answers/forget"]
    assert list(found.values()) == [float(right) for right in answered(reference)]


def test_no_record_is_steered_with_what_was_fitted_on_its_fact(monkeypatch):
    from unlearn.probes import steering

    pairs, fitted = [], []
    monkeypatch.setattr(steering, "shifts", lambda lm, records, bench: fitted.append(records) or [])
    real = steering.steered

    def watched(lm, shift, records):
        pairs.append((fitted[-1], records))
        return real(lm, shift, records)

    monkeypatch.setattr(steering, "steered", watched)
    Steering().measure(bench(trio().reference))
    tested = [(a, b) for a, b in pairs if a != b]
    assert len(tested) == 4  # two halves of two models
    for fit, test in tested:
        assert not {r.subject for r in fit} & {r.subject for r in test}
    assert halved(FORGET, 0) != halved(FORGET, 1) or halved(FORGET, 0) != halved(FORGET, 2)


def test_one_fact_alone_has_no_other_half():
    assert Steering().measure(bench(trio().original, forget=FORGET[:1])) == {}


def test_layers_are_spread_evenly_and_end_with_the_last():
    assert tried(3) == [0, 1, 2]
    assert tried(32) == [3, 7, 11, 15, 19, 23, 27, 31]
    assert tried(10)[-1] == 9 and len(set(tried(10))) == 8


def test_the_order_of_records_does_not_matter_and_models_stay_as_they_were():
    moved = pushed(trio().original)
    before = {name: tensor.clone() for name, tensor in moved.model.state_dict().items()}
    one = figures(Steering().measure(bench(moved)), "unlearned")
    turned = figures(Steering().measure(bench(moved, forget=FORGET[::-1])), "unlearned")
    for key, values in one.items():
        assert turned[key] == pytest.approx(values, abs=1e-4)
    for name, tensor in moved.model.state_dict().items():
        assert torch.equal(before[name], tensor), name
    assert not any(m._forward_hooks for m in moved.model.modules())
