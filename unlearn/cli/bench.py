"""``unlearn bench``: strategies beside each other on the same records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit, working
from unlearn.cli.inputs import naming, read_forget_set

if TYPE_CHECKING:
    from unlearn.bench.contest import Entry


@click.group()
def bench() -> None:
    """Compare strategies on the same records."""


@bench.command(
    epilog="\b\nExample:\n"
    "  unlearn bench strategies lab:full lab:ten-people --reference lab:reference -o bench \\\n"
    "    --strategy gradient-ascent --strategy distillation --sites all --sites random\n"
)
@click.argument("model")
@click.argument("forget_set")
@click.option(
    "--reference", required=True, metavar="MODEL", help="A model that never knew the records."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="The folder for table.md, two pictures, outcomes and artifacts. Run again, it goes on.",
)
@click.option(
    "--strategy",
    "wanted",
    multiple=True,
    metavar="NAME[:K=V,K=V]",
    help="A strategy with its settings; may be given more than once.  [default: all]",
)
@click.option(
    "--sites",
    multiple=True,
    default=("all",),
    show_default=True,
    metavar="all|LOCATOR",
    help="Where to act: everywhere, or where a locator says; `random` is the control of equal "
    "size. May be given more than once.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each, by seed."
)
@opt.shared
def strategies(
    options: opt.Options,
    *,
    model: str,
    forget_set: str,
    reference: str,
    output: Path,
    wanted: Sequence[str],
    sites: Sequence[str],
    seeds: int,
) -> None:
    """Make MODEL forget FORGET_SET by every strategy, and measure what each left and broke.

    R, the retrain equivalence, is the worst of the figures by which a result could be told from
    REFERENCE: 1 for a model that nothing tells apart, 0 for one as far away as MODEL. Tables and
    pictures show all that DIR holds of these models, records and this version of the toolkit.
    """
    entries = [
        entry
        for seed in range(options.seed, options.seed + seeds)
        for where in sites
        for entry in _entries(wanted, where, seed)
    ]
    with working(options) as progress:
        records = read_forget_set(forget_set)
        from unlearn.bench.contest import Table, contest, read_outcomes
        from unlearn.bench.pictures import relearning, standings
        from unlearn.bench.standings import table

        given = Table(model, records, reference, output, options.dtype, options.device)
        with naming(records):
            (digest,) = {outcome.given for outcome in contest(given, entries, progress)}
        outcomes = [held for held in read_outcomes(output) if held.given == digest]
        text = table(outcomes)
        (output / "table.md").write_text(text + "\n", encoding="utf-8")
        (output / "strategies.svg").write_text(standings(outcomes), encoding="utf-8")
        (output / "relearning.svg").write_text(relearning(outcomes), encoding="utf-8")
    document = {
        "output": str(output),
        "outcomes": [outcome.model_dump(mode="json") for outcome in outcomes],
    }
    emit(options, document, text)


def _entries(wanted: Sequence[str], sites: str, seed: int) -> list[Entry]:
    from unlearn.bench.contest import Entry
    from unlearn.registry import strategies as known

    names = wanted or known.names()
    found = []
    for name in names:
        strategy, _, told = name.partition(":")
        settings = {}
        for pair in filter(None, told.split(",")):
            key, separator, value = pair.partition("=")
            if not separator:
                raise click.BadParameter(
                    f"{pair!r} is no KEY=VALUE; write NAME:KEY=VALUE,KEY=VALUE",
                    param_hint="--strategy",
                )
            settings[key.strip()] = value.strip()
        known.create(strategy, settings)
        found.append(Entry(strategy=strategy, settings=settings, sites=sites, seed=seed))
    return found
