"""``unlearn list``: what is registered, here and by other packages."""

from __future__ import annotations

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit

KINDS = ("strategies", "locators", "probes")


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), metavar="|".join(KINDS))
@opt.shared_idle
def list_(options: opt.Options, *, kind: str) -> None:
    """List strategies, locators or probes, with one line each and what they honour.

    Strategies honour parts of a sites file; locators fill them; probes need access to a model.
    """
    from unlearn import registry

    registered = getattr(registry, kind)
    rows = []
    for name in registered.names():
        plugin = registered.get(name)
        rows.append({"name": name, "summary": plugin.summary, "honours": sorted(plugin.honours)})
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [
        f"{row['name']:{width}}  {row['summary']} [{', '.join(row['honours']) or 'no restriction'}]"
        for row in rows
    ]
    emit(options, rows, "\n".join(lines))
