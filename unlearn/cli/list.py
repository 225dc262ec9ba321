"""``unlearn list``: what is registered, here and by other packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit

KINDS = ("strategies", "locators", "probes")
TIERS = ("smoke", "standard", "deep")
NARROW, WIDE = 100, 160
"""Columns: where nobody says how many there are, and the most that are used."""


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), metavar="|".join(KINDS))
@click.option(
    "--cost", is_flag=True, help="Of probes: what each adds to an audit, not what it measures."
)
@opt.shared_idle
def list_(options: opt.Options, *, kind: str, cost: bool) -> None:
    """List strategies, locators or probes, with one line each and what they honour.

    Strategies honour parts of a sites file; locators fill them; probes need access to a model. A
    tier runs the probes of its own and of the tiers before it: smoke, standard, deep.
    """
    from unlearn import registry

    registered = getattr(registry, kind)
    plugins = [registered.get(name) for name in registered.names()]
    if kind == "probes":
        rows = [_probe(plugin) for plugin in plugins]
        rows.sort(key=lambda row: (TIERS.index(row["tier"]), row["name"]))
        emit(options, rows, "\n".join(_by_family(rows, "cost" if cost else "summary")))
        return
    rows = [_plugin(plugin) for plugin in plugins]
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [
        f"{row['name']:{width}}  {row['summary']} [{', '.join(row['honours']) or 'no restriction'}]"
        for row in rows
    ]
    emit(options, rows, "\n".join(lines))


def _plugin(plugin: Any) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "summary": plugin.summary,
        "honours": sorted(plugin.honours),
    }


def _probe(probe: Any) -> dict[str, Any]:
    return {
        **_plugin(probe),
        "tier": probe.tier,
        "family": probe.__module__.rpartition(".")[2].replace("_", " "),
        "property": probe.property,
        "cost": probe.cost,
        "needs": sorted(probe.needs),
        "requires": sorted(probe.requires),
    }


def _by_family(rows: Sequence[dict[str, Any]], column: str) -> Iterator[str]:
    """Families in the order of their first probe, each probe on a line that is continued below."""
    width = min(get_terminal_size((NARROW, 24)).columns, WIDE)
    names = max((len(row["name"]) for row in rows), default=0)
    access = max((len(_access(row)) for row in rows), default=0)
    yield f"  {'probe':{names}}  {'tier':8}  {'needs':{access}}  {column}"
    first = {row["family"]: place for place, row in reversed([*enumerate(rows)])}
    for family, members in groupby(
        sorted(rows, key=lambda row: first[row["family"]]), key=lambda row: row["family"]
    ):
        yield f"\n{family}"
        for row in members:
            start = f"  {row['name']:{names}}  {row['tier']:8}  {_access(row):{access}}  "
            lines = wrap(row[column], max(30, width - len(start))) or [""]
            yield start + lines[0]
            yield from (" " * len(start) + line for line in lines[1:])


def _access(row: dict[str, Any]) -> str:
    return ", ".join(row["honours"]) or "none"
