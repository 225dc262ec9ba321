"""The report as one HTML file that works offline, on paper and without scripts."""

from __future__ import annotations

import json
from functools import cache

import jinja2
from markupsafe import Markup

from unlearn.report import figures, ladder, wording
from unlearn.report.curves import curves, strength_curve
from unlearn.report.files import as_json
from unlearn.report.page import page, short
from unlearn.report.rows import PRECISION
from unlearn.types import AuditResult


def render_html(result: AuditResult) -> str:
    """The audit as an HTML document; the same result gives the same bytes."""
    return (
        _environment()
        .get_template("audit.html.jinja")
        .render(page=page(result), result=result, data=embedded(result))
    )


def embedded(result: AuditResult) -> Markup:
    """The result as JSON that cannot end its script element, without record values and examples.

    Those two can outgrow a mail and are in ``audit.json``; what is left still reads as an audit.
    """
    findings = tuple(
        one.model_copy(update={"records": {}, "contrast": {}}) for one in result.findings
    )
    text = as_json(result.model_copy(update={"findings": findings, "examples": ()}))
    text = json.dumps(json.loads(text), separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearn", "report"),
        autoescape=True,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        wording=wording,
        ladder=ladder,
        precision=PRECISION,
        bars=figures.interval_bars,
        curves=curves,
        strength_curve=strength_curve,
        marker=figures.marker,
        short=short,
    )
    return environment


def _visible(value: object) -> object:
    """Every printed text passes here first; Markup is our own and already safe."""
    return wording.visible(value) if isinstance(value, str) and type(value) is not Markup else value
