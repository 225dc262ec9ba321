"""Patching depth against plain hooks on one text at a time."""

import numpy as np
import pytest
import torch
from known_towns import (
    FORGET,
    MATERIAL,
    answered,
    bench,
    by_hand,
    figures,
    logprobs_by_hand,
    masked_by_the_head,
    masked_by_the_last_block,
    trio,
    untrained,
)

from unlearn.probes import patching
from unlearn.probes.patching import THRESHOLD, PatchingDepth, falls, ignorance
from unlearn.probes.probe import Bench


def fall_by_hand(original, source, one):
    """What the answer loses with the source's output of each block, text by text."""
    start = original.encode(one.prompt, one.completion).start
    before = np.mean(logprobs_by_hand(original, one, {}))
    lost = []
    for layer, states in enumerate(by_hand(source, one)[1:]):

        def put(stream, states=states):
            stream = stream.clone()
            stream[0, start - 1 : -1] = states[start - 1 : -1]
            return stream

        lost.append(before - np.mean(logprobs_by_hand(original, one, {layer: put})))
    return np.array(lost)


def test_falls_are_those_of_one_text_at_a_time_whatever_the_batch():
    original, reference = trio()
    hidden = masked_by_the_last_block(original)
    expected = [
        np.stack([fall_by_hand(original, source, one) for one in FORGET])
        for source in (reference, hidden)
    ]
    for max_batch_tokens in (1, 20, 1024):
        found = falls(original, [reference, hidden], FORGET, max_batch_tokens)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-3)
    turned = falls(original, [reference, hidden], FORGET[::-1])
    assert turned.by_unlearned[::-1] == pytest.approx(found.by_unlearned, abs=1e-3)


def test_what_is_left_is_one_minus_the_unlearning_depth_score():
    original, reference = trio()
    hidden = masked_by_the_last_block(original)
    measured = PatchingDepth().measure(bench(hidden))
    found = figures(measured, "unlearned")["patched_knowledge/forget"]
    assert found
    for one in FORGET:
        d1, d2 = (fall_by_hand(original, source, one) for source in (reference, hidden))
        said = [np.mean(logprobs_by_hand(lm, one, {})) for lm in (original, reference)]
        d1 = np.minimum(d1, said[0] - said[1])
        layers = np.flatnonzero(d1 > THRESHOLD)
        if len(layers):
            score = sum(d1[at] * np.clip(d2[at] / d1[at], 0, 1) for at in layers) / sum(d1[layers])
            assert found.pop(one.id) == pytest.approx(1 - score, abs=2e-3)
    assert found == {}
    points = dict(measured["unlearned"][0].curve.points)
    assert points[2.0] == pytest.approx(1, abs=1e-3) and points[3.0] < 0.5


def test_states_count_as_no_more_than_what_the_reference_lacks(monkeypatch):
    original, reference = trio()
    lacking = ignorance(original, reference, FORGET)
    for one, value in zip(FORGET, lacking, strict=True):
        said = [np.mean(logprobs_by_hand(lm, one, {})) for lm in (original, reference)]
        assert value == pytest.approx(said[0] - said[1], abs=1e-3)
    hidden = masked_by_the_last_block(original)
    d1, d2 = falls(original, [reference, hidden], FORGET)
    monkeypatch.setattr(patching, "ignorance", lambda *_: np.full(len(FORGET), 0.2))
    found = figures(PatchingDepth().measure(bench(hidden)), "unlearned")
    for one, most, lost in zip(FORGET, np.minimum(d1, 0.2), d2, strict=True):
        layers = most > THRESHOLD
        share = (most * np.clip(lost / most, 0, 1))[layers].sum() / most[layers].sum()
        value = found["patched_knowledge/forget"][one.id]
        assert value == pytest.approx(1 - share, abs=2e-3)


def test_the_original_has_all_left_and_the_reference_nothing():
    original, reference = trio()
    for unlearned, expected in ((original, 1.0), (reference, 0.0)):
        measured = PatchingDepth().measure(bench(unlearned))
        assert list(measured) == ["original", "unlearned", "reference"]
        for role, value in (("original", 1.0), ("unlearned", expected), ("reference", 0.0)):
            values = figures(measured, role)["patched_knowledge/forget"].values()
            assert list(values) == [value] * len(values)


def test_an_edited_unembedding_hides_nothing_from_patching():
    hidden = masked_by_the_head(trio().original)
    assert answered(hidden) == [False] * 4
    found = figures(PatchingDepth().measure(bench(hidden)), "unlearned")
    assert set(found["patched_knowledge/forget"].values()) == {1.0}


def test_models_of_another_shape_have_no_figure():
    assert PatchingDepth().measure(bench(untrained(num_hidden_layers=2))) == {}


def test_records_that_the_original_never_knew_have_no_figure():
    lm = trio().reference
    same = Bench({"original": lm, "unlearned": lm, "reference": lm}, MATERIAL)
    assert PatchingDepth().measure(same) == {}


def test_models_are_left_as_they_were_also_after_an_error(monkeypatch):
    original, reference = trio()
    before = {name: tensor.clone() for name, tensor in original.model.state_dict().items()}

    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr("unlearn.model.scoring.statistics", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        PatchingDepth().measure(bench(reference))
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(before[name], tensor), name
    for lm in (original, reference):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
