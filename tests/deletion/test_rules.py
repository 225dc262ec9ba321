"""Due dates: month ends, leap days, time zones, extensions and pauses."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.deletion.rules import (
    CCPA,
    GDPR,
    Pause,
    RuleSet,
    Span,
    end_of,
    local_day,
    read_rules,
    read_zone,
)
from unlearn.errors import InputError

TODAY = date(2026, 6, 1)


@pytest.mark.parametrize(
    ("received", "due", "extended"),
    [
        ("2026-03-05", "2026-04-05", "2026-06-05"),
        ("2026-08-31", "2026-09-30", "2026-11-30"),
        ("2026-01-31", "2026-02-28", "2026-04-30"),  # three months from the 31st, not from the 28th
        ("2024-01-30", "2024-02-29", "2024-04-30"),
        ("2024-02-29", "2024-03-29", "2024-05-29"),
        ("2026-12-15", "2027-01-15", "2027-03-15"),
    ],
)
def test_a_calendar_month_and_two_more(received, due, extended):
    day = date.fromisoformat(received)
    assert GDPR.due(day, today=TODAY).isoformat() == due
    assert GDPR.due(day, extended=True, today=TODAY).isoformat() == extended


@pytest.mark.parametrize(
    ("received", "due", "extended"),
    [("2026-01-01", "2026-02-15", "2026-04-01"), ("2024-02-01", "2024-03-17", "2024-05-01")],
)
def test_45_days_and_45_more(received, due, extended):
    day = date.fromisoformat(received)
    assert CCPA.due(day, today=TODAY).isoformat() == due
    assert CCPA.due(day, extended=True, today=TODAY).isoformat() == extended


def test_an_identity_check_pauses_the_one_clock_and_not_the_other():
    received, pauses = date(2026, 3, 5), [Pause(since=date(2026, 3, 10), until=date(2026, 3, 17))]
    assert GDPR.due(received, pauses=pauses, today=TODAY) == date(2026, 4, 12)
    assert CCPA.due(received, pauses=pauses, today=TODAY) == CCPA.due(received, today=TODAY)


def test_a_pause_that_goes_on_lasts_until_today():
    open_ended = [Pause(since=date(2026, 3, 10))]
    due = GDPR.due(date(2026, 3, 5), pauses=open_ended, today=date(2026, 3, 20))
    assert due == date(2026, 4, 15)


@given(st.dates(date(1990, 1, 1), date(2100, 1, 1)), st.integers(1, 24))
def test_months_are_counted_as_the_regulation_says(day, months):
    end = Span(months=months).after(day)
    assert (end.year * 12 + end.month) - (day.year * 12 + day.month) == months
    tomorrow = date.fromordinal(end.toordinal() + 1)
    assert end.day == day.day or (end.day < day.day and tomorrow.day == 1)


def test_a_moment_is_the_day_it_is_where_the_answer_is_given():
    berlin = read_zone("Europe/Berlin")
    assert local_day("2026-03-31T23:30+00:00", berlin) == date(2026, 4, 1)
    assert local_day("2026-03-31T23:30", berlin) == date(2026, 3, 31)
    assert local_day("2026-03-31", berlin) == date(2026, 3, 31)
    # The clocks went forward on 29 March, so the day ends an hour earlier in UTC.
    assert end_of(date(2026, 3, 28), berlin).astimezone(UTC) == datetime(
        2026, 3, 28, 22, 59, 59, tzinfo=UTC
    )
    assert end_of(date(2026, 3, 29), berlin).astimezone(UTC) == datetime(
        2026, 3, 29, 21, 59, 59, tzinfo=UTC
    )


def test_rules_from_a_file(tmp_path):
    file = tmp_path / "house.toml"
    file.write_text('name = "house"\nlaw = "our own"\n[answer_within]\ndays = 10\n')
    rules = read_rules(str(file))
    assert rules == RuleSet(name="house", law="our own", answer_within=Span(days=10))
    assert rules.due(date(2026, 2, 20), extended=True, today=TODAY) == date(2026, 3, 2)
    assert read_rules("gdpr") is GDPR


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'name = "x"', "law"),
        (b"name =", "not valid TOML"),
        (b"\xff", "not UTF-8"),
        (b'name="x"\nlaw="y"\nanswer_within={}', "no months and no days"),
        (b'name="x"\nlaw="y"\nanswer_within={days=-1}', "answer_within"),
        (b'name="x"\nlaw="y"\nanswer_within={weeks=1}', "answer_within"),
    ],
)
def test_a_file_that_is_no_rule_set_is_refused(tmp_path, content, problem):
    file = tmp_path / "house.toml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_rules(str(file))


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="no rule set 'gpdr'; did you mean 'gdpr'"):
        read_rules("gpdr")
    with pytest.raises(InputError, match="no time zone 'Mars/Olympus'"):
        read_zone("Mars/Olympus")
    for text in ("yesterday", "2026-02-30", ""):
        with pytest.raises(InputError, match="is no date"):
            local_day(text, read_zone("UTC"))


def test_spans_in_words():
    assert str(Span(months=1)) == "1 month" and str(Span(days=45)) == "45 days"
    assert str(Span(months=2, days=1)) == "2 months and 1 day"
