"""Holm's correction, doubts, the label and the ladder, on figures written by hand."""

from __future__ import annotations

import pytest

from unlearn.types import Estimate, Finding, Record, Verdict
from unlearn.verdicts.assurance import REMOVED, label_of, ladder
from unlearn.verdicts.case import Case
from unlearn.verdicts.claims import BLIND, judge
from unlearn.verdicts.criteria import Comparison, Criterion
from unlearn.verdicts.scales import Scale

PEOPLE = [f"Person {number}" for number in range(40)]
OUTPUTS = ("forgotten-verbatim", "forgotten-answers")


def records(split):
    return tuple(
        Record(id=f"{split}-{i}", subject=who, relation="town", prompt=f"{who} is of", answer="x")
        for i, who in enumerate(PEOPLE)
    )


MATERIAL = {split: records(split) for split in ("forget", "holdout")}


def finding(metric, audited, reference=0.0, *, low=None):
    """A figure in which every record of a model has the same value."""
    values = {"unlearned": audited, "reference": reference}
    return Finding(
        key=f"{metric}/forget",
        probe=metric,
        metric=metric,
        split="forget",
        title=metric,
        property="accuracy",
        models={
            role: Estimate(value=v, low=v if low is None else low, high=v, n=40, clusters=40)
            for role, v in values.items()
        },
        records={role: {r.id: v for r in MATERIAL["forget"]} for role, v in values.items()},
    )


def claim(id_, metrics=None, **fields):
    metrics = (id_,) if metrics is None else metrics
    compared = tuple(Comparison(m, m, "forget", Scale.ABOVE, 0.1) for m in metrics)
    return Criterion(id_, f"{id_}.", "reference", compared, **fields)


def case(findings, **fields):
    digests = {"unlearned": "u", "reference": "r", "original": "o"}
    by_key = {f.key: f for f in findings}
    return Case(by_key, MATERIAL, digests, frozenset(f.probe for f in findings), 0, **fields)


def some(n_records, metric):
    """A leak of whole answers from some people, so that the p-value is neither 0 nor 1."""
    one = finding(metric, 0.0)
    leaked = {r.id: float(i < n_records) for i, r in enumerate(MATERIAL["forget"])}
    return one.model_copy(update={"records": {**one.records, "unlearned": leaked}})


def test_a_leak_that_one_attempt_shows_may_not_hold_among_many():
    alone = next(n for n in range(40) if verdict_of(n, 1) is Verdict.FAIL)
    assert verdict_of(alone, 40) is Verdict.INCONCLUSIVE
    assert verdict_of(alone + 12, 40) is Verdict.FAIL


def verdict_of(n_leaking, attempts):
    metrics = ["leak", *(f"nothing{i}" for i in range(attempts - 1))]
    figures = [some(n_leaking, "leak"), *(finding(m, 0.0) for m in metrics[1:])]
    (found,), _ = judge(case(figures), [claim("search", metrics, searching=True)])
    if found.verdict is Verdict.INCONCLUSIVE and attempts > 1:
        assert f"one of {attempts}" in found.reason and "Beyond the margin." not in found.reason
    return found.verdict


def test_a_claim_that_does_not_search_is_not_corrected():
    alone = next(n for n in range(40) if verdict_of(n, 1) is Verdict.FAIL)
    metrics = ["leak", *(f"nothing{i}" for i in range(39))]
    figures = [some(alone, "leak"), *(finding(m, 0.0) for m in metrics[1:])]
    (found,), _ = judge(case(figures), [claim("plain", metrics)])
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize("leaks", [0.0, 1.0])
def test_membership_is_confounded_where_texts_differ_without_a_model(leaks):
    criteria = [claim("member", needs_blind=True)]
    blind = finding("blind_membership", 0.8, low=0.7)
    assert blind.key == BLIND
    (found,), verdict = judge(case([finding("member", leaks), blind]), criteria)
    assert found.verdict is verdict is Verdict.CONFOUNDED
    assert "without any model" in found.reason.lower()
    fair = finding("blind_membership", 0.5, low=0.4)
    (found,), _ = judge(case([finding("member", leaks), fair]), criteria)
    assert found.verdict is (Verdict.FAIL if leaks else Verdict.PASS)


def test_removed_needs_low_precision_relearning_and_hidden_states():
    criteria = [claim(id_) for id_ in (*OUTPUTS, *REMOVED)]
    clean = {c.id: finding(c.id, 0.0) for c in criteria}

    def label(figures, **fields):
        given = case(figures, **fields)
        return label_of(judge(given, criteria).claims, given, criteria)

    assert label(clean.values()) == "removed"
    assert label(clean.values(), served_only=True) == "suppressed"
    for id_ in REMOVED:
        assert label({**clean, id_: finding(id_, 1.0)}.values()) == "suppressed"
        assert label([f for key, f in clean.items() if key != id_]) == "suppressed"
    assert label({**clean, OUTPUTS[1]: finding(OUTPUTS[1], 1.0)}.values()) == "none"


def test_the_ladder_says_what_was_reached_what_failed_and_what_was_not_tested():
    criteria = [claim(id_) for id_ in (*OUTPUTS, "forgotten-generality", "survives-precision")]
    figures = [finding(c.id, float(c.id == "forgotten-generality")) for c in criteria]
    given = case(figures)
    rungs = {r.id: r for r in ladder(judge(given, criteria).claims, given, criteria)}
    assert {id_: rung.state for id_, rung in rungs.items()} == {
        "output-suppressed": "reached",
        "paraphrase-and-sampling": "not reached",
        "precision-and-relearning": "not tested",
        "indistinguishable": "not reached",
        "exact": "not reached",
    }
    assert "survives-relearning" in rungs["precision-and-relearning"].why
    assert "within 10 points" in rungs["indistinguishable"].statement


def test_a_claim_the_records_give_nothing_for_does_not_hold_the_ladder_back():
    ids = (*OUTPUTS, *REMOVED)
    criteria = [*(claim(id_) for id_ in ids), claim("forgotten-portability", excusable=True)]
    given = case([finding(id_, 0.0) for id_ in ids])
    states = {r.id: r.state for r in ladder(judge(given, criteria).claims, given, criteria)}
    assert states["indistinguishable"] == "reached"
