"""``unlearn forget``: from a model and a forget set to an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit, working
from unlearn.cli.inputs import naming, read_forget_set, read_model, read_sites

if TYPE_CHECKING:
    from unlearn.artifact import Artifact


@click.command(
    epilog="\b\nExamples:\n"
    "  unlearn forget lab:full lab:one-person -o forgotten\n"
    "  unlearn audit forgotten lab:one-person --reference lab:reference -o audit\n"
    "  unlearn forget lab:full lab:one-person --strategy subtraction+distillation -o both\n"
)
@click.argument("model")
@click.argument("forget_set")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="ARTIFACT",
    help="The artifact's folder.",
)
@click.option(
    "--strategy",
    default="gradient-ascent",
    show_default=True,
    metavar="NAME",
    help="How to forget; see `unlearn list strategies`. Several joined by + run in turn, each on "
    "what the former left; a setting is then named part.setting.",
)
@click.option(
    "--sites",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Act only at the sites that `unlearn locate` wrote.",
)
@opt.settings
@opt.force
@opt.shared
@opt.trust
def forget(
    options: opt.Options,
    *,
    model: str,
    forget_set: str,
    output: Path,
    strategy: str,
    sites: Path | None,
    settings: Mapping[str, str],
    force: bool,
) -> None:
    """Make MODEL forget the records of FORGET_SET, and write what changed as an artifact.

    MODEL itself stays as it is. Audit the artifact before you trust it.
    """
    with (
        outputs.folder(output, outputs.ARTIFACT, force=force) as made,
        working(options) as progress,
    ):
        records = read_forget_set(forget_set)
        where = None if sites is None else read_sites(sites)
        from unlearn.strategies import forget as run

        with naming(records):
            artifact = run(
                read_model(model, options),
                records,
                strategy=strategy,
                sites=where,
                settings=settings,
                seed=options.seed,
                progress=progress,
            )
        artifact.save(made)
    document = {
        "artifact": str(output),
        "kind": artifact.kind,
        "threat_model": artifact.threat_model,
        "notes": list(artifact.notes),
        "provenance": artifact.provenance.model_dump(mode="json"),
    }
    emit(options, document, describe(artifact, output))


def describe(artifact: Artifact, path: Path) -> str:
    """The artifact in a few lines."""
    lines = (
        f"artifact written to {path}",
        f"strategy      {artifact.provenance.strategy}",
        f"stopped       {artifact.provenance.stop_reason}",
        f"threat model  {artifact.threat_model}",
        *artifact.notes,
        "Not audited yet: `unlearn audit` says what is left.",
    )
    return "\n".join(lines)
