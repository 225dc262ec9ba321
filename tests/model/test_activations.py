"""Batches of texts and what goes into modules for them."""

import pytest
import torch
from reading import DOWN, hooks_on, inputs_by_hand

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.model.activations import by_length, read_inputs

TEXTS = ["Ada Quill was born in Tarn.", "Ben", "Where was Ada Quill born?"]


def test_groups_hold_each_text_once_and_like_lengths_together():
    texts = [[0] * n for n in (3, 7, 1, 7, 2, 20)]
    groups = list(by_length(texts, 14))
    assert groups == [[5], [1, 3], [0, 4, 2]]


def test_a_group_fits_the_budget_with_its_padding():
    texts = [[0] * n for n in (5, 4, 4, 3, 2, 2, 1, 1, 1)]
    for budget in range(5, 30):
        groups = list(by_length(texts, budget))
        assert sorted(index for group in groups for index in group) == list(range(9))
        assert all(len(group) * len(texts[group[0]]) <= budget for group in groups)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="max_batch_tokens is 0"):
        list(by_length([[1]], 0))


@pytest.mark.parametrize("name", DOWN)
def test_a_padded_batch_reads_what_each_text_gives_alone(language_model, name):
    lm = language_model(name)
    modules = [DOWN[name].format(layer) for layer in (0, 1)]
    rows = [lm.encode(text).ids for text in TEXTS]
    inputs = read_inputs(lm, modules, rows)
    assert inputs.mask.sum(-1).tolist() == [len(ids) for ids in rows]
    for module in modules:
        assert inputs.of[module].shape[:2] == (3, max(map(len, rows)))
        for row, text in enumerate(TEXTS):
            alone = inputs_by_hand(lm, module, text)
            torch.testing.assert_close(inputs.of[module][row][inputs.mask[row]], alone)


def test_each_module_keeps_its_mode(language_model):
    lm = language_model("llama")
    part = lm.model.get_submodule("model.layers.1")
    part.train()
    read_inputs(lm, ["model.layers.0.mlp"], [[1, 2, 3]])
    assert part.training
    assert not lm.model.training


def test_a_module_that_reads_only_some_tokens_is_refused(language_model):
    lm = language_model("llama")
    with pytest.raises(UnsupportedError, match=r"'lm_head'.*1, 1, 32.*1 texts of 3 positions"):
        read_inputs(lm, ["lm_head"], [[1, 2, 3]])
    assert hooks_on(lm.model) == 0
