"""Zero neurons change nothing, neurons do what they say, and both come out bit for bit."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from unlearn.errors import UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.widening import Neurons, find_mlp, narrowed, widened

GATED = ("llama", "qwen2", "gemma2", "qwen3", "olmo2")
PLAIN = ("gpt2", "gpt_neox", "opt", "phi", "falcon", "gptj", "gpt_neo", "starcoder2", "nemotron")
UNSAID = {"gpt2", "gptj", "gpt_neo", "falcon"}
"""Their configs may leave the width out; what comes back says it."""
REFUSED = ("phi3", "mixtral", "qwen3_moe", "bloom", "mpt", "glm")


@pytest.fixture
def make(build, byte_level):
    def make(name: str, **changes: object) -> LanguageModel:
        return LanguageModel(build(name, **changes).model, byte_level)

    return make


def logits(lm: LanguageModel) -> torch.Tensor:
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        return lm.model(input_ids=ids, use_cache=False).logits


def some(lm: LanguageModel, layer: int, n: int = 3) -> Neurons:
    mlp = find_mlp(lm, layer)
    generator = torch.Generator().manual_seed(0)
    width = lm.model.config.hidden_size
    modules = [lm.model.get_submodule(name) for name in mlp.reading]
    biases = [None if m.bias is None else torch.randn(n, generator=generator) for m in modules]
    reading = tuple(torch.randn(n, width, generator=generator) for _ in modules)
    return Neurons(reading, tuple(biases), torch.randn(width, n, generator=generator))


@pytest.mark.parametrize("name", GATED + PLAIN)
def test_zero_neurons_change_nothing_and_come_out_bit_for_bit(make, name):
    lm = make(name)
    wide = widened(lm, 5, 1)
    assert find_mlp(wide, 0).width == find_mlp(lm, 0).width + 5
    torch.testing.assert_close(logits(wide), logits(lm), rtol=1e-5, atol=1e-6)
    narrow = narrowed(wide, 5)
    assert narrow.digest == lm.digest
    if name not in UNSAID:
        assert narrow.model.config.to_dict() == lm.model.config.to_dict()
    assert torch.equal(logits(narrow), logits(lm))


@pytest.mark.parametrize("name", GATED + PLAIN)
def test_a_neuron_is_a_unit_of_that_mlp(make, name):
    lm = make(name)
    neurons = some(lm, 1)
    wide = widened(lm, 3, 1, neurons)
    mlp = find_mlp(lm, 1)
    inputs = {}

    def keep(module, args):
        inputs["x"] = args[0].detach()

    def add(module, args, output):
        shape = inputs["x"].shape
        extra = torch.nn.functional.linear(units["h"].reshape(*shape[:-1], -1), neurons.writing)
        return output + extra.reshape(output.shape)

    # What the new units carry is read off the wide model, what they add is added by hand.
    units = {}
    handle = wide.model.get_submodule(mlp.writing).register_forward_pre_hook(
        lambda m, args: units.update(h=args[0][..., -3:].detach())
    )
    expected_wide = logits(wide)
    handle.remove()
    pre = lm.model.get_submodule(mlp.writing).register_forward_pre_hook(keep)
    post = lm.model.get_submodule(mlp.writing).register_forward_hook(add)
    by_hand = logits(lm)
    pre.remove()
    post.remove()
    torch.testing.assert_close(expected_wide, by_hand, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected_wide, logits(lm), atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt"])
def test_a_wide_model_opens_with_plain_transformers(make, name, tmp_path):
    lm = make(name)
    wide = widened(lm, 3, 0, some(lm, 0))
    wide.model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(opened(input_ids=ids).logits, wide.model(input_ids=ids).logits)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_model_itself_stays_as_it_was(make, name):
    lm = make(name)
    before, config = lm.digest, lm.model.config.to_dict()
    widened(lm, 3, 0, some(lm, 0))
    lm.changed()
    assert lm.digest == before and lm.model.config.to_dict() == config


def test_the_gate_is_told_from_what_it_multiplies_by_what_closes_the_neuron(make):
    for name in GATED:
        first, second = find_mlp(make(name), 0).reading
        assert first.endswith("gate_proj") and second.endswith("up_proj")


@pytest.mark.parametrize("name", REFUSED)
def test_experts_fused_matrices_and_fixed_widths_are_refused(make, name):
    lm = make(name)
    before = lm.digest
    with pytest.raises(UnsupportedError, match=r"experts|matrices that feed|no one setting"):
        widened(lm, 2, 0)
    lm.changed()
    assert lm.digest == before
