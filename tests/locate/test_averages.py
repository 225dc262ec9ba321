"""Averages over facts: against scipy, and by hand."""

import numpy as np
import pytest
from scipy import stats

from unlearn.locate.averages import average, curve
from unlearn.locate.trace import FactTrace, Trace, roles_of, window


def fact(number, grid, cluster=None):
    n_tokens = len(grid)
    return FactTrace(
        id=f"r{number}",
        cluster=number if cluster is None else cluster,
        token_ids=tuple(range(n_tokens)),
        corrupted_token_ids=tuple(range(n_tokens)),
        answer_token_ids=(9,),
        roles=roles_of(n_tokens, range(1, 3)),
        clean=2.0,
        corrupted=-1.0,
        effects={"hidden": grid},
        severed={},
    )


def trace_of(*facts):
    return Trace(
        tool_version="0",
        model_digest="0" * 64,
        forget_set_digest="0" * 64,
        seed=0,
        corruption="replace",
        score="logprob",
        windows={"hidden": ((0, 0),)},
        settings={},
        records=facts,
    )


def test_roles_are_told_apart():
    assert roles_of(8, range(1, 5)) == (
        "before",
        "first-subject",
        "middle-subject",
        "middle-subject",
        "last-subject",
        "first-after",
        "further",
        "last",
    )
    assert roles_of(3, range(1)) == ("last-subject", "first-after", "last")
    assert roles_of(2, range(2)) == ("first-subject", "last-subject")


def test_a_window_is_cut_at_the_ends_of_the_model():
    assert window(20, 10, 48) == range(15, 25)
    assert window(2, 10, 48) == range(7)
    assert window(47, 10, 48) == range(42, 48)
    assert [window(layer, 1, 3) for layer in range(3)] == [range(1), range(1, 2), range(2, 3)]


def test_intervals_of_single_facts_are_those_of_student():
    values = np.random.default_rng(0).normal(size=(9, 2))
    facts = [fact(i, ((0.0,),) * 4) for i in range(9)]
    found = curve(values, facts)
    for layer in range(2):
        expected = stats.ttest_1samp(values[:, layer], 0).confidence_interval(0.95)
        assert found.at(layer) == pytest.approx((values[:, layer].mean(), *expected))
    assert (found.n, found.clusters) == (9, 9)


def test_facts_of_one_subject_are_no_evidence_about_others():
    grid = ((0.0,),) * 4
    alone = curve([[1.0], [2.0]], [fact(0, grid, cluster=0), fact(1, grid, cluster=0)])
    assert alone.at(0) == (1.5, -np.inf, np.inf)
    twice = curve([[1.0], [1.0], [2.0], [2.0]], [fact(i, grid, cluster=i // 2) for i in range(4)])
    once = curve([[1.0], [2.0]], [fact(0, grid), fact(1, grid)])
    assert twice.at(0) == pytest.approx(once.at(0))


def test_roles_are_averaged_within_a_fact_before_over_facts():
    first = fact(0, ((0.0,), (1.0,), (4.0,), (0.0,), (2.0,), (4.0,), (8.0,)))
    second = fact(1, ((0.0,), (3.0,), (2.0,), (1.0,)))
    found = average(trace_of(first, second))
    assert found.lead is None
    by_role = found.by_role["hidden"]
    assert by_role["first-subject"].mean == [2.0] and by_role["last-subject"].mean == [3.0]
    # Only the first has tokens of this role: 2 and 4.
    assert by_role["further"].mean == [3.0] and by_role["further"].n == 1
    assert found.total.at(0)[0] == 3.0
    assert found.decisive == "last-subject"


def test_a_lead_is_taken_within_the_facts_that_have_both_tokens():
    firsts, lasts = (3.0, 5.0, 4.0), (1.0, 2.0, 0.0)
    facts = [
        fact(i, ((0.0,), (a,), (b,), (0.0,)))
        for i, (a, b) in enumerate(zip(firsts, lasts, strict=True))
    ]
    found = average(trace_of(*facts))
    assert found.decisive == "first-subject"
    expected = stats.ttest_rel(firsts, lasts).confidence_interval(0.95)
    assert found.lead.at(0) == pytest.approx((3.0, *expected))
