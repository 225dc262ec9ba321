"""The claims as JUnit XML, so that a CI server shows an audit as it shows tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from unlearn.report import wording
from unlearn.report.page import short
from unlearn.report.readers import drawn
from unlearn.report.rows import Cell, conditions, groups
from unlearn.types import AuditResult, Claim, Verdict

_ILLEGAL = re.compile("[\ufffe\uffff\ud800-\udfff]")
"""What XML 1.0 cannot hold beyond the characters that ``wording.visible`` spells out."""


def render_junit(result: AuditResult) -> str:
    """One test suite, and a test case for each claim under the claim's id; figures as its output.

    PASS is a test that passes, FAIL one that fails. A claim that is INCONCLUSIVE, CONFOUNDED or NOT
    RUN is a test that was skipped, with its reason: nothing is known of it, and a server that
    counted it as passed would promise too much. So a run without failures is no PASS; the property
    ``verdict`` is what to read.
    """
    return drawn(_draw, "officer", result)


def _draw(result: AuditResult) -> str:
    claims = result.claims
    counts = {
        "name": _text(f"unlearning audit: {result.forget_set.name}"),
        "tests": str(len(claims)),
        "failures": str(sum(claim.verdict is Verdict.FAIL for claim in claims)),
        "errors": "0",
        "skipped": str(sum(_is_open(claim) for claim in claims)),
    }
    root = ET.Element("testsuites", counts)
    when = {"timestamp": _text(result.created), "time": f"{result.seconds:.3f}"}
    suite = ET.SubElement(root, "testsuite", {**counts, **when})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(result):
        ET.SubElement(properties, "property", {"name": _text(name), "value": _text(value)})
    for claim in claims:
        _case(suite, claim, result.forget_set.name)
    ET.SubElement(suite, "system-out").text = _text("\n".join(_figures(result)))
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _properties(result: AuditResult) -> list[tuple[str, str]]:
    models = [(f"digest of {role}", short(model.digest)) for role, model in result.models.items()]
    return [
        ("verdict", result.verdict),
        ("label", result.label),
        ("tier", result.tier),
        ("forget set", f"{result.forget_set.name}, digest {short(result.forget_set.digest)}"),
        *models,
        ("unlearn", result.tool_version),
        *((f"assurance: {rung.id}", rung.state) for rung in result.assurance),
    ]


def _case(suite: ET.Element, claim: Claim, name: str) -> None:
    about = {"classname": _text(f"unlearn.{name.replace('.', '_')}"), "name": _text(claim.id)}
    case = ET.SubElement(suite, "testcase", about)
    message = _text(f"{claim.verdict}: {claim.statement}")
    if claim.verdict is Verdict.FAIL:
        ET.SubElement(case, "failure", message=message, type="FAIL").text = _text(claim.reason)
    elif _is_open(claim):
        ET.SubElement(case, "skipped", message=_text(f"{claim.verdict}: {claim.reason}"))
    ET.SubElement(case, "system-out").text = _text(f"{claim.statement}\n{claim.reason}")


def _figures(result: AuditResult) -> Iterator[str]:
    """Every figure with its interval, one model a line, as the other formats print it."""
    for row in (row for group in groups(result) for row in group.rows):
        yield f"{row.key}: {row.title}"
        yield from (f"  {cell.role}: {_figure(cell)}" for cell in row.cells)
    for lower in (row for condition in conditions(result) for row in condition.rows):
        yield f"{lower.key}: {lower.title}"
        yield f"  unlearned, as it is: {_figure(lower.plain)}"
        yield from (f"  {cell.role}: {_figure(cell)}" for cell in lower.cells)


def _figure(cell: Cell) -> str:
    if not cell.interval:
        return cell.value
    unit = f" {cell.unit}" if cell.unit else ""
    return f"{cell.value}{unit} [{cell.interval}], {cell.size}"


def _is_open(claim: Claim) -> bool:
    return claim.verdict not in (Verdict.PASS, Verdict.FAIL)


def _text(raw: str) -> str:
    return _ILLEGAL.sub("\ufffd", wording.visible(raw))
