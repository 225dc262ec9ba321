"""``unlearn forget``: from a model and a forget set to an artifact."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit, say, working
from unlearn.cli.inputs import naming, read_artifact, read_forget_set, read_model, read_sites
from unlearn.errors import InputError
from unlearn.strategies.processes import joined, place

if TYPE_CHECKING:
    from unlearn.artifact import Artifact, Earlier
    from unlearn.model.language_model import LanguageModel
    from unlearn.strategies.checkpoints import Checkpoints


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
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where the same run was interrupted: it keeps what it had done in .ARTIFACT.work, "
    "which goes with its end and knows as much as MODEL.",
)
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How often a training run writes there what it has done; inf for never. Large models do "
    "so less often: it takes no more than a twentieth of the time.",
)
@click.option(
    "--after",
    multiple=True,
    metavar="ARTIFACT",
    help="An artifact that made MODEL what it is, the oldest first; may be given more than once. "
    "A model that `unlearn apply` wrote knows its own.",
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
    resume: bool,
    checkpoint_every: float,
    after: tuple[str, ...],
    settings: Mapping[str, str],
    force: bool,
) -> None:
    """Make MODEL forget the records of FORGET_SET, and write what changed as an artifact.

    MODEL itself stays as it is. Audit the artifact before you trust it. Strategies that train can
    be launched in several processes (accelerate launch -m unlearn forget ...).
    """
    first = place().is_first
    options = options if first else replace(options, quiet=True)
    with (
        outputs.folder(output, outputs.ARTIFACT, force=force) if first else nullcontext() as made,
        working(options) as progress,
        joined(options.device),
    ):
        records = read_forget_set(forget_set)
        where = None if sites is None else read_sites(sites)
        from unlearn.strategies import forget as run

        every = checkpoint_every if first else math.inf
        kept = checkpoints_of(output, options, resume=resume, every=every)
        with naming(records), telling(options, kept):
            before = read_model(model, options)
            artifact = run(
                before,
                records,
                strategy=strategy,
                sites=where,
                settings=settings,
                seed=options.seed,
                progress=progress,
                checkpoints=kept,
                beneath=beneath_of(model, before, after),
            )
        if made is not None:
            artifact.save(made)
    if not first:
        return
    kept.remove()
    document = {
        "artifact": str(output),
        "kind": artifact.kind,
        "threat_model": artifact.threat_model,
        "notes": list(artifact.notes),
        "provenance": artifact.provenance.model_dump(mode="json"),
    }
    emit(options, document, describe(artifact, output))


def checkpoints_of(
    output: Path, options: opt.Options, *, resume: bool, every: float
) -> Checkpoints:
    """Those of the run that makes this output, in a hidden folder beside it."""
    from unlearn.strategies.checkpoints import Checkpoints

    target = output.resolve()
    return Checkpoints.at(
        target.with_name(f".{target.name}.work"),
        resume=resume,
        every=every,
        say=lambda line: say(options, line),
    )


def beneath_of(source: str, model: LanguageModel, after: tuple[str, ...]) -> tuple[Earlier, ...]:
    """The artifacts that made the model what it is: those named, or those its folder tells of."""
    if not after:
        return noted_in(Path(source), model.digest)
    chain: tuple[Earlier, ...] = ()
    for name in after:
        found = read_artifact(name).provenance.chain()
        if chain and found[-1].base_digest != chain[-1].result_digest:
            raise InputError(
                f"{name} was not made on what the artifact before it gave; name those beneath "
                "MODEL in the order they were made"
            )
        # One that was told of those beneath it knows more than the command line says.
        chain = found if len(found) > len(chain) else (*chain, found[-1])
    return chain


def noted_in(folder: Path, digest: str) -> tuple[Earlier, ...]:
    """What `unlearn apply` noted of the artifacts in a model, if the weights are still those."""
    from unlearn.artifact_manifest import Provenance

    try:
        note = json.loads((folder / outputs.MODEL.marker).read_bytes())
        known = note["digest"] == digest
        return Provenance.model_validate(note["provenance"]).chain() if known else ()
    except (OSError, ValueError, KeyError, TypeError):
        return ()


@contextmanager
def telling(options: opt.Options, checkpoints: Checkpoints) -> Iterator[None]:
    """A block after whose interruption the user hears how it can be gone on with."""
    try:
        yield
    except KeyboardInterrupt:
        if checkpoints.work.claimed:
            say(options, f"what was done is in {checkpoints.work.path}; --resume goes on from it")
        raise


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
