"""Prefixes are a model's own, the same for a seed, and never another model's."""

import gc
import random

import numpy as np
import pytest
import torch
from reading import write_to

from unlearn.errors import InputError
from unlearn.model import prefixes as module
from unlearn.model.generation import generate
from unlearn.model.prefixes import PrefixConfig, sample_prefixes

FEW = PrefixConfig(n_short=3, n_long=2)


@pytest.fixture(params=["llama", "gpt2"])
def lm(request, language_model):
    return language_model(request.param)


@pytest.fixture
def sampled(monkeypatch):
    """The models that were asked for text, one entry for each call."""
    calls = []

    def recorded(lm, *args, **kwargs):
        calls.append(lm)
        return generate(lm, *args, **kwargs)

    monkeypatch.setattr(module, "generate", recorded)
    return calls


def test_prefixes_are_what_the_model_writes_after_its_first_token(lm):
    start = "" if lm.adds_bos else "<end>"
    assert len(lm.encode(start).ids) == 1
    options = {"temperature": 1.0, "top_p": 0.9}
    (short,) = generate(lm, [start], max_new_tokens=5, n_samples=3, seed=8, **options)
    (long,) = generate(lm, [start], max_new_tokens=10, n_samples=2, seed=9, **options)
    expected = [text.strip().rstrip(".") + ". " for text in short + long if text.strip(" .")]
    assert sample_prefixes(lm, seed=4, config=FEW) == tuple(expected)
    assert len(expected) >= 3


def test_short_prefixes_are_not_the_beginnings_of_the_long_ones(lm):
    short, long = (
        sample_prefixes(lm, config=PrefixConfig(n_short=n_short, n_long=n_long))
        for n_short, n_long in ((6, 0), (0, 6))
    )
    assert min(len(short), len(long)) >= 4
    begun = [b for a in short for b in long if b.startswith(a.removesuffix(". "))]
    assert len(begun) <= 1  # by chance, where a short one is of a single token


def test_the_seed_decides(language_model):
    one, two = language_model("llama"), language_model("llama")
    assert sample_prefixes(one, seed=1, config=FEW) == sample_prefixes(two, seed=1, config=FEW)
    assert sample_prefixes(one, seed=1, config=FEW) != sample_prefixes(one, seed=2, config=FEW)


def test_no_global_generator_is_touched(lm):
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    sample_prefixes(lm, config=FEW)
    after = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_asking_again_samples_nothing(lm, sampled):
    first = sample_prefixes(lm, seed=3, config=FEW)
    assert len(sampled) == 2
    assert sample_prefixes(lm, seed=3, config=PrefixConfig(n_short=3, n_long=2)) == first
    assert len(sampled) == 2


def test_other_settings_are_sampled_anew(lm, sampled):
    sample_prefixes(lm, config=FEW)
    other = sample_prefixes(lm, config=PrefixConfig(n_short=0, n_long=2))
    assert len(sampled) == 3
    assert other == sample_prefixes(lm, config=FEW)[-2:]


def test_a_second_model_in_the_process_gets_its_own(language_model, sampled):
    # ROME keeps prefixes in a global variable, and whoever comes second gets the first one's.
    llama, gpt2 = language_model("llama"), language_model("gpt2")
    ours, theirs = sample_prefixes(llama, config=FEW), sample_prefixes(gpt2, config=FEW)
    assert ours != theirs
    assert sampled == [llama, llama, gpt2, gpt2]
    assert sample_prefixes(llama, config=FEW) == ours
    assert sample_prefixes(gpt2, config=FEW) == theirs


def test_a_model_whose_weights_changed_gets_new_ones(lm, sampled):
    before = sample_prefixes(lm, config=FEW)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.copy_(parameter.flip(0))
    lm.changed()
    assert sample_prefixes(lm, config=FEW) != before
    assert len(sampled) == 4


def test_a_small_change_is_a_change(lm, sampled):
    sample_prefixes(lm, config=FEW)
    write_to(lm)
    sample_prefixes(lm, config=FEW)
    assert len(sampled) == 4


def test_the_cache_does_not_keep_a_model_alive(language_model):
    gc.collect()
    n_before = len(module._sampled)
    lm = language_model("llama")
    sample_prefixes(lm, config=FEW)
    assert len(module._sampled) == n_before + 1
    del lm
    gc.collect()
    assert len(module._sampled) == n_before


def test_samples_end_in_one_full_stop_and_blank_ones_are_left_out(lm, monkeypatch):
    monkeypatch.setattr(
        module, "generate", lambda *args, **kwargs: [["", "a b ", " \n", "c.", "."]]
    )
    assert sample_prefixes(lm, config=PrefixConfig(n_short=5, n_long=0)) == ("a b. ", "c. ")


def test_a_tokenizer_without_a_token_to_start_from_is_refused(language_model, monkeypatch):
    lm = language_model("gpt2")
    monkeypatch.setattr(type(lm.tokenizer), "bos_token", None, raising=False)
    monkeypatch.setattr(type(lm.tokenizer), "eos_token", None, raising=False)
    with pytest.raises(InputError, match=r"neither a BOS nor an EOS.*write some prefixes yourself"):
        sample_prefixes(lm)
