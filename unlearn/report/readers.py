"""Who reads a report, and what of an audit leaves the house for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from unlearn.report import wording
from unlearn.report.statement import REQUEST
from unlearn.types import AuditResult, Noun

Reader = Literal["officer", "regulator", "subject"]

READERS: Mapping[Reader, str] = {
    "officer": "Report for the privacy officer",
    "regulator": "Report for a supervisory authority",
    "subject": "Letter to the person who asked",
}

WITHHELD = "withheld"
"""What stands in place of what an outsider does not get."""

INTERNAL = {"base"}
"""Provenance that may be a path, and so may hold a name."""


LENGTHS = (5000, 500, 50)
"""How many characters of any one text are shown. No honest text is longer than the first; the
others are for audits whose texts would make the page too large."""
PAGE_BYTES = 1_000_000
"""A page has to stay one that can be sent by mail."""


def drawn(draw: Callable[[AuditResult], str], reader: Reader, result: AuditResult) -> str:
    """The page that ``draw`` makes of what this reader gets to see, small enough to be sent.

    Texts that are far too long are cut, and say so; shorter where only that makes the page fit.
    """
    first = ""
    for length in LENGTHS:
        page = draw(seen_by(reader, result, length))
        first = first or page
        if len(page.encode()) < PAGE_BYTES:
            return page
    return first


def seen_by(reader: Reader, result: AuditResult, length: int) -> AuditResult:
    """What a page for this reader is drawn from, no text longer than ``length`` characters."""
    shown = result if reader == "officer" else for_outsiders(result)
    bounded: AuditResult = _bounded(shown, length)
    return bounded


def _bounded(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return wording.cut(value, length)
    if isinstance(value, Noun):
        names = type(value).model_fields.keys() - BOUNDED
        shorter = {name: _bounded(getattr(value, name), length) for name in names}
        return value.model_copy(update=shorter)
    if isinstance(value, tuple):
        return tuple(_bounded(item, length) for item in value)
    if isinstance(value, Mapping):
        return {_bounded(key, length): _bounded(item, length) for key, item in value.items()}
    return value


BOUNDED = {"records", "contrast", "curves", "examples"}
"""Fields that hold numbers only or are cut where they are shown."""


def for_outsiders(result: AuditResult) -> AuditResult:
    """The audit without anything that repeats a record or may name a person.

    Gone are examples, values and ids of single records, the name of the forget set, and where
    models lie; their digests stay. The digest of the forget set goes too: it is a hash of personal
    data without a key, and whoever has all but one record could guess that one by it.
    """
    findings = tuple(
        one.model_copy(update={"records": {}, "contrast": {}}) for one in result.findings
    )
    models = {
        role: model.model_copy(update={"source": WITHHELD}) for role, model in result.models.items()
    }
    records = {"name": about_request(result), "digest": WITHHELD}
    apart = INTERNAL if request_of(result) else INTERNAL | {"request"}
    calibration = result.calibration
    if calibration is not None:
        calibration = calibration.model_copy(update={"forget_set_digest": WITHHELD})
    return result.model_copy(
        update={
            "findings": findings,
            "models": models,
            "forget_set": result.forget_set.model_copy(update=records),
            "calibration": calibration,
            "provenance": {k: v for k, v in result.provenance.items() if k not in apart},
            "examples": (),
        }
    )


def about_request(result: AuditResult) -> str:
    """The request by its id; ``A request`` where the audit knows of none."""
    request = request_of(result)
    return f"Request {request}" if request else "A request"


def request_of(result: AuditResult) -> str | None:
    """The id of the request that an audit was made for; None where it has no such thing."""
    request = result.provenance.get("request", "")
    return request if re.fullmatch(REQUEST, request) else None
