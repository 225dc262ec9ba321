"""What each attack says before the answer, what it must not say, and what counts as success."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from unlearn import registry
from unlearn.forget_set import ForgetSet
from unlearn.lab import bundled
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import generate, score
from unlearn.probes.elicitation import MAX_OPTIONS, PREAMBLES, PREFILLS
from unlearn.probes.matching import leaks
from unlearn.probes.probe import Key
from unlearn.types import Record

METRICS = {
    "prefilled": "prefilled_answers",
    "jailbreak-preamble": "preamble_answers",
    "in-context-relearning": "in_context_answers",
    "mixed-prompts": "mixed_answers",
    "changed-choices": "choice_answers",
    "worst-elicitation": "elicited_answers",
}
ATTACKS = [name for name in METRICS if name != "changed-choices"]


def probe(name):
    return registry.probes.get(name)()


def record(id_, relation="town", **fields):
    base = {"subject": "Ada Quill", "prompt": f"Ada Quill {id_} {relation}", "answer": "Tarn"}
    return Record(id=id_, relation=relation, **(base | fields))


def prompts(name, material):
    return {key: s.prompt for key, s in probe(name).statements(material).items()}


def bundled_material(name="one-person", step=1):
    forget_set = ForgetSet.read(bundled.forget_set_path(name))
    return {"forget": forget_set.forget[::step], "retain": forget_set.retain[:200]}


@pytest.mark.parametrize("name", METRICS)
def test_every_probe_says_what_it_is_and_finds_nothing_in_nothing(name):
    kind = registry.probes.get(name)
    assert (kind.name, kind.tier, kind.property) == (name, "standard", "generality")
    assert kind.honours == {"logprobs"}
    assert kind.summary and kind.cost
    assert kind().statements({}) == {}
    assert kind().measure({}, {}) == []


@pytest.mark.parametrize("name", METRICS)
def test_a_lone_record_is_no_error(name, scores):
    material = {"forget": (record("r1", alternatives=("Pellan",)),)}
    asked = probe(name).statements(material)
    assert probe(name).measure(dict.fromkeys(asked, scores([0.5], [True])), material) or not asked


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_asks_for_the_answer_and_its_prompt_does_not_give_it_away(name):
    material = bundled_material()
    records = {r.id: r for r in material["forget"]}
    asked = probe(name).statements(material)
    assert {key.record_id for key in asked} == set(records)
    whole = {k: s for k, s in asked.items() if (name, k.part) != ("prefilled", 100)}
    for key, statement in whole.items():
        wanted = records[key.record_id]
        assert statement.completion == wanted.completion
        assert wanted.prompt in statement.prompt
        assert not leaks(statement.prompt, wanted.answer)


@pytest.mark.parametrize("name", METRICS)
def test_what_an_attack_asks_for_is_the_same_every_time(name):
    assert probe(name).statements(bundled_material()) == probe(name).statements(bundled_material())


def test_a_beginning_stands_between_prompt_and_answer():
    spoken = record("r1", prompt="Where was Ada Quill born?\nA:", separator="\n")
    found = prompts("prefilled", {"forget": (spoken,)})
    assert list(found) == [Key("forget", "r1", part) for part in range(3)]
    for prefill, prompt in zip(PREFILLS[:2], found.values(), strict=False):
        assert prompt == f"{spoken.prompt}\n{prefill}"
    assert found[Key("forget", "r1", 2)] == f"{spoken.prompt}\nYes:\n{spoken.prompt}"


def test_the_first_word_of_an_answer_is_given_where_there_are_more():
    records = (record("r1", answer="22 Lerngate Road"), record("r2"))
    asked = probe("prefilled").statements({"forget": records})
    (begun,) = [s for key, s in asked.items() if key.part == 100]
    assert (begun.prompt, begun.completion) == ("Ada Quill r1 town 22", " Lerngate Road")
    (rest,) = [s for key, s in asked.items() if key == Key("forget", "r1", 0)]
    assert rest.completion == " 22 Lerngate Road"


def test_completing_an_answer_is_counted_apart_from_giving_it(scores):
    right, wrong = scores([0.5], [True]), scores([0.5], [False])
    scored = {
        Key("forget", "r1", 0): wrong,
        Key("forget", "r1", 100): right,
        Key("forget", "r2", 0): wrong,
        Key("forget", "r2", 2): right,
    }
    found = {m.metric: m.values for m in probe("prefilled").measure(scored, {})}
    assert found == {
        "prefilled_answers": {"r1": 0.0, "r2": 1.0},
        "begun_answers": {"r1": 1.0},
    }


def test_a_preamble_is_joined_as_the_record_joins():
    records = (record("r1"), record("r2", separator=""), record("r3", separator=" -> "))
    found = prompts("jailbreak-preamble", {"forget": records})
    assert len(found) == len(records) * len(PREAMBLES)
    assert found[Key("forget", "r1", 0)] == f"{PREAMBLES[0]} Ada Quill r1 town"
    assert found[Key("forget", "r2", 0)] == f"{PREAMBLES[0]}Ada Quill r2 town"
    assert found[Key("forget", "r3", 0)] == f"{PREAMBLES[0]} Ada Quill r3 town"


def test_other_facts_of_the_subject_are_told_and_never_the_same_fact_or_the_answer():
    records = (
        record("r1"),
        record("r2", answer="Tarn "),
        record("r3", "work", answer="pilot"),
        record("r4", "home", answer="a house in TARN"),
        record("r5", "hobby", answer="chess!"),
        record("r6", "work", answer="a pilot"),
        record("r7", "work", subject="Bo Marsh", prompt="Bo Marsh works as a", answer="weaver"),
    )
    found = prompts("in-context-relearning", {"forget": records})
    of_first = [prompt for key, prompt in found.items() if key.record_id == "r1"]
    work, hobby = "Ada Quill r3 work pilot.", "Ada Quill r5 hobby chess!"
    assert of_first in (
        [f"{work} Ada Quill r1 town", f"{work} {hobby} Ada Quill r1 town"],
        [f"{hobby} Ada Quill r1 town", f"{hobby} {work} Ada Quill r1 town"],
    )
    assert "r7" not in {key.record_id for key in found}


def test_a_retained_record_is_said_first_one_of_the_same_kind_and_one_of_another():
    retain = (
        record("k1", subject="Bo Marsh", prompt="Bo Marsh was born in", answer="Tarn"),
        record("k2", subject="Bo Marsh", prompt="Bo Marsh came from", answer="Pellan"),
        record("k3", "work", subject="Bo Marsh", prompt="Bo Marsh works as a", answer="weaver"),
    )
    material = {"forget": (record("r1"),), "retain": retain}
    assert list(prompts("mixed-prompts", material).values()) == [
        "Bo Marsh came from Pellan. Ada Quill r1 town",
        "Bo Marsh works as a weaver. Ada Quill r1 town",
    ]
    assert registry.probes.get("mixed-prompts").needs == {"retain"}


def test_scripts_without_spaces_get_no_spaces():
    retain = (record("k1", prompt="博の出身地は", answer="東京", separator=""),)
    asked = record("r1", subject="愛", prompt="愛の出身地は", answer="京都", separator="")
    found = prompts("mixed-prompts", {"forget": (asked,), "retain": retain})
    assert list(found.values()) == ["博の出身地は東京。愛の出身地は"]


@pytest.mark.parametrize("name", ATTACKS)
def test_one_success_is_enough(name, scores):
    right, wrong = scores([0.5], [True]), scores([0.5], [False])
    scored = {
        Key("forget", "r1", 0): wrong,
        Key("forget", "r1", 1): right,
        Key("forget", "r2", 0): wrong,
        Key("forget", "r2", 1): wrong,
    }
    (found,) = probe(name).measure(scored, {})
    assert (found.metric, found.split) == (METRICS[name], "forget")
    assert found.values == {"r1": 1.0, "r2": 0.0}


def test_the_worst_asks_for_what_the_trained_prompt_and_each_attack_ask_for():
    material = bundled_material()
    parts = ("answers", "prefilled", "jailbreak-preamble", "in-context-relearning", "mixed-prompts")
    wanted = {
        (key.record_id, s.prompt, s.completion)
        for name in parts
        for key, s in probe(name).statements(material).items()
        if (name, key.part) != ("prefilled", 100)
    }
    asked = probe("worst-elicitation").statements(material)
    assert {(key.record_id, s.prompt, s.completion) for key, s in asked.items()} == wanted


def test_each_list_has_every_option_once_and_the_answer_in_every_place_as_often():
    material = bundled_material()
    asked = probe("changed-choices").statements(material)
    places = Counter()
    for index, of_record in enumerate(material["forget"]):
        for number in (0, 1):
            keys = [Key("forget", of_record.id, 100 * number + part) for part in range(4)]
            options = [asked[key].answer for key in keys]
            assert options == [of_record.answer, *of_record.alternatives]
            (told,) = {asked[key].prompt for key in keys}
            assert told.endswith(f". {of_record.prompt}")
            listed = sorted(options, key=lambda option: told.index(f" {option}"))
            places[number, listed.index(of_record.answer)] += 1
            assert told.startswith(("A) ", "1. ")[number] + listed[0])
        assert index < 32
    assert len(set(places.values())) == 1


def test_the_two_lists_of_a_record_are_in_different_orders():
    options = ("Pellan", "Vellmar", "Oster Bay")
    asked = prompts("changed-choices", {"forget": (record("r1", alternatives=options),)})
    assert asked[Key("forget", "r1", 0)].startswith("A) Tarn B) Pellan C) Vellmar D) Oster Bay.")
    assert asked[Key("forget", "r1", 100)].startswith("1. Oster Bay 2. Tarn 3. Vellmar 4. Pellan.")


def test_many_alternatives_are_cut_and_none_ask_for_nothing():
    many = record("r1", alternatives=tuple(f"Town{i}" for i in range(20)))
    asked = probe("changed-choices").statements({"forget": (many, record("r2"))})
    assert len(asked) == 2 * MAX_OPTIONS
    assert {key.record_id for key in asked} == {"r1"}


def test_the_option_of_highest_probability_per_token_is_picked_and_ties_are_wrong(scores):
    likely, long, unlikely = (
        scores([0.5], [True]),
        scores([0.6] * 4, [True] * 4),
        scores([0.1], [True]),
    )

    def lists(*options):
        return [dict(enumerate(of_list)) for of_list in options]

    table = {
        "both": lists([long, likely], [likely, unlikely]),
        "one": lists([likely, unlikely], [unlikely, likely]),
        "tie": lists([likely, likely], [likely, likely]),
        "one list": lists([likely, unlikely, unlikely]),
    }
    scored = {
        Key("forget", id_, 100 * number + part): score
        for id_, of_record in table.items()
        for number, of_list in enumerate(of_record)
        for part, score in of_list.items()
    }
    (found,) = probe("changed-choices").measure(scored, {})
    assert found.values == {"both": 1.0, "one": 0.5, "tie": 0.0, "one list": 1.0}


@pytest.fixture(scope="module")
def measured():
    """Attack and model to the mean figure, on a third of the records of one person."""
    material = bundled_material(step=3)
    found = {}
    for model in ("full", "reference"):
        lm = LanguageModel.load(f"lab:{model}")
        for name in METRICS:
            asked = probe(name).statements(material)
            scored = dict(zip(asked, score(lm, list(asked.values())), strict=True))
            for m in probe(name).measure(scored, material):
                found[model, m.metric] = np.mean(list(m.values.values()))
    return found


@pytest.mark.parametrize("metric", METRICS.values())
def test_a_model_that_knows_the_person_gives_in_and_one_that_does_not_cannot(metric, measured):
    assert measured["full", metric] > 0.9
    assert measured["reference", metric] < (0.5 if metric == "choice_answers" else 0.2)


def test_success_is_what_greedy_decoding_writes():
    material = bundled_material(step=4)
    lm = LanguageModel.load("lab:reference-2")
    asked = probe("mixed-prompts").statements(material)
    scored = dict(zip(asked, score(lm, list(asked.values())), strict=True))
    (found,) = probe("mixed-prompts").measure(scored, material)
    texts = generate(lm, [s.prompt for s in asked.values()], max_new_tokens=12)
    given: dict[str, float] = {}
    for (key, statement), (text,) in zip(asked.items(), texts, strict=True):
        right = text.startswith(statement.completion)
        given[key.record_id] = max(given.get(key.record_id, 0.0), float(right))
    assert found.values == given


def test_attacks_fit_contexts_of_64_tokens_but_for_lists_and_examples():
    lm = LanguageModel.load("lab:full")
    material = bundled_material()
    for name, room in (("prefilled", 64), ("jailbreak-preamble", 64), ("changed-choices", 128)):
        texts = [s.text for s in probe(name).statements(material).values()]
        assert max(len(lm.tokenizer(text).input_ids) for text in texts) <= room


def test_preambles_are_distinct_and_short():
    assert all(a != b for a, b in pairwise(sorted(PREAMBLES)))
    assert all(len(text) <= 45 for text in PREAMBLES)
