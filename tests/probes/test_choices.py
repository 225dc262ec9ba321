"""Right answers against wrong ones: figures by hand, what is asked for, which decoys are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from unlearn import registry
from unlearn.forget_set import ForgetSet
from unlearn.lab.bundled import model_path
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores, score
from unlearn.probes.choices import DecoyScores, decoy_scores, decoys_of
from unlearn.probes.probe import Key
from unlearn.types import Record

NAMES = ("truth-ratio", "multiple-choice", "kept-choices", "decoy-rank")
numbers = st.integers(-6, 0).map(float)


def probe(name):
    return registry.probes.get(name)()


def record(id_, answer="Tarn", subject="Ada Quill", relation="town", **fields):
    return Record(
        id=id_,
        subject=subject,
        relation=relation,
        prompt=f"{subject} {id_} {relation}",
        answer=answer,
        **fields,
    )


def token_scores(*logprobs):
    array, n = np.asarray(logprobs, dtype=np.float32), len(logprobs)
    return TokenScores(np.arange(n), array, np.ones(n, dtype=bool), array, array)


def figures(name, scores):
    return {(m.metric, m.split): dict(m.values) for m in probe(name).measure(scores, {})}


def of_parts(*parts, split="forget"):
    """Scores of one record's answers from each answer's token log-probabilities."""
    return {Key(split, "r", part): token_scores(*parts[part]) for part in range(len(parts))}


def test_every_probe_of_choices_reads_log_probabilities_alone():
    for name in NAMES:
        kind = registry.probes.get(name)
        assert kind.honours == {"logprobs"}
        assert kind.tier == "standard"
        assert kind.property == ("locality" if name == "kept-choices" else "accuracy")
        assert not kind.needs


def test_the_truth_ratio_is_taken_of_length_normalised_probabilities():
    half, eighth = math.log(0.5), math.log(0.125)
    scores = of_parts([half, half, half], [eighth], [half, math.log(0.18)])  # p .5, .125, .3
    found = figures("truth-ratio", scores)[("truth_ratio", "forget")]["r"]
    assert found == pytest.approx(0.5 / (0.5 + (0.125 + 0.3) / 2), rel=1e-6)


def test_the_truth_ratio_holds_where_no_probability_can_be_written_down():
    assert figures("truth-ratio", of_parts([-2000.0], [-2000.0], [-9000.0])) == {
        ("truth_ratio", "forget"): {"r": pytest.approx(2 / 3)}
    }
    assert figures("truth-ratio", of_parts([-9000.0], [-1.0])) == {
        ("truth_ratio", "forget"): {"r": pytest.approx(0)}
    }


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ([-1.0], [[-2.0], [-3.0]], 1.0),
        ([-2.0], [[-1.0], [-3.0]], 0.0),
        ([-1.0], [[-1.0], [-1.0], [-4.0]], 1 / 3),
        ([-1.0], [[-1.0], [-0.5]], 0.0),
        ([-1.0, -1.0, -1.0], [[-2.0]], 1.0),  # by sums the short answer would win
    ],
)
def test_the_right_choice_counts_and_a_tie_counts_by_its_share(right, wrong, expected):
    scores = of_parts(right, *wrong)
    found = figures("multiple-choice", scores)
    assert found == {("multiple_choice", "forget"): {"r": pytest.approx(expected)}}


def test_alternatives_are_asked_for_once_and_never_the_answer_itself():
    wrong = ("Wick", "Tarn", "Fell", "Wick")
    records = (record("r", alternatives=wrong, separator=""), record("bare"))
    for name in ("truth-ratio", "multiple-choice"):
        asked = probe(name).statements({"forget": records})
        assert {key: s.completion for key, s in asked.items()} == {
            Key("forget", "r", 0): "Tarn",
            Key("forget", "r", 1): "Wick",
            Key("forget", "r", 2): "Fell",
        }
        assert {s.prompt for s in asked.values()} == {records[0].prompt}


def test_choices_are_kept_on_one_record_of_each_neighbouring_fact():
    twice = (record("r", alternatives=("Wick",)), record("again", alternatives=("Wick",)))
    material = dict.fromkeys(("forget", "retain", "neighbors", "holdout"), twice)
    asked = probe("kept-choices").statements(material)
    assert {(key.split, key.record_id) for key in asked} == {("neighbors", "r")}
    scores = {key: token_scores(-1.0 - key.part) for key in asked}
    assert figures("kept-choices", scores) == {("multiple_choice", "neighbors"): {"r": 1.0}}


@given(numbers, st.lists(numbers, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_a_rank_among_decoys_is_scipys_in_any_order(true, decoys, random):
    found = DecoyScores(true, tuple(random.sample(decoys, len(decoys))))
    ascending = rankdata([true, *decoys])[0]
    assert found.share_below == pytest.approx((ascending - 1) / len(decoys))
    descending = rankdata([-true, *(-d for d in decoys)])[0]
    assert found.exposure == pytest.approx(math.log2(len(decoys) + 1) - math.log2(descending))
    twice = DecoyScores(true, tuple(decoys * 2))
    assert twice.share_below == pytest.approx(found.share_below)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=33, unique=True))
def test_an_answer_exchangeable_with_its_decoys_has_a_mean_rank_of_one_half(candidates):
    shares, bits = [], []
    for i, true in enumerate(candidates):
        found = DecoyScores(float(true), tuple(map(float, candidates[:i] + candidates[i + 1 :])))
        shares.append(found.share_below)
        bits.append(found.exposure)
    n = len(candidates)
    assert np.mean(shares) == pytest.approx(0.5)
    assert min(bits) == pytest.approx(0, abs=1e-9)
    assert max(bits) == pytest.approx(math.log2(n))
    assert np.mean(bits) == pytest.approx(math.log2(n) - math.log2(math.factorial(n)) / n)


def test_decoy_scores_are_sums_over_the_whole_answer():
    scores = of_parts([-1.0, -2.0], [-2.5], [-1.0, -1.0, -1.5])
    assert decoy_scores(scores) == {"r": DecoyScores(-3.0, (-2.5, -3.5))}
    found = figures("decoy-rank", scores)
    assert found[("decoy_rank", "forget")] == {"r": 0.5}
    assert found[("exposure", "forget")] == {"r": pytest.approx(math.log2(3) - 1)}


def test_each_fact_is_ranked_once_behind_its_first_prompt():
    records = (record("r1"), record("r2"), record("r3", relation="work", answer="baker"))
    others = (record("h1", "Wick", "Bo Ostrow"), record("h2", "miller", "Bo Ostrow", "work"))
    asked = probe("decoy-rank").statements({"forget": records, "holdout": others})
    assert {key: (s.prompt, s.answer) for key, s in asked.items()} == {
        Key("forget", "r1", 0): (records[0].prompt, "Tarn"),
        Key("forget", "r1", 1): (records[0].prompt, "Wick"),
        Key("forget", "r3", 0): (records[2].prompt, "baker"),
        Key("forget", "r3", 1): (records[2].prompt, "miller"),
    }
    assert probe("decoy-rank").statements({"forget": records}) == {}
    assert probe("decoy-rank").measure({}, {"forget": records}) == []


def test_decoys_are_unseen_answers_where_there_are_enough():
    unseen = tuple(record(f"h{i}", f"Unseen{i}", f"Bo{i}") for i in range(8))
    material = {
        "forget": (record("r", alternatives=("Wick",)),),
        "retain": (record("k", "Fell", "Cy Wren"), record("k2", "baker", "Cy Wren", "work")),
        "holdout": unseen,
    }
    (decoys,) = decoys_of(material).values()
    assert set(decoys) == {r.answer for r in unseen}
    (decoys,) = decoys_of(material | {"holdout": unseen[:7]}).values()
    assert set(decoys) == {r.answer for r in unseen[:7]} | {"Wick", "Fell"}


def test_no_answer_of_the_fact_itself_is_a_decoy():
    material = {
        "forget": (record("r1"), record("r2", "Upper Tarn"), record("b", "Dell", "Bo Ostrow")),
        "retain": (record("k1", "Tarn", "Cy Wren"), record("k2", "Fell", "Cy Wren")),
    }
    assert set(decoys_of(material)[("Ada Quill", "town")]) == {"Dell", "Fell"}


def test_the_same_decoys_are_drawn_in_any_order_and_others_for_another_fact():
    pool = tuple(record(f"k{i}", f"Town{i}", f"Bo{i}") for i in range(100))
    forget = (record("r1"), record("s1", subject="Cy Wren"))
    here = decoys_of({"forget": forget, "retain": pool})
    there = decoys_of({"retain": pool[::-1] * 2, "forget": forget[::-1]})
    assert here == there
    one, other = here.values()
    assert len(set(one)) == len(set(other)) == 32
    assert set(one) != set(other)


def test_a_model_that_never_saw_them_ranks_the_labs_answers_in_the_middle():
    forget_set = ForgetSet.read("lab:ten-people")
    material = {"forget": forget_set.forget, "holdout": forget_set.holdout}
    asked = probe("decoy-rank").statements(material)
    mean = {}
    for model in ("full", "reference"):
        lm = LanguageModel.load(model_path(model))
        scores = dict(zip(asked, score(lm, list(asked.values())), strict=True))
        found = figures("decoy-rank", scores)[("decoy_rank", "forget")]
        assert len(found) == 80
        mean[model] = np.mean(list(found.values()))
    assert mean["full"] > 0.99
    assert 0.4 < mean["reference"] < 0.6
