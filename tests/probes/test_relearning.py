"""What the attacks train on and ask for, that models stay as they were, and what comes back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn import registry
from unlearn.errors import NumericalError, UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.probes import relearning
from unlearn.probes.probe import Bench, fact_of
from unlearn.types import Record

NAMES = ("relearn-facts", "relearn-unrelated", "relearn-few")
PEOPLE = ("Ada", "Bero", "Cleo", "Dorn", "Esme", "Fitz", "Gale", "Hobb")
TOWNS = ("Tarn", "Wick", "Fell", "Holm", "Stow", "Marsh", "Ness", "Combe")
TRADES = ("cooper", "glazier", "weaver", "tiler", "miller", "tanner", "dyer", "smith")
WORDINGS = {"town": ("{} was born in", "{} hails from"), "trade": ("{} works as", "{} is a")}
WORDS = sorted({w for t in WORDINGS.values() for p in t for w in p.replace("{}", "").split()})


def records(people, rng, relations=("town", "trade")):
    found = []
    for person in people:
        for relation in relations:
            answer = str(rng.choice(TOWNS if relation == "town" else TRADES))
            for i, wording in enumerate(WORDINGS[relation]):
                prompt = wording.format(person)
                id_ = f"{person}-{relation}-{i}"
                found.append(
                    Record(id=id_, subject=person, relation=relation, prompt=prompt, answer=answer)
                )
    return tuple(found)


def build(seed=0):
    words = ("<unk>", "<s>", *WORDS, *PEOPLE, *TOWNS, *TRADES)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        attention_dropout=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LlamaForCausalLM(config)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    return LanguageModel(network, fast, "tiny")


def memorise(lm, known, steps=120):
    encoded = [lm.encode(r.prompt, r.completion) for r in known]
    ids = torch.tensor([e.ids + [1] * (6 - len(e.ids)) for e in encoded])
    labels = torch.full_like(ids, -100)
    for row, e in enumerate(encoded):
        labels[row, e.start : len(e.ids)] = ids[row, e.start : len(e.ids)]
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        lm.model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    lm.changed()
    return lm


FORGET = records(PEOPLE[:4], np.random.default_rng(0))
RETAIN = records(PEOPLE[4:], np.random.default_rng(1))
MATERIAL = {"forget": FORGET, "retain": RETAIN}


@pytest.fixture(scope="module")
def knowing():
    return memorise(build(), (*FORGET, *RETAIN))


def probe(name):
    return registry.probes.get(name)()


def attacks(name, material=MATERIAL, seed=0):
    return probe(name).attacks(material, seed)


def facts(found):
    return {fact_of(record) for record in found}


def answers(lm, asked):
    return np.mean([found.correct for found in score(lm, asked)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_lessons_and_what_is_asked_share_no_fact(name, seed):
    for attack in attacks(name, seed=seed):
        assert attack.lessons and attack.asked
        assert not facts(attack.lessons) & facts(attack.asked)


@pytest.mark.parametrize("name", NAMES)
def test_every_forget_record_is_asked_for_at_least_once(name):
    asked = {r.id for attack in attacks(name) for r in attack.asked}
    assert asked == {r.id for r in FORGET}


def test_both_halves_of_the_facts_serve_once_as_lessons():
    one, two = attacks("relearn-facts")
    assert one.lessons == two.asked and two.lessons == one.asked
    for person in PEOPLE[:4]:
        assert len(facts(r for r in one.lessons if r.subject == person)) == 1


def test_halves_of_subjects_with_odd_numbers_of_facts_are_even_all_the_same():
    single = {"forget": records(PEOPLE, np.random.default_rng(0), ("town",))}
    one, two = attacks("relearn-facts", single)
    assert len(one.lessons) == len(two.lessons) == 8


def test_the_few_are_of_different_subjects_and_every_draw_takes_others():
    draws = attacks("relearn-few")
    assert len(draws) == 4
    assert all(len({r.subject for r in draw.lessons}) == 2 for draw in draws)
    lessons = [fact for draw in draws for fact in facts(draw.lessons)]
    assert len(lessons) == len(set(lessons)) == 8


@pytest.mark.parametrize(("n", "few", "draws"), [(2, 1, 2), (3, 1, 3), (4, 2, 2), (40, 4, 4)])
def test_the_few_are_a_tenth_or_two_and_leave_at_least_as_many(n, few, draws):
    made = tuple(
        Record(id=f"{i}", subject="Ada", relation=f"r{i}", prompt=f"Ada r{i}", answer="Tarn")
        for i in range(n)
    )
    found = attacks("relearn-few", {"forget": made})
    assert [len(attack.lessons) for attack in found] == [few] * draws
    assert {r.id for attack in found for r in attack.asked} == {r.id for r in made}


def test_one_fact_cannot_be_split():
    alone = {"forget": FORGET[:2], "retain": RETAIN}
    assert attacks("relearn-facts", alone) == attacks("relearn-few", alone) == []
    assert len(attacks("relearn-unrelated", alone)) == 1
    assert probe("relearn-facts").measure(Bench({"unlearned": build()}, alone)) == {}


def test_a_retain_record_of_a_forget_fact_is_no_lesson():
    twin = FORGET[0].model_copy(update={"id": "twin", "prompt": "Ada is from"})
    (attack,) = attacks("relearn-unrelated", {"forget": FORGET, "retain": (twin, *RETAIN)})
    assert attack.lessons == RETAIN
    assert attacks("relearn-unrelated", {"forget": FORGET, "retain": (twin,)}) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_model_and_all_random_generators_stay_as_they_were(name, knowing):
    before = {key: value.clone() for key, value in knowing.model.state_dict().items()}
    digest = knowing.digest
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = probe(name).measure(Bench({"unlearned": knowing}, MATERIAL, 3))
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    assert probe(name).measure(Bench({"unlearned": knowing}, MATERIAL, 3)) == first
    assert all(torch.equal(v, before[k]) for k, v in knowing.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in knowing.model.parameters())
    knowing.changed()
    assert knowing.digest == digest


def test_the_model_stays_as_it_was_after_an_error(knowing):
    before = {key: value.clone() for key, value in knowing.model.state_dict().items()}

    def stop(label, fraction):
        if fraction > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe("relearn-facts").measure(Bench({"unlearned": knowing}, MATERIAL, 0, stop))
    assert all(torch.equal(v, before[k]) for k, v in knowing.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in knowing.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_curve_begins_at_the_model_as_it_is_and_ends_at_the_mean(name, knowing):
    given, probable = probe(name).measure(Bench({"unlearned": knowing}, MATERIAL))["unlearned"]
    assert set(given.values) == set(probable.values) == {r.id for r in FORGET}
    for found in (given, probable):
        assert found.curve.axis == "training steps"
        assert [step for step, _ in found.curve.points] == list(relearning.LOOKS)
        assert found.curve.points[-1][1] == pytest.approx(np.mean([*found.values.values()]))
        assert all(0 <= value <= 1 for value in found.values.values())
    assert given.curve.points[0][1] == pytest.approx(answers(knowing, FORGET))
    own = np.mean([found.probability for found in score(knowing, FORGET)])
    assert probable.curve.points[0][1] == pytest.approx(own)


def test_metrics_have_names_of_their_own(knowing):
    bench = Bench({"unlearned": knowing}, MATERIAL)
    names = [m.metric for name in NAMES for m in probe(name).measure(bench)["unlearned"]]
    assert names == [
        "relearned_answers",
        "relearned_probability",
        "jogged_answers",
        "jogged_probability",
        "few_shot_answers",
        "few_shot_probability",
    ]


def test_a_model_in_two_roles_is_attacked_once(knowing, monkeypatch):
    runs = []
    real = relearning.attacked

    def counted(lm, *rest):
        runs.append(lm.digest)
        return real(lm, *rest)

    monkeypatch.setattr(relearning, "attacked", counted)
    roles = {"original": knowing, "unlearned": knowing.copy(), "reference": build(1)}
    told = []
    bench = Bench(roles, MATERIAL, 0, lambda label, fraction: told.append((label, fraction)))
    found = probe("relearn-unrelated").measure(bench)
    assert len(runs) == len(set(runs)) == 2
    assert list(found) == list(roles)
    assert found["original"] == found["unlearned"] != found["reference"]
    assert {label for label, _ in told} == {"relearn-unrelated"}
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def talked_over(lm):
    """The same model with one row of the unembedding turned so that a filler wins everywhere."""
    hidden = lm.copy()
    with torch.no_grad():
        prompts = [torch.tensor([lm.encode(r.prompt).ids]) for r in FORGET]
        states = [lm.model.model(input_ids=ids).last_hidden_state[0, -1] for ids in prompts]
        directions = torch.stack([state / state.norm() for state in states])
        direction = torch.linalg.lstsq(directions, torch.ones(len(states), 1)).solution[:, 0]
        hidden.model.lm_head.weight[lm.encode("is").ids[-1]] += 1.5 * direction
    hidden.changed()
    return hidden


@pytest.mark.parametrize("name", NAMES)
def test_hidden_knowledge_comes_back_and_what_was_never_there_does_not(name, knowing, monkeypatch):
    # The few facts of so small a model wear away at the full rate.
    monkeypatch.setattr(relearning, "RATE", 3e-4)
    hidden = talked_over(knowing)
    ignorant = memorise(build(), RETAIN)
    assert answers(knowing, FORGET) == 1
    assert answers(hidden, FORGET) < 0.3
    assert answers(ignorant, FORGET) < 0.3
    found = probe(name).measure(Bench({"unlearned": hidden, "reference": ignorant}, MATERIAL))
    again, never = (found[role][0].curve.points[-1][1] for role in ("unlearned", "reference"))
    assert again > 0.5
    assert never < 0.3


def test_weights_of_low_precision_are_trained_in_float32(knowing):
    low = knowing.copy()
    low.model.to(torch.bfloat16)
    low.changed()
    wide = low.copy()
    wide.model.float()
    wide.changed()
    found = probe("relearn-unrelated").measure(Bench({"unlearned": low}, MATERIAL))
    assert found == probe("relearn-unrelated").measure(Bench({"unlearned": wide}, MATERIAL))
    assert low.dtype == torch.bfloat16


def test_quantised_and_broken_weights_are_refused(knowing):
    quantised = knowing.copy()
    quantised.model.is_quantized = True
    with pytest.raises(UnsupportedError, match="quantised form"):
        probe("relearn-facts").measure(Bench({"unlearned": quantised}, MATERIAL))
    broken = knowing.copy()
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(torch.nan)
    broken.changed()
    with pytest.raises(NumericalError):
        probe("relearn-facts").measure(Bench({"unlearned": broken}, MATERIAL))
