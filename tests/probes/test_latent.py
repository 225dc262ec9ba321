"""The lens and linear probes against slow versions, and what they see of hidden answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_towns import (
    FORGET,
    MATERIAL,
    RETAIN,
    answered,
    bench,
    by_hand,
    figures,
    masked_by_the_head,
    masked_by_the_last_block,
    record,
    trio,
)
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from unlearn.model import streams
from unlearn.model.linear_probe import PENALTY
from unlearn.probes.latent import CANDIDATES, FOLDS, LinearProbe, LogitLens, lessons_of
from unlearn.probes.probe import Bench


def lens_by_hand(lm, one):
    """Rank and log-probability of each answer token at each depth, (depth, token)."""
    encoding, stream = lm.encode(one.prompt, one.completion), by_hand(lm, one)
    ranks, logprobs = [], []
    for state in stream:
        with torch.no_grad():
            table = lm.model.lm_head(lm.model.model.norm(state)).log_softmax(-1)
        of_depth = [
            (table[at - 1], encoding.ids[at]) for at in range(encoding.start, len(encoding.ids))
        ]
        logprobs.append([float(row[token]) for row, token in of_depth])
        ranks.append([row.argsort(descending=True).tolist().index(t) for row, t in of_depth])
    return np.array(ranks), np.array(logprobs)


def test_the_lens_is_norm_and_unembedding_of_every_depth():
    original, reference = trio()
    measured = LogitLens().measure(bench(reference))
    assert list(measured) == ["original", "unlearned", "reference"]
    for role, lm in (("original", original), ("reference", reference)):
        found, curves = figures(measured, role), []
        for one in FORGET:
            ranks, logprobs = lens_by_hand(lm, one)
            curves.append(logprobs.mean(1))
            best = logprobs.mean(1).max()
            assert found["lens_logprob/forget"][one.id] == pytest.approx(best, abs=1e-4)
            inside = float((ranks.max(1) < CANDIDATES).any())
            assert found["lens_answers/forget"][one.id] == inside
        curve = measured[role][1].curve
        assert curve.axis == "layer" and [at for at, _ in curve.points] == [0, 1, 2, 3]
        expected = np.mean(curves, axis=0)
        assert [value for _, value in curve.points] == pytest.approx(expected, abs=1e-4)
    assert measured["unlearned"] == measured["reference"]


def test_neither_order_nor_batches_matter_and_nothing_is_left_changed(monkeypatch):
    original, reference = trio()
    weights = {name: tensor.clone() for name, tensor in original.model.state_dict().items()}
    whole = [probe().measure(bench(original)) for probe in (LogitLens, LinearProbe)]
    monkeypatch.setattr(streams.read_states, "__defaults__", (9,))
    turned = bench(original, forget=FORGET[::-1])
    for probe, before in zip((LogitLens, LinearProbe), whole, strict=True):
        again = probe().measure(turned)
        for role in before:
            for key, values in figures(before, role).items():
                assert figures(again, role)[key] == pytest.approx(values, abs=1e-4)
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    for lm in (original, reference):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_the_lens_sees_what_the_last_block_hides():
    original, _ = trio()
    hidden = masked_by_the_last_block(original)
    assert answered(original) == [True] * 4 and answered(hidden) == [False] * 4
    measured = LogitLens().measure(bench(hidden))
    found, open_ = figures(measured, "unlearned"), figures(measured, "original")
    assert set(found["lens_answers/forget"].values()) == {1.0}
    for record_id, value in open_["lens_logprob/forget"].items():
        assert found["lens_logprob/forget"][record_id] == pytest.approx(value, abs=0.05)


def test_an_edited_unembedding_blinds_the_lens_and_not_the_linear_probe():
    hidden = masked_by_the_head(trio().original)
    assert answered(hidden) == [False] * 4
    seen = figures(LogitLens().measure(bench(hidden)), "unlearned")
    assert set(seen["lens_answers/forget"].values()) == {0.0}
    probed = figures(LinearProbe().measure(bench(hidden)), "unlearned")
    assert set(probed["probed_answers/forget"].values()) == {1.0}


def states_by_hand(lm, records, token):
    """(record, depth, width) at the subject's or the prompt's last token."""
    rows = []
    for one in records:
        last = len(lm.encode(one.prompt).ids) - 1
        at = lm.subject_span(one.prompt, one.subject).stop - 1 if token == 0 else last
        rows.append(by_hand(lm, one)[:, at].numpy())
    return np.stack(rows)


def ridge_by_hand(train, labels, test):
    scaler = StandardScaler().fit(train)
    ridge = RidgeClassifier(alpha=PENALTY).fit(scaler.transform(train), labels)
    return ridge.predict(scaler.transform(test))


@pytest.mark.parametrize("role", ["original", "reference"])
def test_linear_probes_are_ridge_classifiers_read_where_training_subjects_are_read_best(role):
    lm = getattr(trio(), role)
    measured = LinearProbe().measure(bench(lm))["unlearned"]
    labels, groups = [np.array([getattr(r, f) for r in RETAIN]) for f in ("answer", "subject")]
    truth = np.array([one.answer for one in FORGET])
    accuracy, said = np.zeros((2, 4)), {}
    for token in (0, 1):
        train, test = states_by_hand(lm, RETAIN, token), states_by_hand(lm, FORGET, token)
        for depth in range(4):
            for fit, held in GroupKFold(FOLDS).split(labels, labels, groups):
                right = ridge_by_hand(train[fit, depth], labels[fit], train[held, depth])
                accuracy[token, depth] += (right == labels[held]).sum() / len(labels)
            said[token, depth] = ridge_by_hand(train[:, depth], labels, test[:, depth]) == truth
    token = int(accuracy.max(1).argmax())
    depth = int(np.argmax(accuracy[token] >= 0.9 * accuracy[token].max()))
    assert list(measured[0].values.values()) == said[token, depth].astype(float).tolist()
    points = [value for _, value in measured[0].curve.points]
    assert points == [said[token, d].mean() for d in range(4)]


def test_a_linear_probe_is_never_trained_on_what_is_to_be_forgotten():
    aside = (record(0, 1), record(5, 1))  # another record of a subject to forget, and a fine one
    given = bench(trio().original, neighbors=aside)
    (lesson,) = lessons_of(given)
    assert not {one.subject for one in lesson.train} & {one.subject for one in FORGET}
    assert aside[1] in lesson.train and set(lesson.test) == set(FORGET)
    own, *others = lesson.labellings
    assert own.tolist() == [one.answer for one in lesson.train]
    subjects = [one.subject for one in lesson.train]
    for shuffled in others:
        drawn = dict(zip(subjects, shuffled, strict=True))
        assert [drawn[subject] for subject in subjects] == shuffled.tolist()
        true = {one.subject: one.answer for one in lesson.train}
        assert sorted(drawn.values()) == sorted(true.values())


def test_answers_that_no_two_training_subjects_share_are_left_out():
    odd = FORGET[0].model_copy(update={"answer": "Holm"})
    measured = LinearProbe().measure(bench(trio().original, forget=(odd, *FORGET[1:])))
    for figure in measured["unlearned"]:
        assert set(figure.values) == {one.id for one in FORGET[1:]}
    assert LinearProbe().measure(bench(trio().original, forget=(odd,))) == {}
    assert LinearProbe().measure(bench(trio().original, retain=RETAIN[:3])) == {}


def test_the_same_seed_gives_the_same_control_and_another_seed_another():
    given = bench(trio().original)
    one, same = (LinearProbe().measure(given) for _ in range(2))
    assert one == same
    labels = [lessons_of(replace(given, seed=s))[0].labellings[1].tolist() for s in (0, 1)]
    assert labels[0] != labels[1]


def test_a_model_that_is_given_alone_is_read_too():
    lm = trio().original
    measured = LogitLens().measure(Bench({"unlearned": lm}, MATERIAL))
    assert list(measured) == ["unlearned"]
