"""``unlearn locate``: from a model and a forget set to a sites file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit, working
from unlearn.cli.inputs import naming, read_forget_set, read_model, read_sites
from unlearn.errors import InputError
from unlearn.types import Sites

SHOWN = 8
"""How many of the best modules are named on the terminal."""


@click.command(epilog="\b\nExample:\n  unlearn locate lab:full lab:one-person -o sites.json\n")
@click.argument("model")
@click.argument("forget_set")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The sites file to write.",
)
@click.option(
    "--method",
    default="gradient-contrast",
    show_default=True,
    metavar="NAME",
    help="The locator; see `unlearn list locators`.",
)
@opt.settings
@opt.force
@opt.shared
@opt.trust
def locate(
    options: opt.Options,
    *,
    model: str,
    forget_set: str,
    output: Path,
    method: str,
    settings: Mapping[str, str],
    force: bool,
) -> None:
    """Find where MODEL keeps what FORGET_SET says must go, and write the sites file."""
    with outputs.file(output, force=force, ours=_is_sites) as made, working(options) as progress:
        records = read_forget_set(forget_set)
        from unlearn.locate import locate as find

        with naming(records):
            sites = find(
                read_model(model, options),
                records,
                method=method,
                settings=settings,
                seed=options.seed,
                progress=progress,
            )
        made.write_text(sites.model_dump_json(indent=1) + "\n", encoding="utf-8")
    emit(options, sites.model_dump(mode="json"), describe(sites, output))


def describe(sites: Sites, path: Path) -> str:
    """The sites in a few lines: what they restrict, and the modules with the best scores."""
    lines = [f"sites found by {sites.method}, written to {path}"]
    if sites.layers is not None:
        lines.append("layers   " + " ".join(map(str, sites.layers)))
    if sites.modules is not None:
        lines.append("modules  " + " ".join(sites.modules))
    for part in sorted(sites.parts & {"weight_mask", "token_mask"}):
        lines.append(f"{part}: {sum(map(len, getattr(sites, part).values()))} positions")
    best = sorted(sites.scores.items(), key=lambda item: -item[1])[:SHOWN]
    lines += [f"  {score:12.4g}  {name}" for name, score in best]
    return "\n".join(lines)


def _is_sites(path: Path) -> bool:
    try:
        read_sites(path)
    except InputError:
        return False
    return True
