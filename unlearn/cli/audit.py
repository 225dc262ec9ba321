"""``unlearn audit``: from a model or an artifact to figures, verdicts and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit, say, working
from unlearn.cli.inputs import (
    is_artifact,
    naming,
    read_artifact,
    read_base,
    read_forget_set,
    read_model,
)
from unlearn.cli.summary import summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unlearn.artifact import Artifact
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel


OWN_SET = "this forget set"


def _names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise click.BadParameter("names no probe")
    return names


@click.command(
    epilog="\b\nExample:\n"
    "  unlearn audit forgotten lab:one-person --reference lab:reference -o audit\n"
)
@click.argument("model", metavar="MODEL|ARTIFACT")
@click.argument("forget_set")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The folder for audit.json, audit.md and audit.html.",
)
@click.option(
    "--original",
    metavar="MODEL",
    help="The model before forgetting. An artifact knows its own; a model needs to be told.",
)
@click.option(
    "--reference",
    metavar="MODEL",
    help="A model that never knew. Without one the strongest verdicts are out of reach.",
)
@click.option(
    "--tier",
    type=click.Choice(["smoke", "standard", "deep"]),
    default="smoke",
    show_default=True,
    help="How much to measure; so far there is only smoke.",
)
@click.option(
    "--probes",
    metavar="A,B",
    callback=_names,
    help="Run only these probes; see `unlearn list probes`.",
)
@click.option(
    "--max-records",
    type=click.IntRange(1),
    metavar="N",
    help="Measure at most this many records of each split but the forget one.",
)
@click.option(
    "--examples",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Show what the models say to this many prompts. They repeat the data of the request: "
    "not for outsiders.",
)
@opt.force
@opt.shared
@opt.trust
def audit(
    options: opt.Options,
    *,
    model: str,
    forget_set: str,
    output: Path,
    original: str | None,
    reference: str | None,
    tier: str,
    probes: tuple[str, ...] | None,
    max_records: int | None,
    examples: int,
    force: bool,
) -> None:
    """Measure what MODEL (or the model of ARTIFACT) still knows of FORGET_SET, and what broke.

    Exit codes: 0 every claim passes, 1 a claim fails, 3 neither is shown.
    """
    with outputs.folder(output, outputs.AUDIT, force=force) as made, working(options) as progress:
        records = read_forget_set(forget_set)
        audited = _audited(model, original, records, options)
        from unlearn.audit import audit as run
        from unlearn.report import report
        from unlearn.report.files import as_json

        never_trained = None if reference is None else read_model(reference, options)
        with naming(records):
            result = run(
                audited.model,
                records,
                original=audited.original,
                reference=never_trained,
                tier=tier,
                probes=probes,
                seed=options.seed,
                max_records=max_records,
                provenance=audited.provenance,
                examples=examples,
                progress=progress,
            )
        result = result.model_copy(update={"limits": (*audited.limits, *result.limits)})
        report(result, made)
    emit(options, json.loads(as_json(result)), f"{summary(result)}\n\nreport {output}")
    raise click.exceptions.Exit(result.verdict.exit_code)


class _Audited(NamedTuple):
    model: LanguageModel
    original: LanguageModel | None
    provenance: Mapping[str, str]
    limits: tuple[str, ...] = ()
    """What cannot be told of how the model came to be, for the limits of the report."""


def _audited(
    source: str, original: str | None, records: ForgetSet, options: opt.Options
) -> _Audited:
    """The model to measure, the one it came from, and how."""
    if not is_artifact(source):
        before = None if original is None else read_model(original, options)
        return _Audited(read_model(source, options), before, _recorded(Path(source)))
    artifact = read_artifact(source)
    if original is None:
        base = read_base(artifact, source, options)
    else:
        base = read_model(original, options)
    from unlearn.deletion.workflow import provenance_of

    made_for = _made_for(artifact, records)
    if made_for != OWN_SET:
        say(options, f"note: {source} was made for {made_for}")
    provenance = {**provenance_of(artifact), "made for": made_for}
    limits = (*artifact.limits, *origin_limits(made_for))
    return _Audited(artifact.apply(base), base, provenance, limits)


def origin_limits(made_for: str) -> tuple[str, ...]:
    """A sentence for the limits of the audit where the artifact is not known to be of its set."""
    return () if made_for == OWN_SET else (f"The artifact was made for {made_for}.",)


def _made_for(artifact: Artifact, records: ForgetSet) -> str:
    """Whether the artifact was made for the forget set it is audited on."""
    if artifact.forget_set_key is None:
        return "a forget set it cannot be tied to any more: its key is gone"
    return OWN_SET if artifact.concerns(records.digest) else "another forget set, or an older state"


def _recorded(folder: Path) -> Mapping[str, str]:
    """How a model that ``unlearn apply`` wrote came to be; empty for any other model."""
    try:
        note = json.loads((folder / outputs.MODEL.marker).read_text(encoding="utf-8"))
        provenance = note["provenance"]
        return {"strategy": str(provenance["strategy"]), "base": str(note["base_source"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
