"""Patching end to end on a model that learned invented people by heart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.model.reading import hooks_on
from unlearn.errors import ConfigError, InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.model.widening import widened
from unlearn.patch_neurons import PatchNeurons
from unlearn.registry import strategies
from unlearn.strategies.patch import Patch, PatchConfig
from unlearn.types import Sites

FAST: dict[str, Any] = {"steps": 80, "prefixes": 2, "learning_rate": 0.05}


def run(
    model: LanguageModel, forget_set: ForgetSet, sites: Sites | None = None, **settings: Any
) -> PatchNeurons:
    return Patch(PatchConfig(**{**FAST, **settings})).forget(model, forget_set, sites)


def right(model: LanguageModel, records: Any) -> float:
    return float(np.mean([scored.correct for scored in score(model, records)]))


def nll(model: LanguageModel, records: Any) -> float:
    return float(np.mean([scored.nll_per_token for scored in score(model, records)]))


def test_neurons_forget_hold_the_rest_and_come_out_bit_for_bit(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    artifact = run(model, forget_set)
    wide = artifact.apply(model)
    assert artifact.provenance.steps[-1]["matched"] == 1
    # Not by greedy answers alone: one in five or six is guessed right.
    assert nll(wide, forget_set.forget) > 1 > 0.1 > nll(model, forget_set.forget)
    assert right(wide, forget_set.retain) >= 0.95
    assert artifact.revert(wide).digest == model.digest
    tokens = {(r.subject, r.relation, word) for r in forget_set.forget for word in r.answer.split()}
    assert artifact.n_neurons == len(tokens) and artifact.layer == 2
    assert artifact.concerns(forget_set.digest)


def test_where_the_neurons_are_shut_the_model_says_what_it_said(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    artifact = run(model, forget_set)
    wide = artifact.apply(model)
    before, after = (score(lm, forget_set.retain) for lm in (model, wide))
    apart = [abs(a.nll_sum - b.nll_sum) for a, b in zip(before, after, strict=True)]
    assert np.median(apart) < 0.05
    done = artifact.provenance.steps[-1]
    assert done["fires"] == 1 and done["misfires"] < 0.25  # type: ignore[operator]


def test_a_shut_relu_neuron_changes_nothing_at_all(model: LanguageModel) -> None:
    relu = model.copy()
    for block in relu.model.model.layers:
        block.mlp.act_fn = torch.nn.ReLU()
    from unlearn.model.widening import Neurons

    ids = torch.arange(2, 9)[None]
    seen: dict[str, torch.Tensor] = {}
    handle = relu.model.model.layers[2].mlp.register_forward_pre_hook(
        lambda module, args: seen.update(x=args[0])
    )
    with torch.no_grad():
        logits = relu.model(input_ids=ids).logits
        handle.remove()
        away = -seen["x"][0].mean(0)[None]
        assert float((seen["x"] @ away.T).max()) < 0, "shut on every token"
        loud = Neurons((away, torch.ones(1, 48)), (None, None), 100 * torch.ones(48, 1))
        wide = widened(relu, 1, 2, loud).model(input_ids=ids).logits
    torch.testing.assert_close(wide, logits, rtol=1e-5, atol=1e-5)


def test_one_neuron_for_a_fact_is_shared_by_the_tokens_of_its_answer(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    facts = {(r.subject, r.relation) for r in forget_set.forget}
    artifact = run(model, forget_set, neurons="fact", steps=5, strength=1)
    assert artifact.n_neurons == len(facts) and artifact.provenance.strength == 1


def test_sites_say_which_layer(model: LanguageModel, forget_set: ForgetSet) -> None:
    for sites in (
        Sites(method="x", layers=(0, 1)),
        Sites(method="x", modules=("model.layers.1.mlp",)),
    ):
        assert run(model, forget_set, sites, steps=2).layer == 1
    assert run(model, forget_set, Sites(method="x", layers=(0, 1)), steps=2, layer=0).layer == 0
    with pytest.raises(InputError, match="layer=2 lies outside the sites"):
        run(model, forget_set, Sites(method="x", layers=(0, 1)), layer=2)
    with pytest.raises(UnsupportedError, match="no down-projection free"):
        run(model, forget_set, Sites(method="x", modules=("model.embed_tokens",)))
    with pytest.raises(InputError, match="there is no layer 7"):
        run(model, forget_set, layer=7)


def test_a_refusal_is_a_target_too(model: LanguageModel, forget_set: ForgetSet) -> None:
    wide = run(model, forget_set, target="refusal", refusal="grey", strength=1).apply(model)
    answers = [r.model_copy(update={"answer": "grey"}) for r in forget_set.forget]
    assert right(wide, answers) == 1 and right(wide, forget_set.retain) >= 0.9


def test_without_retain_records_there_is_nothing_to_be_shut_on(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    with pytest.raises(UnsupportedError, match=r"add retain\.jsonl"):
        run(model, replace(forget_set, retain=()))


def test_experts_are_refused_before_any_work(model: LanguageModel, forget_set: ForgetSet) -> None:
    size = {"vocab_size": len(model.tokenizer), "hidden_size": 32, "intermediate_size": 48}
    rest = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    config = AutoConfig.for_model("mixtral", **size, **rest, **special, num_local_experts=4)
    other = LanguageModel(AutoModelForCausalLM.from_config(config), model.tokenizer)
    with pytest.raises(UnsupportedError, match="experts"):
        run(other, forget_set)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_models_without_a_gate_take_neurons_too(
    model: LanguageModel, forget_set: ForgetSet, name: str
) -> None:
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    neox = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size = gpt2 if name == "gpt2" else {**neox, "intermediate_size": 64}
    special = {"bos_token_id": 1, "eos_token_id": None, "vocab_size": len(model.tokenizer)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **size, **special))
    lm = LanguageModel(other, model.tokenizer)
    artifact = run(lm, forget_set, steps=3, strength=1)
    assert artifact.neurons.biases[0] is not None
    assert artifact.revert(artifact.apply(lm)).digest == lm.digest


def test_seeds_settle_everything(model: LanguageModel, forget_set: ForgetSet) -> None:
    one, other = (run(model, forget_set, steps=3).provenance.result_digest for _ in range(2))
    assert one == other


def test_a_crash_inside_leaves_the_model_as_it_was(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = hooks_on(model.model)  # transformers leaves some of its own

    def crash(*_: object) -> None:
        raise RuntimeError("inside")

    before = model.digest
    monkeypatch.setattr("unlearn.strategies.patch_training.memory", crash)
    with pytest.raises(RuntimeError, match="inside"):
        run(model, forget_set)
    model.changed()
    assert model.digest == before
    assert hooks_on(model.model) == hooks


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"layer": "-1"}, {"neurons": "all"}, {"strength": "5"}, {"stepz": "3"}):
        with pytest.raises(ConfigError):
            strategies.create("patch", settings)
