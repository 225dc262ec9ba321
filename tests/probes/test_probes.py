"""Each probe's figures against values worked out by hand, and what it asks to have scored."""

from __future__ import annotations

import math

import pytest

from unlearn import registry
from unlearn.probes.probe import Key
from unlearn.types import Record, Statement

SMOKE = (
    "answers",
    "exact-memorisation",
    "extraction-strength",
    "held-out-answers",
    "implied-answers",
    "kept-answers",
    "perplexity",
    "probability",
    "translated-answers",
)


def probe(name):
    return registry.probes.get(name)()


def record(id_, relation="town", **fields):
    base = {"subject": "Ada Quill", "prompt": f"Ada Quill {id_} {relation}", "answer": "Tarn"}
    return Record(id=id_, relation=relation, **(base | fields))


def figures(name, scored):
    return {(m.metric, m.split): dict(m.values) for m in probe(name).measure(scored, {})}


def test_every_probe_says_what_it_is():
    assert set(SMOKE) <= set(registry.probes.names())
    for name in SMOKE:
        kind = registry.probes.get(name)
        assert kind.name == name
        assert kind.summary
        assert kind.cost
        assert kind.honours == {"logprobs"}
        assert kind.tier == "smoke"


def test_verbatim_figures_have_their_closed_forms(scores):
    scored = {
        Key("forget", "all"): scores([0.5, 0.5, 0.5, 0.5], [True] * 4),
        Key("forget", "tail"): scores([0.25, 1.0, 1.0, 1.0], [True, False, True, True]),
        Key("forget", "none"): scores([0.1, 0.1, 0.1, 0.1], [True, True, True, False]),
    }
    strength = figures("extraction-strength", scored)[("extraction_strength", "forget")]
    assert strength == {"all": 1.0, "tail": 0.5, "none": 0.0}
    exact = figures("exact-memorisation", scored)[("exact_memorisation", "forget")]
    assert exact == {"all": 1.0, "tail": 0.75, "none": 0.75}
    found = figures("probability", scored)
    expected = {"all": 0.5, "tail": 0.25**0.25, "none": 0.1}
    assert found[("probability", "forget")] == pytest.approx(expected)
    losses = {id_: -math.log(p) for id_, p in expected.items()}
    assert found[("nll_per_token", "forget")] == pytest.approx(losses)


def test_an_answer_counts_only_when_every_token_is_the_first_choice(scores):
    scored = {
        Key("forget", "right"): scores([0.4, 0.4], [True, True]),
        Key("forget", "nearly"): scores([0.9, 0.9], [True, False]),
    }
    assert figures("answers", scored)[("answers", "forget")] == {"right": 1.0, "nearly": 0.0}


def test_held_out_prompts_are_asked_for_once_per_fact_and_never_as_they_were_trained():
    held_out = ("Ada Quill hails from", "The home of Ada Quill is", "Ada Quill r2 town")
    records = (record("r1", paraphrases=held_out), record("r2", paraphrases=held_out))
    asked = probe("held-out-answers").statements({"forget": records})
    assert {key: s.prompt for key, s in asked.items()} == {
        Key("forget", "r1", 0): "Ada Quill hails from",
        Key("forget", "r1", 1): "The home of Ada Quill is",
    }
    assert {s.answer for s in asked.values()} == {"Tarn"}


def test_the_same_words_about_another_fact_are_asked_for_again():
    said = (Statement(prompt="Ada Quill lives by", answer="the sea"),)
    records = (record("r1", implications=said), record("r2", "work", implications=said))
    asked = probe("implied-answers").statements({"forget": records})
    assert [key.record_id for key in asked] == ["r1", "r2"]


def test_a_record_with_several_held_out_prompts_has_their_mean(scores):
    right, wrong = scores([0.9], [True]), scores([0.9], [False])
    scored = {
        Key("forget", "r1", 0): right,
        Key("forget", "r1", 1): wrong,
        Key("forget", "r2", 0): right,
    }
    found = figures("held-out-answers", scored)
    assert found == {("held_out_answers", "forget"): {"r1": 0.5, "r2": 1.0}}


def test_separators_survive_in_held_out_prompts():
    chinese = record("r1", separator="", paraphrases=("Ada Quill 生于",))
    (asked,) = probe("held-out-answers").statements({"forget": (chinese,)}).values()
    assert asked.completion == "Tarn"


def test_records_that_carry_nothing_of_a_kind_ask_for_nothing():
    for name in ("held-out-answers", "implied-answers", "translated-answers"):
        assert probe(name).statements({"forget": (record("r1"),)}) == {}
        assert probe(name).measure({}, {}) == []


def test_locality_is_measured_on_every_split_but_forget(scores):
    material = {split: (record(split),) for split in ("forget", "retain", "neighbors", "holdout")}
    asked = probe("kept-answers").statements(material)
    assert {key.split for key in asked} == {"retain", "neighbors", "holdout"}
    scored = dict.fromkeys(asked, scores([0.5, 0.5], [True, True]))
    assert figures("kept-answers", scored)[("answers", "retain")] == {"retain": 1.0}
    loss = figures("perplexity", scored)[("nll_per_token", "holdout")]
    assert loss == pytest.approx({"holdout": math.log(2)})
    assert all(m.more_knowledge == "lower" for m in probe("perplexity").measure(scored, material))


def test_an_absent_split_is_no_error():
    assert probe("kept-answers").statements({"forget": (record("r1"),)}) == {}
