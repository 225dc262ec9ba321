"""Answers, refusals and fluency of written text, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unlearn import registry
from unlearn.forget_set import ForgetSet
from unlearn.lab import bundled
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import generate
from unlearn.probes.greedy_text import refuses
from unlearn.probes.probe import Key
from unlearn.types import Record

NAMES = ("greedy-text", "kept-text", "fluency")


def probe(name):
    return registry.probes.get(name)()


def record(id_, **fields):
    base = {"subject": "Ada Quill", "prompt": f"Ada Quill {id_}", "answer": "Tarn"}
    return Record(id=id_, relation="town", **(base | fields))


def figures(name, texts, material):
    measured = probe(name).measure(texts, material)
    return {f"{m.metric}/{m.split}": dict(m.values) for m in measured}


def test_every_probe_says_what_it_is_and_all_share_their_texts():
    for name in NAMES:
        kind = registry.probes.get(name)
        assert kind.name == name
        assert (kind.tier, kind.honours) == ("standard", {"text"})
        assert kind.summary and kind.cost
        assert (kind.drawing.n_samples, kind.drawing.temperature) == (1, 0.0)
        assert kind().prompts({}) == {}
        assert kind().measure({}, {}) == []


def test_forget_records_are_for_the_one_and_records_to_keep_for_the_others():
    material = {s: (record(s),) for s in ("forget", "retain", "neighbors", "holdout")}
    assert probe("greedy-text").prompts(material) == {Key("forget", "forget"): "Ada Quill forget"}
    for name in ("kept-text", "fluency"):
        assert [key.split for key in probe(name).prompts(material)] == ["retain", "neighbors"]


def test_an_answer_counts_wherever_it_stands_in_the_text():
    material = {"forget": tuple(record(id_) for id_ in ("first", "late", "other", "refused"))}
    texts = {
        Key("forget", "first"): [" Tarn."],
        Key("forget", "late"): [" the town of TARN, it is said"],
        Key("forget", "other"): [" Tarnished"],
        Key("forget", "refused"): [" I'm sorry, I can't share that."],
    }
    found = figures("greedy-text", texts, material)
    assert found == {
        "generated_answers/forget": {"first": 1.0, "late": 1.0, "other": 0.0, "refused": 0.0},
        "refusal_rate/forget": {"first": 0.0, "late": 0.0, "other": 0.0, "refused": 1.0},
    }


def test_each_split_that_is_kept_has_figures_of_its_own():
    material = {"retain": (record("r"),), "neighbors": (record("n"),)}
    texts = {Key("retain", "r"): [" Tarn"], Key("neighbors", "n"): [" unknown."]}
    assert figures("kept-text", texts, material) == {
        "generated_answers/retain": {"r": 1.0},
        "refusal_rate/retain": {"r": 0.0},
        "generated_answers/neighbors": {"n": 0.0},
        "refusal_rate/neighbors": {"n": 1.0},
    }
    del texts[Key("neighbors", "n")]
    assert set(figures("fluency", texts, material)) == {
        "n_gram_entropy/retain",
        "repetition/retain",
    }


@pytest.mark.parametrize(
    "text",
    [
        " I cannot share that.",
        "I don’t know.",
        "I DO NOT KNOW who that is",
        "Sorry, no.",
        "... I'm sorry, but that is private",
        "As an AI, I keep that to myself.",
        "I am not able to answer.",
        "I am unable to help with that",
        "I have no information on her.",
        "That is not known.",
        " unknown.",
    ],
)
def test_refusals_are_told_by_their_words(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " Tarn.",
        " Tarn. I cannot share that.",
        " an unknown town",
        " the know-nothing town",
        " I share that",
        " I know",
        " a shore that cannot be reached",
        " sorrystead",
    ],
)
def test_what_is_no_refusal_or_comes_after_the_answer_does_not_count(text):
    assert not refuses(text)


def test_entropy_is_that_of_pairs_and_triples_of_prompt_and_text():
    material = {"retain": (record("r", prompt="Ada Quill"),)}
    found = figures("fluency", {Key("retain", "r"): [" a b a b a b"]}, material)
    # ada quill | quill a | ab x 3 | ba x 2, and ada quill a | quill a b | aba x 2 | bab x 2
    pairs = np.array([1, 1, 3, 2]) / 7
    triples = np.array([1, 1, 2, 2]) / 6
    entropies = [-(p * np.log2(p)).sum() for p in (pairs, triples)]
    expected = (2 / 3 * entropies[0] + 4 / 3 * entropies[1]) / 2
    assert found["n_gram_entropy/retain"] == {"r": pytest.approx(expected)}
    assert found["repetition/retain"] == {"r": pytest.approx(1 - 2 / 4)}


def test_text_of_distinct_words_has_the_entropy_of_a_uniform_choice():
    material = {"retain": (record("r", prompt="Ada Quill"),)}
    text = " " + " ".join(f"w{i}x" for i in range(8))
    found = figures("fluency", {Key("retain", "r"): [text]}, material)
    expected = (2 / 3 * math.log2(9) + 4 / 3 * math.log2(8)) / 2
    assert found["n_gram_entropy/retain"] == {"r": pytest.approx(expected)}
    assert found["repetition/retain"] == {"r": 0.0}


@pytest.mark.parametrize("text", [" the" * 30, "!" * 30, " 東" * 30])
def test_a_text_in_circles_repeats_and_has_little_entropy(text):
    material = {"retain": (record("r", prompt="Ada Quill"),)}
    found = figures("fluency", {Key("retain", "r"): [text]}, material)
    assert found["repetition/retain"]["r"] == pytest.approx(1 - 1 / 28)
    assert found["n_gram_entropy/retain"]["r"] < 0.7


@pytest.mark.parametrize("text", ["", " ", " Tarn"])
def test_short_texts_have_figures_too(text):
    material = {"retain": (record("r", prompt="Ada"),)}
    found = figures("fluency", {Key("retain", "r"): [text]}, material)
    assert found == {"n_gram_entropy/retain": {"r": 0.0}, "repetition/retain": {"r": 0.0}}
    assert not math.copysign(1, found["n_gram_entropy/retain"]["r"]) < 0


def test_the_lab_models_write_what_they_were_trained_on():
    forget_set = ForgetSet.read(bundled.forget_set_path("one-person"))
    material = {"forget": forget_set.forget[::4], "retain": forget_set.retain[:8]}
    found = {}
    for name in ("full", "reference"):
        lm = LanguageModel.load(f"lab:{name}")
        for kind in NAMES:
            asked = probe(kind).prompts(material)
            texts = generate(lm, list(asked.values()), max_new_tokens=12)
            written = dict(zip(asked, texts, strict=True))
            for key, values in figures(kind, written, material).items():
                found[name, key] = np.mean(list(values.values()))
    assert found["full", "generated_answers/forget"] == 1
    assert found["reference", "generated_answers/forget"] < 0.2
    for name in ("full", "reference"):
        assert found[name, "generated_answers/retain"] == 1
        assert found[name, "refusal_rate/retain"] == 0
        assert found[name, "n_gram_entropy/retain"] > 2
