"""The attacks on whole models against slow ones by hand, and that models stay as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn import registry
from unlearn.errors import NumericalError, UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.probes import membership_models
from unlearn.probes.membership_models import gradient_norms
from unlearn.probes.probe import Bench
from unlearn.types import Record

WORDS = ("<unk>", "<s>", *"Ada Bero Cleo Dorn was born in Tarn Wick Old Fell".split())


def build(seed=0, words=WORDS, **changes):
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    settings = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "attention_dropout": 0.5,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    return LanguageModel(network, fast, "tiny")


def record(id_, subject, answer):
    prompt = f"{subject} was born in"
    return Record(id=id_, subject=subject, relation="town", prompt=prompt, answer=answer)


RECORDS = {
    "forget": (record("f1", "Ada", "Tarn"), record("f2", "Ada", "Old Wick")),
    "holdout": (record("h1", "Bero", "Fell"), record("h2", "Cleo", "Old Fell")),
}
EVERY = [r for records in RECORDS.values() for r in records]


def norm_by_hand(lm, statement):
    lm.model.zero_grad()
    ids, start = lm.encode(statement.prompt, statement.completion)
    output = lm.model(input_ids=torch.tensor([ids]))
    rows = torch.log_softmax(output.logits[0].double(), -1)
    loss = -sum(rows[i - 1, ids[i]] for i in range(start, len(ids))) / (len(ids) - start)
    loss.backward()
    every = torch.cat([p.grad.flatten() for p in lm.model.parameters() if p.grad is not None])
    lm.model.zero_grad()
    return float(every.norm())


@pytest.mark.parametrize("tied", [True, False])
def test_gradient_norms_are_those_of_one_backward_pass_each(tied):
    lm = build(tie_word_embeddings=tied)
    expected = [norm_by_hand(lm, statement) for statement in EVERY]
    assert len(set(expected)) == len(EVERY)
    assert gradient_norms(lm, EVERY) == pytest.approx(expected, rel=1e-4)
    assert gradient_norms(lm, EVERY[::-1] + EVERY[:1]) == pytest.approx(
        [*expected[::-1], expected[0]], rel=1e-4
    )


def test_gradients_modes_and_flags_stay_as_they_were():
    lm = build()
    frozen, carrying = list(lm.model.parameters())[:2]
    frozen.requires_grad_(False)
    carrying.grad = torch.ones_like(carrying)
    lm.model.model.layers[0].train()
    before = lm.digest
    modes = [module.training for module in lm.model.modules()]
    flags = [p.requires_grad for p in lm.model.parameters()]
    with_frozen = gradient_norms(lm, EVERY)
    assert with_frozen == pytest.approx(gradient_norms(build(), EVERY))
    lm.changed()
    assert lm.digest == before
    assert [module.training for module in lm.model.modules()] == modes
    assert [p.requires_grad for p in lm.model.parameters()] == flags
    assert torch.equal(carrying.grad, torch.ones_like(carrying))
    assert [p.grad is None for p in lm.model.parameters()].count(False) == 1


def test_a_broken_model_is_refused_and_left_as_it_was():
    lm = build()
    with torch.no_grad():
        lm.model.lm_head.weight[0, 0] = float("nan")
    flags = [p.requires_grad for p in lm.model.parameters()]
    with pytest.raises(NumericalError, match="statement 0") as caught:
        gradient_norms(lm, EVERY)
    assert "Ada" not in str(caught.value)
    assert [p.requires_grad for p in lm.model.parameters()] == flags


def test_a_record_that_was_trained_on_pulls_less_than_unseen_ones():
    lm = build()
    optimiser = torch.optim.Adam(lm.model.parameters(), lr=0.02)
    with torch.random.fork_rng():
        for _ in range(60):
            for statement in RECORDS["forget"][1:]:
                ids, start = lm.encode(statement.prompt, statement.completion)
                labels = torch.tensor([[-100] * start + ids[start:]])
                optimiser.zero_grad()
                lm.model(input_ids=torch.tensor([ids]), labels=labels).loss.backward()
                optimiser.step()
    lm.model.zero_grad()
    lm.changed()
    probe = registry.probes.get("membership-gradient-norm")()
    found = probe.measure(Bench({"unlearned": lm}, RECORDS))["unlearned"]
    assert [f.metric for f in found] == ["membership_gradient_norm", "membership_gradient_norm_tpr"]
    assert found[0].values["f2"] > max(found[0].contrast.values())


def test_a_model_with_two_roles_is_worked_on_once(monkeypatch):
    calls = []

    def counted(lm, statements, **others):
        calls.append(lm)
        return gradient_norms(lm, statements, **others)

    monkeypatch.setattr(membership_models, "gradient_norms", counted)
    first, second = build(0), build(1)
    roles = {"original": first, "unlearned": first, "reference": second}
    found = registry.probes.get("membership-gradient-norm")().measure(Bench(roles, RECORDS))
    assert calls == [first, second]
    assert list(found) == list(roles)
    assert found["original"] == found["unlearned"] != found["reference"]


def test_the_reference_attack_sets_each_loss_against_the_reference():
    audited, reference = build(0), build(1)
    bench = Bench({"unlearned": audited, "reference": reference}, RECORDS)
    found = registry.probes.get("membership-reference")().measure(bench)
    assert list(found) == ["unlearned", "reference"]
    (figure,) = found["unlearned"]
    here, there = score(audited, EVERY), score(reference, EVERY)
    expected = [b.nll_per_token - a.nll_per_token for a, b in zip(here, there, strict=True)]
    got = [*figure.values.values(), *figure.contrast.values()]
    assert got == pytest.approx(expected)
    assert np.ptp(got) > 0
    (nothing,) = found["reference"]
    assert set(nothing.values.values()) == set(nothing.contrast.values()) == {0.0}


def test_without_a_reference_there_is_no_reference_attack():
    probe = registry.probes.get("membership-reference")()
    assert "reference" in probe.needs
    assert probe.measure(Bench({"unlearned": build()}, RECORDS)) == {}


def test_a_reference_with_another_tokenizer_is_refused():
    other = build(1, words=(*WORDS[:2], *reversed(WORDS[2:])))
    bench = Bench({"unlearned": build(), "reference": other}, RECORDS)
    with pytest.raises(UnsupportedError, match="same tokenizer") as caught:
        registry.probes.get("membership-reference")().measure(bench)
    assert "Tarn" not in str(caught.value)


def test_without_holdout_there_are_no_figures():
    bench = Bench({"unlearned": build()}, {"forget": RECORDS["forget"]})
    found = registry.probes.get("membership-gradient-norm")().measure(bench)
    assert found == {"unlearned": []}
