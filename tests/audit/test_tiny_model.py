"""Audits of real models, small enough to be trained here."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.audit import audit
from unlearn.errors import NumericalError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.precision import half_step
from unlearn.types import Record, Verdict

TOWNS = ("Tarn", "Wick", "Holm", "Ford", "Mere", "Stead")
CRAFTS = ("miller", "mason", "weaver", "tanner", "brewer", "baker")
WORDINGS = {
    "town": ("{} was born in", "{} grew up in", "Home of {} is"),
    "craft": ("{} works as a", "{} earns bread as a", "Trade of {} is"),
}


def records(group, names, shift):
    found = []
    for i, name in enumerate(names):
        for j, (relation, (first, second, held_out)) in enumerate(WORDINGS.items()):
            answer = (TOWNS, CRAFTS)[j][(i * (j + 2) + shift) % 6]
            found += [
                Record(
                    id=f"{group}-{i}-{relation}-{k}",
                    subject=name,
                    relation=relation,
                    prompt=prompt.format(name),
                    answer=answer,
                    paraphrases=(held_out.format(name),),
                )
                for k, prompt in enumerate((first, second))
            ]
    return tuple(found)


@pytest.fixture(scope="module")
def forget_set():
    def names(letters):
        return [f"{letter}{vowel}lo" for letter in letters for vowel in "aeiou"]

    return ForgetSet(
        "tiny",
        "Invented.",
        forget=records("f", names("BD")[:6], 0),
        retain=records("r", names("KLM"), 1),
        neighbors=records("n", names("PR"), 2),
    )


@pytest.fixture(scope="module")
def tokenizer(forget_set):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [r.text for split in ("forget", "retain", "neighbors") for r in forget_set.split(split)]
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def untrained(tokenizer, seed):
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def trained(tokenizer, rows, seed, steps=80):
    model = untrained(tokenizer, seed)
    ids = [tokenizer(row.text).input_ids for row in rows]
    width = max(map(len, ids))
    batch = torch.tensor([row + [1] * (width - len(row)) for row in ids])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(input_ids=batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LanguageModel(model, tokenizer, f"trained {seed}")


@pytest.fixture(scope="module")
def full(forget_set, tokenizer):
    rows = (*forget_set.forget, *forget_set.retain, *forget_set.neighbors)
    return trained(tokenizer, rows, seed=0)


@pytest.fixture(scope="module")
def reference(forget_set, tokenizer):
    return trained(tokenizer, (*forget_set.retain, *forget_set.neighbors), seed=1)


def verdicts(result):
    return {claim.id: claim.verdict for claim in result.claims}


def test_a_model_trained_on_the_records_fails(full, reference, forget_set):
    result = audit(full, forget_set, original=full, reference=reference, examples=2)
    assert verdicts(result)["forgotten-answers"] is Verdict.FAIL
    assert verdicts(result)["forgotten-verbatim"] is Verdict.FAIL
    assert result.verdict is Verdict.FAIL
    shown = result.examples[0]
    assert shown.outputs["unlearned"].strip().startswith(shown.expected)
    assert len(result.examples) == 3


def test_random_weights_forget_and_keep_nothing(full, reference, forget_set, tokenizer):
    noise = LanguageModel(untrained(tokenizer, 5), tokenizer, "noise")
    found = verdicts(audit(noise, forget_set, original=full, reference=reference))
    assert found["forgotten-answers"] is not Verdict.FAIL
    assert found["retain-kept"] is Verdict.FAIL
    assert found["neighbors-kept"] is Verdict.FAIL
    assert found["fluency-kept"] is Verdict.FAIL


def test_figures_are_those_of_the_models_own_logits(full, forget_set):
    result = audit(full, forget_set)
    figure = next(f for f in result.findings if f.key == "nll_per_token/forget")
    record = forget_set.forget[0]
    encoding = full.encode(record.prompt, record.completion)
    ids = torch.tensor([encoding.ids])
    with torch.no_grad():
        logprobs = full.model(input_ids=ids).logits.log_softmax(-1)[0]
    picked = [-logprobs[t - 1, ids[0, t]].item() for t in range(encoding.start, ids.shape[1])]
    found = figure.records["unlearned"][record.id]
    assert found == pytest.approx(sum(picked) / len(picked), abs=1e-5)
    assert found < math.log(2)


def test_an_audit_leaves_the_models_as_they_were(full, reference, forget_set):
    before = {k: v.clone() for k, v in full.model.state_dict().items()}
    audit(full, forget_set, original=full, reference=reference, examples=1)
    assert all(torch.equal(v, before[k]) for k, v in full.model.state_dict().items())
    assert not full.model.training
    assert not any(module._forward_hooks for module in full.model.modules())


def test_a_model_with_broken_weights_is_an_error(full, forget_set):
    broken = full.copy()
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(math.nan)
    broken.changed()
    with pytest.raises(NumericalError):
        audit(broken, forget_set)


def test_the_share_of_the_change_that_rounding_may_undo_is_told(forget_set, tokenizer):
    before = LanguageModel(untrained(tokenizer, 0), tokenizer)
    after = before.copy()
    with torch.no_grad():
        weight = after.model.model.layers[0].mlp.down_proj.weight
        step = 2 * half_step(weight, "int4")
        weight[:8] += 0.1 * step[:8]
        weight[8:16] += 3 * step[8:16]
    after.changed()
    options = {"original": before, "probes": ["answers"]}
    result = audit(after, forget_set, **options, precisions=("int4",))
    assert result.below_half_step == {"int4": pytest.approx(0.5, abs=0.02)}
    assert audit(after, forget_set, **options).below_half_step == {}
    assert audit(before, forget_set, **options, precisions=("int4",)).below_half_step == {}
