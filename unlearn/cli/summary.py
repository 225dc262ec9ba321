"""An audit on a terminal: a short table of figures, a line for each claim, the verdict."""

from __future__ import annotations

import sys
from io import StringIO

from unlearn.types import AuditResult, Estimate, Role

ROLES: tuple[Role, ...] = ("original", "unlearned", "reference")
PLAIN_WIDTH = 110


def summary(result: AuditResult) -> str:
    """The figures of an audit beside each other, its claims, and its verdict."""
    lines = [_table(result).rstrip("\n"), ""]
    width = max((len(claim.verdict) for claim in result.claims), default=0)
    for claim in result.claims:
        lines.append(f"{claim.verdict:{width}}  {claim.statement}")
        lines.append(f"{'':{width}}  {claim.reason}")
    lines += ["", f"verdict {result.verdict} · label {result.label}"]
    return "\n".join(lines)


def _table(result: AuditResult) -> str:
    from rich.console import Console
    from rich.table import Table

    roles = [role for role in ROLES if role in result.models]
    table = Table(box=None, pad_edge=False, title=f"forget set {result.forget_set.name}")
    table.title_justify = "left"
    table.add_column("figure, mean [95 % interval]")
    for role in roles:
        table.add_column(role, justify="right")
    for finding in result.findings:
        cells = [_cell(finding.models.get(role)) for role in roles]
        table.add_row(f"{finding.metric}/{finding.split}", *cells)
    terminal = sys.stdout.isatty()
    out = StringIO()
    width = None if terminal else PLAIN_WIDTH
    Console(file=out, width=width, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}] n={estimate.n}"
