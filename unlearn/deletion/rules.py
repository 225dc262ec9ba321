"""Rule sets: by when a request has to be answered, counted as its law counts.

Days are calendar days in the time zone of whoever answers. A month ends on the day of the same
number, or on the last of the month where there is none (Regulation (EEC, Euratom) No 1182/71,
Article 3(2)(c)). A due day is not moved past weekends and holidays, although some laws allow it:
the earlier day is always in time.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

from dateutil.relativedelta import relativedelta
from pydantic import Field, ValidationError, model_validator

from unlearn.errors import InputError
from unlearn.types import Noun, first_problem, nearest


class Span(Noun):
    """A length of time in calendar months and days."""

    months: int = Field(default=0, ge=0)
    days: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _is_some(self) -> Self:
        if not self.months and not self.days:
            raise ValueError("a span of no months and no days; give one of them")
        return self

    def after(self, day: date) -> date:
        """The day that ends the span, which begins on ``day``."""
        end: date = day + relativedelta(months=self.months, days=self.days)
        return end

    def and_then(self, other: Span) -> Span:
        """Both in one, so that 1 and 2 months are 3 months and no month's end is lost between."""
        return Span(months=self.months + other.months, days=self.days + other.days)

    def __str__(self) -> str:
        named = ((self.months, "month"), (self.days, "day"))
        return " and ".join(f"{n} {unit}{'s' if n > 1 else ''}" for n, unit in named if n)


class Pause(Noun):
    """The days for which an identity check was open."""

    since: date
    until: date | None = None
    """``None`` while it still is."""


class RuleSet(Noun):
    """What a law gives for answering."""

    name: str
    law: str
    """The provision, as a reader would look it up."""
    answer_within: Span
    extension: Span | None = None
    """Further time where the person is told why, no later than the first due day."""
    identity_check_pauses: bool = False
    """Whether the clock stands still while the person is asked to prove who they are."""

    def due(
        self, received: date, *, extended: bool = False, pauses: Sequence[Pause] = (), today: date
    ) -> date:
        """The last day for the answer.

        A pause moves it by as many days as it lasted; one that has not ended lasts until today.
        """
        span = self.answer_within
        if extended and self.extension is not None:
            span = span.and_then(self.extension)
        waited = sum(((p.until or today) - p.since for p in pauses), timedelta())
        return span.after(received) + (waited if self.identity_check_pauses else timedelta())


GDPR = RuleSet(
    name="gdpr",
    law="Regulation (EU) 2016/679, Article 12(3) and 12(6)",
    answer_within=Span(months=1),
    extension=Span(months=2),
    identity_check_pauses=True,
)
CCPA = RuleSet(
    name="ccpa",
    law="California Civil Code 1798.130(a)(2), 11 CCR 7021",
    answer_within=Span(days=45),
    extension=Span(days=45),
    # The 45 days begin on receipt, "regardless of time required to verify the request".
    identity_check_pauses=False,
)
BUILT_IN = {rules.name: rules for rules in (GDPR, CCPA)}


def read_rules(source: str) -> RuleSet:
    """The rule set of a name, or in a TOML file that has the fields of ``RuleSet``.

    Raises:
        InputError: there is no such rule set, or the file does not read.
    """
    if source in BUILT_IN:
        return BUILT_IN[source]
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"there is no rule set {source!r}{nearest(source, BUILT_IN)}; or give a TOML file"
        )
    try:
        return RuleSet.model_validate(tomllib.loads(path.read_bytes().decode("utf-8-sig")))
    except UnicodeDecodeError:
        problem = "not UTF-8; save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = f"not valid TOML: {error}"
    except ValidationError as error:
        problem = str(first_problem(error, RuleSet))
    raise InputError(f"{path}: {problem}")


def read_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name such as ``Europe/Berlin``.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InputError(
            f"there is no time zone {name!r}; give an IANA name such as Europe/Berlin or UTC"
        ) from None


def local_day(text: str, zone: ZoneInfo) -> date:
    """The day that a date, or a date and time, is in a time zone.

    Raises:
        InputError: it is neither, in ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(
            f"{text!r} is no date; write it like 2026-03-31, or 2026-03-31T23:30+01:00"
        ) from None
    return moment.date() if moment.tzinfo is None else moment.astimezone(zone).date()


def end_of(day: date, zone: ZoneInfo) -> datetime:
    """The last second of a day in a time zone."""
    return datetime.combine(day, time(23, 59, 59), tzinfo=zone)
