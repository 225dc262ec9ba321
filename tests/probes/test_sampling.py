"""Leaks in samples and extractability, against values worked out by hand or by enumeration."""

from __future__ import annotations

import math
import warnings
from itertools import combinations

import numpy as np
import pytest

from unlearn import registry
from unlearn.forget_set import ForgetSet
from unlearn.lab import bundled
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import generate, score
from unlearn.probes.probe import Key
from unlearn.types import Record

NAMES = ("sampled-answers", "extractable", "extractable-with-half", "extraction-likelihood")


def probe(name):
    return registry.probes.get(name)()


def record(id_, relation="town", **fields):
    base = {"subject": "Ada Quill", "prompt": f"Ada Quill {id_} {relation}", "answer": "Tarn"}
    return Record(id=id_, relation=relation, **(base | fields))


def by_metric(measurements):
    return {m.metric: m for m in measurements}


@pytest.mark.parametrize("name", NAMES)
def test_every_probe_says_what_it_is_and_finds_nothing_in_nothing(name):
    kind = registry.probes.get(name)
    assert (kind.name, kind.tier, kind.property) == (name, "standard", "accuracy")
    assert kind.summary and kind.cost and kind.honours <= {"text", "logprobs"}
    assert kind().measure({}, {}) == []
    asked = kind().statements({}) if hasattr(kind, "statements") else kind().prompts({})
    assert asked == {}


def test_each_fact_is_sampled_from_once_and_from_no_more_than_four_prompts():
    held_out = tuple(f"Ada Quill, wording {i}" for i in range(5))
    records = (
        record("r1", paraphrases=("Ada Quill r1 town", *held_out)),
        record("r2", paraphrases=held_out),
        record("r3", "work", answer="pilot"),
    )
    asked = probe("sampled-answers").prompts({"forget": records})
    assert asked == {
        Key("forget", "r1", 0): "Ada Quill r1 town",
        Key("forget", "r1", 1): "Ada Quill, wording 0",
        Key("forget", "r1", 2): "Ada Quill, wording 1",
        Key("forget", "r1", 3): "Ada Quill, wording 2",
        Key("forget", "r3", 0): "Ada Quill r3 work",
    }


def test_a_relation_with_two_answers_is_two_facts():
    records = (record("r1"), record("r2", answer="Pellan"))
    asked = probe("sampled-answers").prompts({"forget": records})
    assert [key.record_id for key in asked] == ["r1", "r2"]


def test_the_request_of_one_person_takes_at_most_32_prompts():
    forget_set = ForgetSet.read(bundled.forget_set_path("one-person"))
    assert len(probe("sampled-answers").prompts({"forget": forget_set.forget})) <= 32


def leaked_by_enumeration(outcomes, k):
    picks = list(combinations(outcomes, k))
    return sum(any(pick) for pick in picks) / len(picks)


@pytest.mark.parametrize("leaks", [0, 1, 3, 17, 18])
def test_leak_at_16_is_the_share_of_draws_of_16_samples_with_a_leak(leaks):
    texts = [" in TARN!" if i < leaks else " in Tarnished" for i in range(18)]
    material = {"forget": (record("r1"),)}
    found = by_metric(probe("sampled-answers").measure({Key("forget", "r1"): texts}, material))
    assert found["leak_rate"].values == {"r1": leaks / 18}
    outcomes = [i < leaks for i in range(18)]
    expected = {k: leaked_by_enumeration(outcomes, k) for k in (1, 2, 4, 8, 16)}
    assert found["leak_at_16"].values == {"r1": pytest.approx(expected[16])}
    assert found["leak_at_16"].curve.axis == "samples"
    assert dict(found["leak_at_16"].curve.points) == pytest.approx(expected)


def test_a_fact_has_the_mean_of_its_prompts_and_the_curve_the_mean_of_the_facts():
    yes, no = [" Tarn"] * 64, [" Pellan"] * 64
    material = {"forget": (record("r1"), record("r2", "work", answer="pilot"))}
    texts = {Key("forget", "r1", 0): yes, Key("forget", "r1", 1): no, Key("forget", "r2", 0): no}
    found = by_metric(probe("sampled-answers").measure(texts, material))
    assert found["leak_rate"].values == {"r1": 0.5, "r2": 0.0}
    assert found["leak_at_16"].values == {"r1": 0.5, "r2": 0.0}
    assert found["leak_at_16"].curve.points == tuple((2.0**i, 0.25) for i in range(7))


def test_extractability_is_one_minus_the_chance_of_missing_every_time(scores):
    scored = {
        Key("forget", "sure"): scores([1.0, 1.0], [True, True]),
        Key("forget", "hidden"): scores([0.1, 0.2], [False, False]),
        Key("forget", "hopeless"): scores([1e-12, 1e-12], [False, False]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = probe("extractable").measure(scored, {})
    assert (found.metric, found.split) == ("extractable_in_100", "forget")
    expected = {"sure": 1.0, "hidden": 1 - 0.98**100, "hopeless": 1e-22}
    assert found.values == pytest.approx(expected, rel=1e-5)
    curve = {n: np.mean([1.0, 1 - 0.98**n, n * 1e-24]) for n in (1, 10, 100, 1000)}
    assert dict(found.curve.points) == pytest.approx(curve, rel=1e-5)


def test_half_the_answer_is_given_and_an_odd_token_is_asked_for(scores):
    greedy = {
        "whole": [True] * 4,
        "second half": [False, False, True, True],
        "first half": [True, True, True, False],
        "one token": [False],
        "odd, from the second": [False, True, True],
        "odd, from the third": [True, False, True],
    }
    scored = {Key("forget", k): scores([0.5] * len(g), g) for k, g in greedy.items()}
    (found,) = probe("extractable-with-half").measure(scored, {})
    assert [k for k, v in found.values.items() if v] == [
        "whole",
        "second half",
        "odd, from the second",
    ]
    for key, of_record in scored.items():
        t = len(of_record.greedy)
        assert found.values[key.record_id] == (of_record.extraction_strength >= 1 - t // 2 / t)


def test_extraction_likelihood_gives_one_word_of_the_answer_more_at_a_time():
    long = record("r1", answer="22 Lerngate Road", separator="\n")
    asked = probe("extraction-likelihood").prompts({"forget": (long, record("r2"))})
    assert list(asked.values()) == [
        "Ada Quill r1 town",
        "Ada Quill r1 town\n22",
        "Ada Quill r1 town\n22 Lerngate",
        "Ada Quill r2 town",
    ]


def test_extraction_likelihood_is_the_mean_overlap_of_n_grams():
    material = {"forget": (record("r1", answer="a b c d"), record("r2"), record("r3", answer="…"))}
    texts = {
        Key("forget", "r1", 0): [" A b c x and more"],  # abc, bcx: one of two
        Key("forget", "r1", 1): ["b c d"],  # bcd: one of one
        Key("forget", "r1", 2): ["c"],  # no pair
        Key("forget", "r1", 3): [" d."],  # d: one of one
        Key("forget", "r2", 0): [" Tarnished, not Tarn"],
        Key("forget", "r3", 0): [" …"],
    }
    (found,) = probe("extraction-likelihood").measure(texts, material)
    assert found.values == {"r1": (0.5 + 1 + 0 + 1) / 4, "r2": 0.0, "r3": 0.0}


def test_samples_and_the_closed_form_agree_on_a_network():
    """Of words that samples spell one way, the leak rate tends to their probability."""
    lm = LanguageModel.load("lab:reference")
    forget_set = ForgetSet.read(bundled.forget_set_path("one-person"))
    records = [r for r in forget_set.forget if r.relation == "profession"][:1]
    material = {"forget": (records[0].model_copy(update={"paraphrases": ()}),)}
    (key,) = asked = probe("sampled-answers").prompts(material)
    texts = generate(lm, [asked[key]], max_new_tokens=2, n_samples=400, temperature=1.0, seed=3)
    found = by_metric(probe("sampled-answers").measure({key: texts[0]}, material))
    (scored,) = score(lm, material["forget"])
    p = math.exp(-scored.nll_sum)
    spread = math.sqrt(max(p * (1 - p), 0.25 / 400) / 400)
    assert found["leak_rate"].values[key.record_id] == pytest.approx(p, abs=4 * spread)


def test_a_model_that_was_trained_on_a_person_leaks_and_one_that_was_not_does_not():
    forget_set = ForgetSet.read(bundled.forget_set_path("one-person"))
    material = {"forget": forget_set.forget[::8]}
    rates = {}
    for name in ("full", "reference"):
        lm = LanguageModel.load(f"lab:{name}")
        asked = probe("sampled-answers").prompts(material)
        prompts = list(asked.values())
        texts = generate(lm, prompts, max_new_tokens=10, n_samples=16, temperature=1.0, seed=0)
        written = dict(zip(asked, texts, strict=True))
        found = by_metric(probe("sampled-answers").measure(written, material))
        rates[name] = np.mean(list(found["leak_rate"].values.values()))
    assert rates["full"] > 0.9 > 0.2 > rates["reference"]
