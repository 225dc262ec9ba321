"""``unlearn apply``: from a model and an artifact to a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.audit_folder import check_audit
from unlearn.cli.console import emit, working
from unlearn.cli.inputs import read_artifact, read_model
from unlearn.errors import ArtifactError, InputError, UnsupportedError

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.model.language_model import LanguageModel


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
@click.option(
    "--audit",
    "audited",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="An audit of the artifact: its verdicts and figures go into the model card, README.md, "
    "which is for everyone and repeats no record.",
)
@click.option(
    "--without",
    metavar="EARLIER",
    help="Leave out an earlier artifact that ARTIFACT, a LoRA, was made on; MODEL is then the one "
    "from before it.",
)
@opt.force
@opt.shared
@opt.trust
def apply(
    options: opt.Options,
    *,
    model: str,
    artifact: str,
    output: Path,
    audited: Path | None,
    without: str | None,
    force: bool,
) -> None:
    """Merge ARTIFACT into MODEL, and write the result as an ordinary model folder.

    MODEL must be the very model that the artifact was made from. The new folder opens with
    transformers; its unlearn.json says where it came from.
    """
    if audited is not None:
        check_audit(audited)
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
        if without is not None:
            change = left_out(without, change, base)
        card = None if audited is None else _card(audited, base, output)
        merged = write_merged(change, base, made, card)
        if audited is not None:
            _check_same(audited, merged.digest)
        progress("applying", 1.0)
    document = {"model": str(output), "digest": merged.digest, "base_digest": base.digest}
    emit(options, document, f"unlearned model written to {output}\ndigest {merged.digest}")


def _card(audited: Path, base: LanguageModel, output: Path) -> str:
    """The model card, with what is in the folder's own already."""
    from unlearn.merged import CARD
    from unlearn.report import read
    from unlearn.report.model_card import model_card
    from unlearn.report.signature import signature_of

    there = output / CARD
    before = there.read_text(encoding="utf-8", errors="replace") if there.is_file() else ""
    on_hub = ":" not in base.source and not Path(base.source).exists()
    base_model = base.source.partition("@")[0] if on_hub else None
    signature = signature_of(audited)
    return model_card(read(audited), signature, base_model=base_model, before=before)


def _check_same(audited: Path, digest: str) -> None:
    from unlearn.report import read

    models = read(audited).models
    found = models["unlearned"].digest if "unlearned" in models else "none"
    if found != digest:
        raise InputError(
            f"{audited} is the audit of another model: its digest is {found[:12]}, and MODEL with "
            f"ARTIFACT is {digest[:12]}; give the audit of this artifact"
        )


def left_out(earlier: str, later: Artifact, model: LanguageModel) -> Artifact:
    """The later artifact as one of the model from before the earlier one."""
    from unlearn.adapter import Adapter

    if not isinstance(later, Adapter):
        raise ArtifactError(
            f"an artifact of the kind {later.kind} holds for the very weights it was made on, so "
            f"{earlier} cannot be taken out from beneath it; forget its set again on the model "
            "from before"
        )
    return later.without(read_artifact(earlier), model)
