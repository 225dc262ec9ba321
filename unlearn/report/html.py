"""The report as one HTML file that works offline, on paper and without scripts."""

from __future__ import annotations

import json
from functools import cache

import jinja2
from markupsafe import Markup

from unlearn import __version__
from unlearn.report import checking, figures, ladder, obligations, standouts, wording
from unlearn.report.curves import curves, strength_curve
from unlearn.report.files import as_json, plain
from unlearn.report.letter import COLUMNS, UNSENT, letter
from unlearn.report.page import page, short
from unlearn.report.readers import READERS, Reader, drawn, request_of
from unlearn.report.rows import PRECISION
from unlearn.report.signature import Signature
from unlearn.types import AuditResult


def render_html(
    result: AuditResult, reader: Reader = "officer", signature: Signature | None = None
) -> str:
    """The audit as an HTML document for one reader; the same result gives the same bytes."""

    def draw_one(shown: AuditResult) -> str:
        if reader == "subject":
            return draw("letter", letter=letter(shown, signature), result=shown, data=_slip(shown))
        filled = page(shown, reader, signature)
        return draw("audit", page=filled, result=shown, data=embedded(shown))

    return drawn(draw_one, reader, result)


def draw(template: str, **values: object) -> str:
    """One of our pages, filled."""
    return environment().get_template(f"{template}.html.jinja").render(**values)


def embedded(result: AuditResult) -> Markup:
    """The result as JSON that cannot end its script element, without record values and examples.

    Those two can outgrow a mail and are in ``audit.json``; what is left still reads as an audit.
    """
    findings = tuple(
        one.model_copy(update={"records": {}, "contrast": {}}) for one in result.findings
    )
    slim = result.model_copy(update={"findings": findings, "examples": ()})
    return inert(json.loads(as_json(slim)))


def _slip(result: AuditResult) -> Markup:
    """What a letter holds for programs: which audit it is about, and no figure."""
    known = {"created": result.created, "tool_version": result.tool_version}
    return inert({"request": request_of(result), **known})


def inert(document: object) -> Markup:
    """A document as JSON that cannot end its script element."""
    text = json.dumps(plain(document), separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


@cache
def environment() -> jinja2.Environment:
    """What pages are drawn with: all they print is escaped, and hidden signs are spelled out."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearn", "report/templates"),
        autoescape=True,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.globals.update(
        wording=wording,
        ladder=ladder,
        duties=obligations,
        standing=standouts,
        precision=PRECISION,
        bars=figures.interval_bars,
        curves=curves,
        strength_curve=strength_curve,
        marker=figures.marker,
        short=short,
        AGAIN=checking.AGAIN,
        VERSION=__version__,
        READERS=READERS,
        COLUMNS=COLUMNS,
        UNSENT=UNSENT,
    )
    return found


def _visible(value: object) -> object:
    """Every printed text passes here first; Markup is our own and already safe."""
    if not isinstance(value, str) or type(value) is Markup:
        return value
    return wording.visible(value)
