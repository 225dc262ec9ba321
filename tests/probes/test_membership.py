"""The membership attacks' scores by hand, their sign, and what they ask to have scored."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from unlearn import registry
from unlearn.forget_set import ForgetSet
from unlearn.lab.bundled import model_path
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores, score
from unlearn.probes.membership import (
    PREFIX_CHARACTERS,
    lowest_mean,
    prefix_records,
    prefix_text,
)
from unlearn.probes.probe import UNBOUNDED, Key
from unlearn.types import Record

ATTACKS = {
    "membership-loss": "membership_loss",
    "membership-zlib": "membership_zlib",
    "membership-min-k": "membership_min_k",
    "membership-min-k-plus-plus": "membership_min_k_plus_plus",
}
ALL = (*ATTACKS, "membership-recall", "membership-reference", "membership-gradient-norm")

finite = st.floats(-50, 0, allow_nan=False)


def probe(name):
    return registry.probes.get(name)()


def record(id_, subject="Ada Quill", answer="Tarn", prompt=None):
    prompt = prompt or f"{subject} {id_} was born in"
    return Record(id=id_, subject=subject, relation="town", prompt=prompt, answer=answer)


def token_scores(logprobs, mean=None, std=None):
    n = len(logprobs)

    def array(values, default):
        return np.asarray([default] * n if values is None else values, dtype=np.float32)

    flags = np.ones(n, dtype=bool)
    return TokenScores(np.arange(n), array(logprobs, 0), flags, array(mean, 0), array(std, 1))


def auc(figure):
    forget, holdout = list(figure.values.values()), list(figure.contrast.values())
    return roc_auc_score([1] * len(forget) + [0] * len(holdout), forget + holdout)


def material(n_forget=3, n_holdout=4):
    return {
        "forget": tuple(record(f"f{i}") for i in range(n_forget)),
        "holdout": tuple(record(f"h{i}", subject=f"Bo Ostrow{i}") for i in range(n_holdout)),
    }


def measured(name, scores, records):
    return {figure.metric: figure for figure in probe(name).measure(scores, records)}


def one_of_each(score_of_forget, score_of_holdout, **fields):
    records = {"forget": (record("f", **fields),), "holdout": (record("h", **fields),)}
    return {Key("forget", "f"): score_of_forget, Key("holdout", "h"): score_of_holdout}, records


def test_every_attack_needs_holdout_and_the_blind_baseline():
    for name in ALL:
        kind = registry.probes.get(name)
        assert kind.tier == ("deep" if name == "membership-gradient-norm" else "standard")
        assert kind.property == "accuracy"
        assert "holdout" in kind.needs
        assert kind.requires == {"blind-baseline"}
        assert registry.probes.get("blind-baseline").tier == "standard"


@pytest.mark.parametrize("name", ATTACKS)
def test_what_was_learned_better_scores_higher_than_unseen_text(name):
    records = material()
    scores = {
        key: token_scores([-0.1 if key.split == "forget" else -3.0, -0.05 * i - 0.1], [-1, -1])
        for i, key in enumerate(probe(name).statements(records))
    }
    figure = measured(name, scores, records)[ATTACKS[name]]
    assert set(figure.values) == {"f0", "f1", "f2"}
    assert set(figure.contrast) == {"h0", "h1", "h2", "h3"}
    assert figure.summary == "auc"
    assert figure.bounds == UNBOUNDED
    assert figure.more_knowledge == "higher"
    assert "0.5 tells nothing" in figure.title
    assert auc(figure) == 1.0
    swapped = figure._replace(values=figure.contrast, contrast=figure.values)
    assert auc(swapped) == 0.0


def test_scores_have_their_closed_forms():
    logprobs = [-1.0, -4.0, -2.0, -0.5, -3.0]
    mean, std = [-2.0, -2.0, -1.0, -1.0, -3.0], [1.0, 2.0, 0.5, 1.0, 1.0]
    scores, records = one_of_each(token_scores(logprobs, mean, std), token_scores([-9.0]))

    def value(name):
        return measured(name, scores, records)[ATTACKS[name]].values["f"]

    assert value("membership-loss") == pytest.approx(-2.1)
    assert value("membership-zlib") == pytest.approx(-2.1 / len(zlib.compress(b"Tarn")))
    assert value("membership-min-k") == pytest.approx(-3.5)  # floor(0.4 * 5) = 2: -4 and -3
    assert value("membership-min-k-plus-plus") == pytest.approx(-1.5)  # z: 1, -1, -2, 0.5, 0


@pytest.mark.parametrize("name", ["membership-loss", "membership-min-k"])
def test_the_strongest_attacks_report_the_share_above_nearly_all_unseen_records(name):
    scores, records = one_of_each(token_scores([-1.0]), token_scores([-2.0]))
    found = measured(name, scores, records)
    area, share = found[ATTACKS[name]], found[f"{ATTACKS[name]}_tpr"]
    assert share.summary == "tpr"
    assert (share.values, share.contrast) == (area.values, area.contrast)
    assert area.title != share.title


@pytest.mark.parametrize("name", ATTACKS)
def test_an_answer_of_one_token_has_a_finite_score_even_where_the_model_is_certain(name):
    certain = token_scores([0.0], [0.0], [0.0])
    scores, records = one_of_each(certain, token_scores([-30.0], [0.0], [0.0]))
    figure = measured(name, scores, records)[ATTACKS[name]]
    assert all(map(math.isfinite, (*figure.values.values(), *figure.contrast.values())))
    assert figure.values["f"] > figure.contrast["h"]


@given(st.lists(finite, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_lowest_share_is_that_of_a_sorted_list_in_any_order(values, random):
    n = max(1, math.floor(0.4 * len(values)))
    expected = sum(sorted(values)[:n]) / n
    shuffled = random.sample(values, len(values))
    assert lowest_mean(np.array(shuffled)) == pytest.approx(expected)
    # Of five copies of each value 40 % are whole numbers of copies of the same lowest values.
    if len(values) % 5 == 0:
        assert lowest_mean(np.array(values * 5)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_score_depends_on_its_own_record_alone(name):
    records = material()
    scores = {
        key: token_scores([-0.3 * i, -1.0 - i], [-1, -2])
        for i, key in enumerate(probe(name).statements(records))
    }
    whole = measured(name, scores, records)[ATTACKS[name]]
    turned = {split: tuple(reversed(of_split)) for split, of_split in records.items()}
    assert dict(measured(name, scores, turned)[ATTACKS[name]].values) == dict(whole.values)
    fewer = records | {"holdout": records["holdout"][:2]}
    assert dict(measured(name, scores, fewer)[ATTACKS[name]].values) == dict(whole.values)


def test_the_attacks_share_their_passes():
    records = material()
    asked = [probe(name).statements(records) for name in ATTACKS]
    assert all(each == asked[0] for each in asked)
    recalled = probe("membership-recall").statements(records)
    shared = {key: statement for key, statement in recalled.items() if key.part == 0}
    assert shared.items() <= asked[0].items()


@pytest.mark.parametrize("name", [*ATTACKS, "membership-recall"])
def test_without_holdout_there_is_no_figure(name):
    records = {"forget": (record("f"),)}
    scores = dict.fromkeys(probe(name).statements(records), token_scores([-1.0]))
    assert probe(name).measure(scores, records) == []


def test_recall_sets_the_loss_behind_unseen_records_against_the_loss_alone():
    records = material(n_forget=1, n_holdout=4)
    asked = probe("membership-recall").statements(records)
    assert {key.record_id for key in asked if key.split == "holdout"} == {"h2", "h3"}
    prefix = "Bo Ostrow0 h0 was born in Tarn. Bo Ostrow1 h1 was born in Tarn. "
    assert asked[Key("forget", "f0", 1)].prompt == prefix + "Ada Quill f0 was born in"
    assert asked[Key("forget", "f0", 1)].completion == " Tarn"
    losses = {"f0": (0.5, 2.0), "h2": (2.0, 3.0), "h3": (0.0, 1.0)}
    scores = {key: token_scores([-losses[key.record_id][key.part]]) for key in asked}
    (figure,) = probe("membership-recall").measure(scores, records)
    assert figure.metric == "membership_recall"
    assert figure.values == pytest.approx({"f0": 4.0})
    assert figure.contrast == pytest.approx({"h2": 1.5, "h3": 1e6})


def test_a_recall_prefix_is_short_and_of_different_subjects():
    long = "and was seen there by many who knew the place well " * 3
    holdout = (
        record("h0", "Bo Ostrow", answer="Tarn " + "x" * 500),
        record("h1", "Bo Ostrow"),
        record("h2", "Cy Wren", answer=long),
        record("h3", "Di Marl", answer=long),
        record("h4", "Ed Holm", answer=long),
        record("h5", "Flo Stow", answer=long),
    )
    chosen = prefix_records(holdout)
    assert [r.id for r in chosen] == ["h1"]
    assert prefix_records(tuple(reversed(holdout))) == chosen
    only_long = prefix_records((holdout[0], record("h6", "Gus Fell", answer="y" * 600)))
    assert len(prefix_text(only_long)) <= PREFIX_CHARACTERS


def test_no_record_of_a_subject_in_the_recall_prefix_is_in_the_contrast():
    again = (record("h9", "Bo Ostrow0", answer="Upper Tarn"),)
    records = material()
    records["holdout"] += again
    asked = probe("membership-recall").statements(records)
    assert "Bo Ostrow0" in asked[Key("forget", "f0", 1)].prompt
    assert {key.record_id for key in asked if key.split == "holdout"} == {"h2", "h3"}


def test_recall_measures_nothing_where_holdout_has_one_subject():
    records = material() | {"holdout": (record("h1", "Bo Ostrow"), record("h2", "Bo Ostrow"))}
    assert probe("membership-recall").statements(records) == {}
    assert probe("membership-recall").measure({}, records) == []


def test_members_of_the_lab_are_told_from_unseen_people_and_non_members_are_not():
    forget_set = ForgetSet.read("lab:ten-people")
    records = {"forget": forget_set.forget[::4], "holdout": forget_set.holdout[::2]}
    statements = {}
    for name in ATTACKS:
        statements |= probe(name).statements(records)
    for model, low, high in (("full", 0.95, 1.0), ("reference", 0.35, 0.65)):
        lm = LanguageModel.load(model_path(model))
        scores = dict(zip(statements, score(lm, list(statements.values())), strict=True))
        for name, metric in ATTACKS.items():
            assert low <= auc(measured(name, scores, records)[metric]) <= high, (model, name)
