"""Many audits on one page: due dates, verdicts, and nothing hidden."""

import json
import re
from datetime import date, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from unlearn.errors import InputError
from unlearn.report import report, sign_audit
from unlearn.report.overview import (
    OverviewRow,
    ordered,
    render_overview_html,
    render_overview_markdown,
    rows_of,
)
from unlearn.types import Verdict

TODAY = date(2028, 2, 28)
ROWS = (
    OverviewRow(id="late", state="processing", due=date(2028, 2, 27)),
    OverviewRow(id="done", state="closed", due=date(2028, 1, 1), verdict=Verdict.PASS),
    OverviewRow(id="soon", state="denied", due=date(2028, 3, 1), verdict=Verdict.FAIL),
    OverviewRow(id="far", due=date(2028, 5, 1), verdict=Verdict.INCONCLUSIVE, signed=True),
    OverviewRow(id="open"),
)


def test_what_is_due_first_stands_first_and_what_is_closed_last():
    assert [row.id for row in ordered(ROWS)] == ["late", "soon", "far", "open", "done"]


def test_due_dates_say_how_near_they_are():
    said = {row.id: row.due_words(TODAY) for row in ROWS}
    assert said["late"] == "2028-02-27, overdue by 1 day"
    assert said["soon"] == "2028-03-01, in 2 days"  # a leap year
    assert said["far"] == "2028-05-01" and said["open"] == "not known"
    assert said["done"] == "2028-01-01"
    assert OverviewRow(id="x", due=TODAY).due_words(TODAY) == "2028-02-28, today"


def test_both_pages_count_and_show_every_row():
    page, lines = render_overview_html(ROWS, TODAY), render_overview_markdown(ROWS, TODAY)
    counted = "On 2028-02-28: 5 rows, 1 overdue, 1 PASS, 1 FAIL, 1 INCONCLUSIVE, 2 no audit."
    assert counted in page and counted in lines
    assert re.findall(r"<bdi>(\w+)</bdi>", page) == ["late", "soon", "far", "open", "done"]
    assert page.count('class="overdue"') == 1
    assert "signed, not checked here" in page and "signed, not checked here" in lines
    data = json.loads(re.search(r'id="overview">(.*?)</script>', page)[1])
    assert [OverviewRow.model_validate(one) for one in data] == ordered(ROWS)
    assert render_overview_html(ROWS, TODAY) == page


def test_audits_are_found_below_a_folder_and_those_of_earlier_requests_belong_to_theirs(
    result, tmp_path
):
    named = result.model_copy(update={"provenance": {"request": "3f9c"}})
    report(named, tmp_path / "reports" / "a" / "run-1")
    report(result, tmp_path / "reports" / "b", ("json",))
    report(result, tmp_path / "reports" / "b" / "after" / "1")
    sign_audit(tmp_path / "reports" / "b", Ed25519PrivateKey.generate())
    found = rows_of([tmp_path / "reports"], tmp_path / "index.html", {"3f9c": TODAY})
    first, second = found
    assert (first.id, first.due, first.verdict) == ("3f9c", TODAY, Verdict.FAIL)
    assert first.link == "reports/a/run-1/audit.html" and not first.signed
    assert (second.id, second.link, second.signed) == ("b", "", True)


def test_an_audit_that_cannot_be_read_has_a_row_and_a_folder_without_one_is_refused(
    result, tmp_path
):
    report(result, tmp_path / "good", ("json",))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "audit.json").write_text("{")
    rows = rows_of([tmp_path], tmp_path / "index.html")
    assert [(row.id, row.verdict) for row in rows] == [("bad", None), ("good", Verdict.FAIL)]
    assert "not valid JSON" in render_overview_html(rows, TODAY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no audit\.json"):
        rows_of([tmp_path / "empty"], tmp_path / "index.html")


@pytest.mark.parametrize("name", ["javascript:alert(1)", "a b&c", "<img src=x>", "x](http:y)"])
def test_a_hostile_folder_is_a_name_and_a_relative_link(result, tmp_path, name):
    report(result, tmp_path / name, ("json", "html"))
    rows = rows_of([tmp_path], tmp_path / "index.html")
    page = render_overview_html(rows, TODAY)
    (link,) = re.findall(r'<th scope="row"><a href="([^"]*)">', page)
    assert re.fullmatch(r"[\w%./-]+", link)
    assert "<img" not in page
    shown = render_overview_markdown(rows, TODAY)
    assert f"]({link})" in shown and "](http:" not in shown.replace("\\]", "")


rows = st.builds(
    OverviewRow,
    id=st.text(min_size=1, max_size=9),
    state=st.sampled_from(["", "closed", "approved"]) | st.text(max_size=5),
    note=st.text(max_size=20),
    due=st.none() | st.dates(TODAY - timedelta(400), TODAY + timedelta(400)),
    verdict=st.none() | st.sampled_from(list(Verdict)),
    audited=st.text(max_size=5),
    tier=st.text(max_size=5),
    model=st.text(max_size=5),
)


@given(st.lists(rows, max_size=6))
def test_any_rows_make_one_table_row_each(some):
    page, lines = render_overview_html(some, TODAY), render_overview_markdown(some, TODAY)
    assert page.count('<th scope="row">') == len(some)
    assert lines.count("\n| ") == len(some) + 2
