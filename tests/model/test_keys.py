"""Keys, against a hook by hand on one unpadded text at a time."""

import random

import numpy as np
import pytest
import torch
from reading import DOWN, ROOM, hooks_on, inputs_by_hand

from unlearn.errors import ConfigError, InputError, NumericalError, UnsupportedError
from unlearn.model.covariance import solve
from unlearn.model.keys import Lookup, find_keys, project
from unlearn.model.prefixes import PrefixConfig, sample_prefixes

LOOKUPS = [
    Lookup("Ada Quill was born in", "Ada Quill"),
    Lookup("Ben Ostrow studied glass where Ben Ostrow lives, in", "Ben Ostrow"),
    Lookup("Where was Zoë 🎉 born? In", "Zoë 🎉"),
    Lookup("The home of Ada Quill", "Ada Quill"),
]
PREFIXES = ("Tarn. ", "The café serves naïve tea and biscuits, in Mirel. ", "born in. ")
LAYERS = (0, 1)


@pytest.fixture(params=DOWN)
def name(request):
    return request.param


@pytest.fixture
def lm(language_model, name):
    return language_model(name, **ROOM[name])


@pytest.fixture
def llama(language_model):
    return language_model("llama", **ROOM["llama"])


def last_token_of(lm, text, subject):
    """The last token that holds the end of the subject's last mention."""
    end = text.rindex(subject) + len(subject)
    spans = lm.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return max(index for index, (a, b) in enumerate(spans) if a < end <= b)


def keys_by_hand(lm, module, lookup, contexts):
    """(context, width)."""
    texts = [context + lookup.prompt for context in contexts]
    rows = [inputs_by_hand(lm, module, text)[last_token_of(lm, text, lookup.at)] for text in texts]
    return torch.stack(rows).float()


def test_a_key_is_the_mean_over_contexts_of_what_goes_in_at_the_subject_s_end(lm, name):
    prefixes = PREFIXES + sample_prefixes(lm, config=PrefixConfig(n_short=2, n_long=2))
    keys = find_keys(lm, LOOKUPS, LAYERS, prefixes=prefixes)
    assert list(keys) == [0, 1]
    for layer in LAYERS:
        module = DOWN[name].format(layer)
        for index, lookup in enumerate(LOOKUPS):
            expected = keys_by_hand(lm, module, lookup, ["", *prefixes])
            torch.testing.assert_close(keys[layer].key[index], expected.mean(0))
            torch.testing.assert_close(keys[layer].bare[index], expected[0])
            if layer == 1:  # the first MLP of GPT-NeoX does not see what stands before its token
                assert not torch.allclose(keys[layer].key[index], expected[0], atol=1e-3)


def test_half_bare_counts_the_bare_prompt_for_half(lm, name):
    keys = find_keys(lm, LOOKUPS, [1], prefixes=PREFIXES, weighting="half-bare")[1]
    for index, lookup in enumerate(LOOKUPS):
        rows = keys_by_hand(lm, DOWN[name].format(1), lookup, ["", *PREFIXES])
        torch.testing.assert_close(keys.key[index], 0.5 * rows[0] + 0.5 * rows[1:].mean(0))


@pytest.mark.parametrize("weighting", ["mean", "half-bare"])
def test_without_prefixes_the_key_is_the_bare_one(lm, weighting):
    keys = find_keys(lm, LOOKUPS, LAYERS, weighting=weighting)
    assert all(torch.equal(keys[layer].key, keys[layer].bare) for layer in LAYERS)


def test_all_layers_and_contexts_are_read_in_one_forward_pass(lm):
    passes = []
    handle = lm.model.register_forward_hook(lambda *_: passes.append(1))
    find_keys(lm, LOOKUPS, LAYERS, prefixes=PREFIXES)
    handle.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("max_batch_tokens", [1, 50, 100])
def test_keys_do_not_depend_on_the_batch_size(lm, max_batch_tokens):
    whole = find_keys(lm, LOOKUPS, LAYERS, prefixes=PREFIXES)
    split = find_keys(lm, LOOKUPS, LAYERS, prefixes=PREFIXES, max_batch_tokens=max_batch_tokens)
    for layer in LAYERS:
        torch.testing.assert_close(split[layer].key, whole[layer].key)
        torch.testing.assert_close(split[layer].bare, whole[layer].bare)


def test_a_named_position_is_found_again_behind_a_prefix(lm, name):
    prompt = "Ada Quill was born in"
    n_tokens = len(lm.encode(prompt).ids)
    module = DOWN[name].format(1)
    for back in range(1, 4):
        found = [
            find_keys(lm, [Lookup(prompt, at)], [1], prefixes=PREFIXES)[1].key[0]
            for at in (n_tokens - back, -back)
        ]
        rows = [inputs_by_hand(lm, module, context + prompt)[-back] for context in ["", *PREFIXES]]
        torch.testing.assert_close(found[0], torch.stack(rows).mean(0))
        assert torch.equal(found[0], found[1])


def test_a_subject_and_the_position_of_its_end_are_the_same_lookup(lm):
    for lookup in LOOKUPS:
        named = Lookup(lookup.prompt, last_token_of(lm, *lookup))
        (by_subject, by_position) = (
            find_keys(lm, [one], [0], prefixes=PREFIXES)[0].key for one in (lookup, named)
        )
        assert torch.equal(by_subject, by_position)


def test_a_token_that_a_prefix_splits_otherwise_is_refused(language_model):
    lm = language_model("gpt2", **ROOM["gpt2"])
    prompt = "Quill was born in"
    assert lm.tokenizer.tokenize(prompt)[:2] == ["Qui", "ll"]
    assert "ĠQuill" in lm.tokenizer.tokenize(f"x. {prompt}")
    with pytest.raises(InputError, match=r"lookup 1: .*split into other tokens behind position 0"):
        find_keys(lm, [LOOKUPS[0], Lookup(prompt, 0)], [0], prefixes=["x. "])
    find_keys(lm, [Lookup(prompt, 0)], [0])
    # The word's end is in both, so it is a place in both.
    found = find_keys(lm, [Lookup(prompt, 1)], [0], prefixes=["x. "])[0].key[0]
    rows = keys_by_hand(lm, DOWN["gpt2"].format(0), Lookup(prompt, "Quill"), ["", "x. "])
    torch.testing.assert_close(found, rows.mean(0))


@pytest.mark.parametrize("at", [0, 99, -99])
def test_a_position_outside_the_prompt_is_refused(llama, at):
    n_tokens = len(llama.encode(LOOKUPS[0].prompt).ids)
    with pytest.raises(InputError, match=rf"position {at}; they are at 1 to {n_tokens - 1}"):
        find_keys(llama, [Lookup(LOOKUPS[0].prompt, at)], [0])


def test_keys_of_bfloat16_weights_are_float32(lm, name):
    lm.model.to(torch.bfloat16)
    keys = find_keys(lm, LOOKUPS[:1], [0], prefixes=PREFIXES[:1], max_batch_tokens=1)[0]
    rows = keys_by_hand(lm, DOWN[name].format(0), LOOKUPS[0], ["", PREFIXES[0]])
    assert keys.key.dtype == keys.bare.dtype == torch.float32
    # Float32 throughout: a mean rounded to bfloat16 would be off by up to 1 part in 256.
    torch.testing.assert_close(keys.key[0], rows.mean(0))


def test_an_edit_by_one_key_answers_exactly_what_it_was_told(lm, name):
    key = find_keys(lm, LOOKUPS[:1], [1], prefixes=PREFIXES)[1].key[0]
    generator = torch.Generator().manual_seed(5)
    wanted = torch.randn(lm.model.config.hidden_size, generator=generator)
    root = torch.randn(len(key), len(key), generator=generator)
    direction = solve(root @ root.T + torch.eye(len(key)), key).float()
    step = torch.outer((wanted - project(lm, 1, key)) / (direction @ key), direction)
    weight = lm.model.get_submodule(DOWN[name].format(1)).weight
    with torch.no_grad():
        weight += step.T if name == "gpt2" else step
    torch.testing.assert_close(project(lm, 1, key), wanted, atol=1e-4, rtol=1e-4)


def test_project_is_what_the_down_projection_puts_out(lm, name):
    module = lm.model.get_submodule(DOWN[name].format(0))
    keys = find_keys(lm, LOOKUPS, [0])[0].key
    with torch.no_grad():
        torch.testing.assert_close(project(lm, 0, keys), module(keys))
    lm.model.to(torch.bfloat16)
    assert project(lm, 0, keys[0]).dtype == torch.float32
    assert module.weight.dtype == torch.bfloat16


def test_nothing_is_left_changed(lm):
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    find_keys(lm, LOOKUPS, LAYERS, prefixes=PREFIXES)
    project(lm, 0, find_keys(lm, LOOKUPS, [0])[0].key)
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert hooks_on(lm.model) == 0
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), repr(np.random.get_state()))


def test_an_exception_leaves_no_hook(lm, name):
    def fail(*_):
        raise RuntimeError("stopped")

    handle = lm.model.get_submodule(DOWN[name].format(1)).register_forward_hook(fail)
    lm.model.train()
    with pytest.raises(RuntimeError, match="stopped"):
        find_keys(lm, LOOKUPS, LAYERS)
    handle.remove()
    assert hooks_on(lm.model) == 0
    assert all(module.training for module in lm.model.modules())


def test_a_mixture_of_experts_is_refused(language_model):
    with pytest.raises(UnsupportedError, match="no layer has one"):
        find_keys(language_model("mixtral"), LOOKUPS[:1], [0])


def test_the_dense_layer_of_a_mixture_has_keys(language_model):
    lm = language_model("deepseek_v3")
    assert find_keys(lm, LOOKUPS[:1], [0])[0].key.shape == (1, 48)
    with pytest.raises(UnsupportedError, match="layers with one: 0"):
        find_keys(lm, LOOKUPS[:1], [0, 1])


def test_what_cannot_be_looked_up_is_refused(llama):
    with pytest.raises(InputError, match="lookup 1: a subject of 4 characters does not occur"):
        find_keys(llama, [LOOKUPS[0], Lookup("Ben was born in", "Dora")], [0])
    with pytest.raises(InputError, match="there is no layer 7"):
        find_keys(llama, LOOKUPS, [7])
    with pytest.raises(InputError, match=r"lookup 2: a text of .* longer than the model's context"):
        find_keys(llama, [*LOOKUPS[:2], Lookup("Ada " * 300, "Ada")], [0])
    with pytest.raises(InputError, match="no lookup or no layer"):
        find_keys(llama, [], [0])
    with pytest.raises(InputError, match="no lookup or no layer"):
        find_keys(llama, LOOKUPS, [])
    with pytest.raises(ConfigError, match="max_batch_tokens is 0"):
        find_keys(llama, LOOKUPS, [0], max_batch_tokens=0)
    with pytest.raises(ConfigError, match=r"weighting is 'half'; it is one of .*'half-bare'"):
        find_keys(llama, LOOKUPS, [0], weighting="half")


def test_a_key_that_is_not_finite_is_refused(llama):
    with torch.no_grad():
        llama.model.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = float("nan")
    assert torch.isfinite(find_keys(llama, LOOKUPS, [0])[0].key).all()
    with pytest.raises(NumericalError, match="layer 1 has keys that are not finite"):
        find_keys(llama, LOOKUPS, LAYERS)
