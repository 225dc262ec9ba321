"""``unlearn audit``: from a model or an artifact to figures, verdicts and a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.audited import Audited, Serving, read_audited, read_subject
from unlearn.cli.console import Progress, emit, say, working
from unlearn.cli.inputs import naming, read_forget_set, read_model
from unlearn.cli.summary import summary

if TYPE_CHECKING:
    from unlearn.forget_set import ForgetSet
    from unlearn.probes.harness import BenchmarkTask
    from unlearn.types import AuditResult, Calibration, Record

TIERS = ("smoke", "standard", "deep")
PRECISIONS = ("bf16", "int8", "int4")


def _names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise click.BadParameter(f"names no {'probe' if parameter.name == 'probes' else 'value'}")
    return names


def _precisions(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    names = _names(context, parameter, value)
    if names is None or names == ("none",):
        return () if names else None
    if strange := [name for name in names if name not in PRECISIONS]:
        known = ", ".join(PRECISIONS)
        raise click.BadParameter(f"{strange[0]!r} is none of {known}; none measures no copy")
    return names


@dataclass(frozen=True)
class Choices:
    """What an audit is to measure, as the command line said it."""

    tier: str
    probes: tuple[str, ...] | None
    precisions: tuple[str, ...] | None
    general: Path | None
    tasks: tuple[str, ...]
    max_records: int | None


@click.command(
    epilog="\b\nExamples:\n"
    "  unlearn audit forgotten lab:one-person --reference lab:reference -o audit\n"
    "  unlearn audit --calibrate lab:reference lab:reference-2 lab:ten-people -o margins.json\n"
)
@click.argument("sources", nargs=-1, required=True, metavar="MODEL|ARTIFACT|URL FORGET_SET")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The folder for audit.json, audit.md and audit.html; a file with --calibrate.",
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
    type=click.Choice(TIERS),
    default="smoke",
    show_default=True,
    help="How much to measure. smoke: likelihoods. standard: also sampling, prompts that press, "
    "membership, low precision. deep: also relearning and hidden states.",
)
@click.option(
    "--probes",
    metavar="A,B",
    callback=_names,
    help="Run only these probes and what they require; see `unlearn list probes`.",
)
@click.option(
    "--precisions",
    metavar="A,B",
    callback=_precisions,
    help="Measure again at these: bf16, int8, int4, or none.  [default: all from standard on]",
)
@click.option(
    "--general",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text that has nothing to do with the forget set; paragraphs with blank lines between.",
)
@click.option(
    "--tasks",
    multiple=True,
    metavar="NAME|YAML",
    help="A task of lm-evaluation-harness that should be solved as before: a name it knows, or a "
    "task file, whose functions are run; may be given more than once. Needs the extra lm-eval.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Margins that --calibrate wrote. The lab brings its own.",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Take all but the last argument for models that never knew, and write how far they "
    "differ, as margins for audits of the same forget set.",
)
@click.option(
    "--after",
    multiple=True,
    metavar="FORGET_SET",
    help="Audit MODEL on the forget set of an earlier request too, into DIR/after; may be given "
    "more than once. The exit code is the worst of all.",
)
@click.option(
    "--requests-per-minute",
    type=click.FloatRange(min=0, min_open=True),
    default=600,
    show_default=True,
    metavar="N",
    help="How fast an endpoint is asked.",
)
@click.option(
    "--prices",
    type=(float, float),
    metavar="IN OUT",
    help="Of an endpoint, for a million prompt tokens and a million new ones; for the estimate.",
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
    sources: tuple[str, ...],
    output: Path,
    original: str | None,
    reference: str | None,
    calibration: Path | None,
    calibrate: bool,
    after: tuple[str, ...],
    requests_per_minute: float,
    prices: tuple[float, float] | None,
    examples: int,
    force: bool,
    **chosen: Any,
) -> None:
    """Measure what MODEL (or the model of ARTIFACT) still knows of FORGET_SET, and what broke.

    A model that is only served is audited by URL, for example http://localhost:8000/v1#my-model:
    then only probes that text and log-probabilities suffice for are run.

    Exit codes: 0 every claim passes, 1 a claim fails, 3 neither is shown.
    """
    choices = Choices(**chosen)
    if calibrate:
        _calibrate(options, choices, sources, output, original, force)
        return
    if len(sources) != 2:
        raise click.UsageError(
            f"give one model and one forget set, not {len(sources)} arguments "
            "(more than one model is for --calibrate)"
        )
    with outputs.folder(output, outputs.AUDIT, force=force) as made, working(options) as progress:
        records = read_forget_set(sources[1])
        served = Serving(requests_per_minute, prices)
        audited = read_audited(sources[0], original, records, options, served)
        never_trained = None if reference is None else read_subject(reference, options, served)
        run = Run(options, choices, audited, never_trained, output, progress)
        result = run.on(records, made, calibration, examples)
        earlier = {}
        for number, source in enumerate(after, 1):
            earlier[source] = run.on(
                read_forget_set(source), made / "after" / str(number), None, examples
            )
    _told(options, result, earlier, output)


@dataclass(frozen=True)
class Run:
    """Models and choices of one call, for one forget set or several."""

    options: opt.Options
    choices: Choices
    audited: Audited
    reference: Any
    output: Path
    progress: Progress

    def on(
        self, records: ForgetSet, made: Path, calibration: Path | None, examples: int
    ) -> AuditResult:
        """The audit on one forget set, with its report written into ``made``."""
        from unlearn.audit import audit as run
        from unlearn.report import report

        choices = self.choices
        self._estimate(records)
        with naming(records):
            result = run(
                self.audited.model,
                records,
                original=self.audited.original,
                reference=self.reference,
                tier=choices.tier,
                probes=choices.probes,
                precisions=choices.precisions,
                general=_paragraphs(choices.general),
                tasks=_tasks(choices.tasks),
                calibration=_calibration(calibration, records, self.reference),
                seed=self.options.seed,
                max_records=choices.max_records,
                provenance=self.audited.provenance,
                efficiency=self.audited.efficiency,
                sites=self.audited.sites,
                strengths=self.audited.strengths,
                examples=examples,
                journal=self._journal(records),
                progress=self.progress,
            )
        result = result.model_copy(update={"limits": (*self.audited.limits, *result.limits)})
        report(result, made)
        return result

    def _estimate(self, records: ForgetSet) -> None:
        """Says what the audit of an endpoint will ask for, before the first request."""
        from unlearn.audit.estimate import cost_of_audit

        cost = cost_of_audit(
            self.audited.model,
            records,
            tier=self.choices.tier,
            probes=self.choices.probes,
            max_records=self.choices.max_records,
            seed=self.options.seed,
        )
        if cost is not None:
            price = "" if cost.price is None else f", price {cost.price:.2f}"
            say(
                self.options,
                f"the endpoint gets {cost.requests} requests, {cost.prompt_tokens} prompt tokens "
                f"and up to {cost.new_tokens} new ones; at least {cost.seconds:.0f} seconds{price}",
            )

    def _journal(self, records: ForgetSet) -> Path | None:
        """Beside the output; a smoke audit is over before it is worth a file."""
        if self.choices.tier == "smoke":
            return None
        name = f"{self.output.name}.{records.digest[:8]}.partial"
        return self.output.resolve().with_name(name)


def _told(
    options: opt.Options, result: AuditResult, earlier: dict[str, AuditResult], output: Path
) -> None:
    from unlearn.report.files import as_json
    from unlearn.verdicts.case import SEVERITY

    text = [summary(result), ""]
    document = json.loads(as_json(result))
    for source, other in earlier.items():
        text.append(f"after, {source}: verdict {other.verdict} · label {other.label}")
    if earlier:
        document = {"audit": document, "after": {}}
        for source, other in earlier.items():
            document["after"][source] = json.loads(as_json(other))
    emit(options, document, "\n".join([*text, f"report {output}"]))
    worst = min((r.verdict for r in (result, *earlier.values())), key=SEVERITY.index)
    raise click.exceptions.Exit(worst.exit_code)


def _calibrate(
    options: opt.Options,
    choices: Choices,
    sources: Sequence[str],
    output: Path,
    original: str | None,
    force: bool,
) -> None:
    if len(sources) < 3:
        raise click.UsageError("--calibrate needs two or more models, then the forget set")
    with (
        outputs.file(output, force=force, ours=_is_calibration) as made,
        working(options) as progress,
    ):
        records = read_forget_set(sources[-1])
        from unlearn.audit.calibration import calibrate

        with naming(records):
            found = calibrate(
                [read_model(source, options) for source in sources[:-1]],
                records,
                original=None if original is None else read_model(original, options),
                tier=choices.tier,
                precisions=choices.precisions,
                general=_paragraphs(choices.general),
                tasks=_tasks(choices.tasks),
                max_records=choices.max_records,
                seed=options.seed,
                progress=progress,
            )
        made.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for figure in found.capped:
        say(options, f"note: {figure} differs more between references than a margin may allow")
    lines = [f"{margin:8.3g}  {figure}" for figure, margin in found.margins.items()]
    emit(
        options,
        found.model_dump(mode="json"),
        "\n".join([f"margins from {found.pairs} pairs of references", *lines, f"file {output}"]),
    )


def _calibration(path: Path | None, records: ForgetSet, reference: Any) -> Calibration | None:
    """The margins in the file, or the lab's own for its forget sets and references."""
    from unlearn.audit.calibration import read_calibration

    if path is not None:
        return read_calibration(path)
    from unlearn.lab.bundled import calibration_of

    return None if reference is None else calibration_of(records.digest, reference.digest)


def _is_calibration(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"margins"' in file.read(100_000)


def _paragraphs(path: Path | None) -> tuple[Record, ...]:
    from unlearn.audit.general_text import read_general

    return () if path is None else read_general(path)


def _tasks(names: tuple[str, ...]) -> tuple[BenchmarkTask, ...]:
    from unlearn.probes.harness import read_tasks

    return read_tasks(names)
