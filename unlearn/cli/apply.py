"""``unlearn apply``: from a model and an artifact to a plain model folder."""

from __future__ import annotations

from pathlib import Path

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit, working
from unlearn.cli.inputs import read_artifact, read_model
from unlearn.errors import UnsupportedError


@click.command(epilog="\b\nExample:\n  unlearn apply lab:full forgotten -o unlearned-model\n")
@click.argument("model")
@click.argument("artifact")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MODEL_DIR",
    help="The folder for the unlearned model.",
)
@opt.force
@opt.shared
@opt.trust
def apply(options: opt.Options, *, model: str, artifact: str, output: Path, force: bool) -> None:
    """Merge ARTIFACT into MODEL, and write the result as an ordinary model folder.

    MODEL must be the very model that the artifact was made from. The new folder opens with
    transformers; its unlearn.json says where it came from.
    """
    with outputs.folder(output, outputs.MODEL, force=force) as made, working(options) as progress:
        change = read_artifact(artifact)
        if change.threat_model == "served-only":
            raise UnsupportedError(
                f"{artifact} is of the kind {change.kind}: words before each prompt, which no "
                "weights can hold. Keep it where the model is served; `unlearn audit` takes it as "
                "it is"
            )
        from unlearn.merged import write_merged

        base = read_model(model, options)
        progress("applying", 0.0)
        merged = write_merged(change, base, made)
        progress("applying", 1.0)
    document = {"model": str(output), "digest": merged.digest, "base_digest": base.digest}
    emit(options, document, f"unlearned model written to {output}\ndigest {merged.digest}")
