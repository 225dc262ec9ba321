"""An audit on a terminal: a line for each figure, one for each claim, the verdict.

Why a claim was judged as it was stands in the report; here only why one failed.
"""

from __future__ import annotations

from io import StringIO
from textwrap import fill

from unlearn.types import AuditResult, Estimate, Role, Verdict

ROLES: tuple[Role, ...] = ("original", "unlearned", "reference")
WIDTH = 100
"""Columns. No line of a figure and no line of a reason is longer."""


def summary(result: AuditResult) -> str:
    """The figures of an audit beside each other, its claims, and its verdict."""
    lines = [_table(result).rstrip("\n"), ""]
    if conditions := dict.fromkeys(f.condition for f in result.findings if f.condition):
        lines += [f"The same in {', '.join(conditions)}: see the report.", ""]
    width = max((len(claim.verdict) for claim in result.claims), default=0)
    for claim in result.claims:
        lines.append(f"{claim.verdict:{width}}  {claim.statement}")
        if claim.verdict is Verdict.FAIL:
            indent = " " * (width + 2)
            lines.append(fill(claim.reason, WIDTH, initial_indent=indent, subsequent_indent=indent))
    if "reference" not in result.models:
        lines += [
            "",
            "No reference was given: nothing says what a model that never knew would score.",
        ]
    if result.assurance:
        lines.append("")
        lines += [f"{rung.state:11}  {rung.statement}" for rung in result.assurance]
    lines += ["", f"verdict {result.verdict} · label {result.label}"]
    return "\n".join(lines)


def _table(result: AuditResult) -> str:
    from rich.console import Console
    from rich.table import Table

    roles = [role for role in ROLES if role in result.models]
    table = Table(box=None, pad_edge=False, title=f"forget set {result.forget_set.name}")
    table.title_justify = "left"
    table.add_column("mean and 95 % interval", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for role in roles:
        table.add_column(role, justify="right", no_wrap=True)
    for finding in result.findings:
        if finding.condition:
            continue
        cells = [_cell(finding.models.get(role)) for role in roles]
        n = max(estimate.n for estimate in finding.models.values())
        table.add_row(f"{finding.metric}/{finding.split}", str(n), *cells)
    out = StringIO()
    Console(file=out, width=WIDTH, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{_short(estimate.value)} [{_short(estimate.low)},{_short(estimate.high)}]"


def _short(number: float) -> str:
    """One or two digits in about five characters: ``.98``, ``.0027``, ``3e-4``, ``12``, ``1e5``."""
    text = f"{number:.2g}"
    if "e" in text and 0.5 <= abs(number) < 9_999:
        text = f"{number:.0f}"
    elif "e" in text or len(text) > len("0.0027"):
        mantissa, exponent = f"{number:.0e}".split("e")
        text = f"{mantissa}e{exponent[0].strip('+')}{exponent[1:].lstrip('0')}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
