"""Due dates as an iCalendar file, for the calendar of whoever answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from icalendar import Alarm, Calendar, Event

import unlearn
from unlearn.deletion.request import DeletionRequest

REMIND = timedelta(days=-7)


def calendar_of(requests: Sequence[DeletionRequest], now: datetime | None = None) -> bytes:
    """One whole-day event for each request on the day its answer is due, with a reminder before.

    An event keeps its identity when it moves, so that importing a later file updates calendars. It
    says the request's random id and the rules, and nothing of the person.
    """
    calendar = Calendar()
    calendar.add("prodid", f"-//unlearn//{unlearn.__version__}//EN")
    calendar.add("version", "2.0")
    for request in requests:
        calendar.add_component(_event(request, now or datetime.now(UTC)))
    content: bytes = calendar.to_ical()
    return content


def _event(request: DeletionRequest, now: datetime) -> Event:
    due = request.due(now)
    event = Event()
    event.add("uid", f"{request.id}@unlearn")
    event.add("dtstamp", now)
    event.add("dtstart", due)
    event.add("dtend", due + timedelta(days=1))
    event.add("summary", f"Deletion request {request.id} is due")
    event.add("description", f"{request.state}; {request.rules.law}")
    event.add("transp", "TRANSPARENT")
    alarm = Alarm()
    alarm.add("action", "DISPLAY")
    alarm.add("description", f"Deletion request {request.id} is due in a week")
    alarm.add("trigger", REMIND)
    event.add_component(alarm)
    return event
