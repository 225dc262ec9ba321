"""Fact lookup: probes that generalise, a control that does not, and the MLPs in between."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import unlearn.lab  # noqa: F401 - importing it makes lab: known
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.locate import locate
from unlearn.locate.decodability import (
    Profile,
    differing_answers,
    lens_contrast,
    profile,
    shared_answers,
)
from unlearn.locate.fact_lookup import FactLookup, FactLookupConfig, rises
from unlearn.locate.sites import Candidate
from unlearn.locate.tracing_facts import read_fact
from unlearn.model.language_model import LanguageModel
from unlearn.model.streams import streams


@pytest.fixture(scope="module")
def lab():
    return LanguageModel.load("lab:full")


@pytest.fixture(scope="module")
def few():
    """Two relations; the retain records of 90 people."""
    whole = ForgetSet.read("lab:one-person")
    kept = ("university", "employer")
    forget = tuple(r for r in whole.forget if r.relation in kept)
    retain = tuple(r for r in whole.retain if r.relation in kept)
    return replace(whole, forget=forget, retain=retain[:180])


def last_states(model, facts):
    texts = [fact.prompt_ids for fact in facts]
    return streams(model, texts, [(len(ids) - 1,) for ids in texts])[:, 0]


def facts_of(model, forget_set):
    return [read_fact(model, record) for record in forget_set.retain]


def test_the_lens_at_the_end_is_what_the_model_says(lab, few):
    facts = [f for f in facts_of(lab, few) if f.record.relation == "university"][:9]
    states = last_states(lab, facts)
    found = lens_contrast(lab, states, facts)
    tokens = sorted({fact.answer_ids[0] for fact in facts})
    for fact, row in zip(facts, found, strict=True):
        with torch.no_grad():
            logits = lab.model(torch.tensor([fact.prompt_ids])).logits[0, -1]
        logprobs = logits.log_softmax(-1)
        others = [float(logprobs[t]) for t in tokens if t != fact.answer_ids[0]]
        expected = float(logprobs[fact.answer_ids[0]]) - sum(others) / len(others)
        assert row[-1] == pytest.approx(expected, abs=1e-3)
    assert found[:, -1].mean() > found[:, 0].mean() + 5


def test_answers_that_all_begin_alike_say_nothing_by_the_lens(lab):
    whole = ForgetSet.read("lab:one-person")
    facts = [read_fact(lab, r) for r in whole.retain if r.relation == "phone"][:4]
    states = last_states(lab, facts)
    assert not lens_contrast(lab, states, facts).any()


def test_answers_that_too_few_subjects_share_are_left_out(lab, few):
    facts = facts_of(lab, few)
    found = shared_answers(facts, folds=4)
    assert set(found) == {"university", "employer"}
    for of in found.values():
        assert len({fact.record.subject for fact in of}) == len(of)
        answers = [fact.record.answer for fact in of]
        assert min(answers.count(answer) for answer in answers) >= 4
    assert shared_answers(facts[:3], folds=4) == {}


def test_random_labels_are_not_decodable_and_the_answers_are_at_the_last_token(lab, few):
    relations = shared_answers(facts_of(lab, few), 4)
    chosen = [fact for of in relations.values() for fact in of]
    states = iter(last_states(lab, chosen))
    pairs = {relation: [(fact, next(states)) for fact in of] for relation, of in relations.items()}
    found = profile(lab, pairs, 4, np.random.default_rng(0))
    assert found.n == len(chosen)
    assert found.control.max() < 0.15
    assert found.accuracy[-1] > 0.4 > found.accuracy[0] + 0.2


def make_profile(accuracy):
    accuracy = np.array(accuracy)
    return Profile(accuracy, np.zeros_like(accuracy), np.zeros_like(accuracy), 9)


def test_mlps_score_what_they_add_up_to_the_plateau():
    found = make_profile([0.1, 0.1, 0.5, 0.4, 0.85, 0.9])
    assert found.plateau == 4  # 0.1 + 0.9 * 0.8 = 0.82
    among = [
        Candidate(f"{layer}.{part}", layer, part, (), 10)
        for layer in range(5)
        for part in ("attention", "mlp")
    ]
    scores = rises(found, among)
    assert [scores[f"{layer}.mlp"] for layer in range(5)] == pytest.approx([0, 0.4, 0, 0.35, 0])
    assert not any(scores[f"{layer}.attention"] for layer in range(5))


@pytest.mark.parametrize(
    ("first", "last_subject", "last", "expected"),
    [(0.2, 0.3, 0.9, "last-subject"), (0.3, 0.0, 0.9, "first-subject"), (0.05, 0.09, 0.5, "last")],
)
def test_the_token_is_measured_and_one_of_the_subject_preferred(
    first, last_subject, last, expected
):
    figures = {"first-subject": first, "last-subject": last_subject, "last": last}
    profiles = {token: make_profile([0.0, value]) for token, value in figures.items()}
    assert FactLookup()._shown(profiles) == expected


def test_nothing_decodable_is_an_error_with_its_figures():
    profiles = {"first-subject": make_profile([0.0, 0.04]), "last": make_profile([0.0, 0.06])}
    with pytest.raises(UnsupportedError, match=r"first-subject 0\.04, last 0\.06"):
        FactLookup()._shown(profiles)


def by_lens(nats):
    nothing = np.zeros(2)
    return Profile(nothing, nothing, np.array([0.0, nats]), 9, "lens")


def test_without_a_probe_the_lens_decides():
    found = by_lens(4.0)
    assert found.strength.tolist() == [0.0, 4.0] and found.plateau == 1
    assert FactLookup()._shown({"last-subject": by_lens(0.9), "last": found}) == "last"
    with pytest.raises(UnsupportedError, match="below min_lens 1"):
        FactLookup()._shown({"last-subject": by_lens(0.9)})


def test_facts_whose_answers_nobody_shares_are_read_by_the_lens(lab):
    whole = ForgetSet.read("lab:one-person")
    kept = ("phone", "email")
    mails = replace(
        whole,
        forget=tuple(r for r in whole.forget if r.relation in kept),
        retain=tuple(r for r in whole.retain if r.relation in kept)[:80],
    )
    facts = facts_of(lab, mails)
    assert shared_answers(facts, 4) == {}
    # Every telephone number begins with the same token, a blank: nothing to tell apart.
    assert set(differing_answers(facts)) == {"email"}
    sites = locate(lab, mails, method="fact-lookup")
    assert sites.settings["compared_by"] == "lens" and sites.modules


def test_the_lab_looks_facts_up_at_the_end_of_the_prompt(lab, few):
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    sites = locate(lab, few, method="fact-lookup")
    assert sites.settings["token_read"] == "last"
    assert len(sites.settings["selectivity"].split()) == 9
    assert sites.modules and all(".mlp." in name for name in sites.modules)
    assert all(sites.scores[name] > 0 for name in sites.modules)
    for name, tensor in lab.model.state_dict().items():
        assert torch.equal(before[name], tensor), name
    assert locate(lab, few, method="fact-lookup") == sites
    with pytest.raises(UnsupportedError, match="last-subject 0"):
        FactLookup(FactLookupConfig(token="last-subject", min_selectivity=0.5)).locate(lab, few)


def test_a_model_that_knows_nothing_is_refused(model, forget_set):
    with pytest.raises(UnsupportedError, match="does not know two of one relation"):
        locate(model, forget_set, method="fact-lookup")
