"""Single records above the reference: counted by hand on small figures."""

import pytest

from unlearn.report import render_html, render_markdown
from unlearn.report.standouts import SHOWN, standouts
from unlearn.types import Estimate, Finding


def finding(title, unlearned, reference, **other):
    fields = {"split": "forget", "property": "accuracy", **other}
    records = {"unlearned": unlearned, "reference": reference}
    one = Estimate(value=0.5, low=0, high=1, n=1, clusters=1)
    return Finding(
        key=title,
        probe="p",
        metric="m",
        title=title,
        models=dict.fromkeys(records, one),
        records={role: values for role, values in records.items() if values},
        **fields,
    )


def found(result, *findings):
    return standouts(result.model_copy(update={"findings": findings}))


def test_records_above_the_reference_are_counted_and_the_worst_stands_first(result):
    first = finding("first", {"a": 0.9, "b": 0.3, "c": 0.2}, {"a": 0.1, "b": 0.1, "c": 0.2})
    second = finding("second", {"a": 0.5, "b": 0.15}, {"a": 0.1, "b": 0.1})
    shown = found(result, first, second)
    assert shown.rows == (
        ("a", "2 of 2 figures", "+0.800", "first"),
        ("b", "1 of 2 figures", "+0.200", "first"),
    )
    assert shown.summary == "2 of 3 records stand out in at least one of 2 figures."


def test_where_less_means_more_knowledge_the_excess_turns(result):
    ranks = finding("rank", {"a": 0.1, "b": 0.9}, {"a": 0.5, "b": 0.5}, more_knowledge="lower")
    assert [row[:3] for row in found(result, ranks).rows] == [("a", "1 of 1 figure", "+0.400")]


def test_the_margin_itself_does_not_stand_out(result):
    shown = found(result, finding("f", {"a": 0.25}, {"a": 0.25}))
    assert shown.rows == ()
    assert shown.summary == "0 of 1 record stand out in at least one of 1 figure."


@pytest.mark.parametrize(
    "other",
    [
        {"split": "retain"},
        {"condition": "int4"},
        {"summary": "auc"},
        {"unlearned": {"a": 3.0}},
        {"unlearned": {"a": float("nan")}},
        {"reference": {}},
        {"unlearned": {}},
    ],
)
def test_figures_that_cannot_tell_are_left_out(result, other):
    values = {"unlearned": {"a": 0.9}, "reference": {"a": 0.1}}
    values |= {name: other.pop(name) for name in list(other) if name in values}
    assert found(result, finding("f", **values, **other)) == ((), "")


def test_only_the_first_are_shown_and_the_page_says_so(result):
    names = {f"r{i:02}": 0.5 + i / 100 for i in range(SHOWN + 5)}
    one = finding("f", names, dict.fromkeys(names, 0.0))
    shown = found(result, one)
    assert len(shown.rows) == SHOWN and shown.rows[0].record == "r14"
    assert shown.summary.endswith("in at least one of 1 figure; the first 10 are shown.")
    audit = result.model_copy(update={"findings": (one,)})
    assert "Records that stand out" in render_html(audit) and "r14" in render_markdown(audit)
    assert "Records that stand out" not in render_html(audit, "regulator")
    assert "r14" not in render_markdown(audit, "regulator")
