"""Rounded copies against grids worked by hand, and how much of a change rounding undoes."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import unlearn
from unlearn.errors import ConfigError, UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.precision import (
    at_precision,
    half_step,
    quantised_weights,
    rounded,
    share_below_half_step,
)


def lab_tokenizer():
    return unlearn.load("lab:full").tokenizer


@pytest.fixture
def llama():
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return LanguageModel(LlamaForCausalLM(config), lab_tokenizer())


def by_hand(row, levels):
    """Symmetric rounding without clipping: the larger of max / highest and min / lowest."""
    lowest, highest = levels
    scale = torch.maximum(row.max() / highest, row.min() / lowest)
    return (row / scale).round().clamp(lowest, highest) * scale


def test_int8_rounds_each_output_to_its_own_grid():
    weight = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([by_hand(row, (-128, 127)) for row in weight])
    torch.testing.assert_close(rounded(weight, "int8"), expected)


def test_int4_rounds_each_group_of_32_inputs_to_its_own_grid():
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    groups = weight.reshape(3, 2, 32)
    expected = torch.stack([torch.cat([by_hand(g, (-8, 7)) for g in row]) for row in groups])
    torch.testing.assert_close(rounded(weight, "int4"), expected)


@pytest.mark.parametrize(("width", "group"), [(48, 24), (7, 7), (37, 37), (96, 32)])
def test_a_width_that_32_does_not_divide_gets_the_largest_group_that_does(width, group):
    weight = torch.randn(2, width, generator=torch.Generator().manual_seed(3))
    steps = 2 * half_step(weight, "int4")
    for start in range(0, width, group):
        piece = steps[:, start : start + group]
        assert (piece == piece[:, :1]).all()
    assert rounded(weight, "int4").shape == weight.shape


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_a_copy_is_rounded_once_and_the_model_is_left_alone(llama, precision):
    before = {k: v.clone() for k, v in llama.model.state_dict().items()}
    copy = at_precision(llama, precision)
    assert all(torch.equal(v, before[k]) for k, v in llama.model.state_dict().items())
    assert copy.digest != llama.digest
    assert copy.source.endswith(f"in {precision}")
    again = at_precision(copy, precision)
    for (name, one), (_, two) in zip(
        quantised_weights(copy), quantised_weights(again), strict=True
    ):
        torch.testing.assert_close(one, two, msg=name)


def test_embeddings_norms_and_the_unembedding_stay(llama):
    copy = at_precision(llama, "int4").model.state_dict()
    for name, tensor in llama.model.state_dict().items():
        stays = "embed" in name or "norm" in name or "lm_head" in name
        assert torch.equal(tensor, copy[name]) == stays, name


def test_layers_that_keep_inputs_first_are_rounded_along_their_inputs():
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    torch.manual_seed(0)
    lm = LanguageModel(GPT2LMHeadModel(config), lab_tokenizer())
    copy = at_precision(lm, "int4")
    weight = lm.model.transformer.h[0].mlp.c_fc.weight
    expected = rounded(weight.detach().T, "int4").T
    torch.testing.assert_close(copy.model.transformer.h[0].mlp.c_fc.weight.detach(), expected)


def test_changes_below_half_a_step_are_counted_and_undone(llama):
    grid = at_precision(llama, "int4")
    changed = grid.copy()
    with torch.no_grad():
        name, weight = next(quantised_weights(changed))
        # The largest weight of a group sets its step, so it stays.
        steps = half_step(weight, "int4")
        move = torch.where(weight.abs() < 5 * steps, 0.8 * steps, torch.zeros_like(steps))
        weight.add_(move)
        weight[0, 0] += 3 * steps[0, 0]
    changed.changed()
    found = share_below_half_step(grid, changed, "int4")
    n = int((move > 0).sum())
    assert set(found) == {name, ""}
    assert found[name].changed in (n, n + 1)
    assert found[""].share == pytest.approx(1 - 1 / found[name].changed)
    assert set(share_below_half_step(grid, changed, "bf16")) == {name, ""}
    back = dict(quantised_weights(at_precision(changed, "int4")))[name]
    kept = dict(quantised_weights(grid))[name]
    same = torch.isclose(back, kept, atol=1e-6)
    assert same[1:].all()


def test_nothing_changed_is_no_share(llama):
    assert share_below_half_step(llama, llama.copy(), "int8") == {}


def test_a_precision_that_is_not_known_is_refused(llama):
    with pytest.raises(ConfigError, match="'int3' is no precision; did you mean 'int"):
        at_precision(llama, "int3")


def test_models_of_different_layout_are_refused(llama):
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    other = LanguageModel(LlamaForCausalLM(config), lab_tokenizer())
    with pytest.raises(UnsupportedError, match="differ in"):
        share_below_half_step(llama, other, "int8")


def hidden_in_the_rounding(lm):
    """A model whose every weight but the largest of a group lies off the int4 copy of ``lm``."""
    moved = at_precision(lm, "int4")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, weight in quantised_weights(moved):
            step = 2 * half_step(weight, "int4")
            # The extremes of a group set its step; codes of 7 and -8 are theirs alone.
            inner = weight.abs() < 6.5 * step
            noise = 0.8 * (torch.rand(weight.shape, generator=generator) - 0.5) * step
            weight.add_(torch.where(inner, noise, torch.zeros_like(noise)))
    moved.changed()
    return moved


def test_changes_within_half_a_step_all_come_undone_in_int4():
    full = unlearn.load("lab:full")
    moved = hidden_in_the_rounding(full)
    expected = dict(quantised_weights(at_precision(full, "int4")))
    for name, weight in quantised_weights(moved):
        assert (weight - expected[name]).abs().max() > 0.01 * expected[name].abs().max()
    for name, weight in quantised_weights(at_precision(moved, "int4")):
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert share_below_half_step(at_precision(full, "int4"), moved, "int4")[""].share == 1.0
