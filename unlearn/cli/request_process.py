"""``unlearn request process``: from approved requests to an unlearned model and evidence."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli.console import Progress, emit, say, working
from unlearn.cli.inputs import read_model
from unlearn.cli.office import Office, office
from unlearn.cli.request_text import document_of, line_of
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.deletion.processing import Attempt, Processed
    from unlearn.deletion.store import Store
    from unlearn.types import AuditResult


@click.command(
    epilog="\b\nExamples:\n"
    "  unlearn request process ID --store office --reference models/without -o models/b\n"
    "  unlearn request process --all --store office -o models/tonight\n"
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="Every approved request, merged by model.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MODEL_DIR",
    help="The folder for the unlearned model; with requests about several models, one below it for "
    "each.",
)
@click.option(
    "--on",
    metavar="MODEL",
    help="Start from this model, which was made from the one in scope by an earlier request.",
)
@click.option("--reference", metavar="MODEL", help="A model that was never trained on the records.")
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME",
    help="Try these in turn until one does not fail.  [default: gradient-ascent, distillation, "
    "in-context]",
)
@opt.settings
@click.option(
    "--tier",
    type=click.Choice(("smoke", "standard", "deep")),
    default="standard",
    show_default=True,
    help="How thorough the audits are.",
)
@click.option(
    "--max-records",
    type=click.IntRange(1),
    metavar="N",
    help="Measure at most so many records of each split but forget.",
)
@opt.shared
@opt.trust
@office
def process(
    options: opt.Options,
    desk: Office,
    *,
    ids: tuple[str, ...],
    all_: bool,
    output: Path,
    on: str | None,
    reference: str | None,
    strategies: tuple[str, ...],
    settings: Mapping[str, str],
    tier: str,
    max_records: int | None,
) -> None:
    """Make the models forget what approved requests are about, audit it, and write the evidence.

    An attempt whose audit fails is followed by the next strategy. Requests end in audited, in
    filter-only where only a policy before the model did not fail, or in retrain-scheduled. Then
    earlier requests are audited again on the new model.

    Exit codes: those of `unlearn audit`, for the worst verdict of all.
    """
    from unlearn.deletion.processing import plan_of

    if bool(ids) == all_:
        raise InputError("give the ids of the requests to process, or --all")
    plan = plan_of(strategies, settings)
    with desk.store() as store, working(options) as progress:
        batches = _batches(store, ids, on)
        if not batches:
            say(options, "no approved requests")
        output = output.resolve()
        done: list[Processed] = []
        earlier: dict[str, AuditResult] = {}
        for source, requests in batches.items():
            place = (
                output
                if len(batches) == 1
                else output / store.get(requests[0]).models[0].digest[:12]
            )
            made = _Batch(options, desk, plan, place, reference, tier, max_records, progress)
            finished, again = made.process(store, source, requests)
            done += finished
            earlier |= again
    _report(options, done, earlier)


def _report(options: opt.Options, done: list[Processed], earlier: dict[str, AuditResult]) -> None:
    from unlearn.verdicts.case import worst

    verdict = None
    results = [*(each.result for each in done), *earlier.values()]
    if results:
        verdict = worst(result.verdict for result in results)
    code = 0 if verdict is None else verdict.exit_code
    document = {
        "verdict": None if verdict is None else str(verdict),
        "exit_code": code,
        "requests": [document_of(each.request) for each in done],
        "rechecked": {name: str(result.verdict) for name, result in earlier.items()},
    }
    lines = [line_of(each.request) for each in done]
    lines += [f"{name}  again: {result.verdict}" for name, result in earlier.items()]
    emit(options, document, "\n".join(lines) or "nothing to process")
    raise click.exceptions.Exit(code)


def _batches(store: Store, ids: tuple[str, ...], on: str | None) -> dict[str, list[str]]:
    """Model source to the requests that are processed on it together."""
    from unlearn.deletion.states import WORKING

    requests = [store.get(each) for each in ids]
    if not ids:
        with store.registry.look() as view:
            requests = view.requests(("approved", *WORKING))
    batches: dict[str, list[str]] = {}
    for request in requests:
        sources = [model.source for model in request.models]
        if on is None and len(sources) != 1:
            which = ", ".join(sources) or "no model yet"
            raise InputError(
                f"request {request.id} is about {which}; say which one to start from with --on"
            )
        batches.setdefault(on or sources[0], []).append(request.id)
    return batches


class _Batch:
    """The requests about one model."""

    def __init__(
        self,
        options: opt.Options,
        desk: Office,
        plan: tuple[Attempt, ...],
        output: Path,
        reference: str | None,
        tier: str,
        max_records: int | None,
        progress: Progress,
    ) -> None:
        self.options, self.desk, self.plan, self.output = options, desk, plan, output
        self.reference, self.tier, self.max_records = reference, tier, max_records
        self.progress = progress

    def process(
        self, store: Store, source: str, requests: list[str]
    ) -> tuple[list[Processed], dict[str, AuditResult]]:
        """What became of them, and of earlier ones on the new model."""
        from unlearn.deletion.processing import Job, Processing, recheck
        from unlearn.deletion.workflow import AuditOptions, Run

        model = read_model(source, self.options)
        reference = read_model(self.reference, self.options) if self.reference else None
        audits = AuditOptions(tier=self.tier, max_records=self.max_records)  # type: ignore[arg-type]
        run = Run("", reference, self.options.seed, audits, self.progress)
        worker = f"{self.desk.by}@{socket.gethostname()}:{os.getpid()}"
        job = Job(self.output, by=self.desk.by, worker=worker, plan=self.plan, run=run)
        done = Processing(store, job, model, requests).run()
        if not self.output.exists() or any(each.request.state == "filter-only" for each in done):
            return done, {}
        unlearned = read_model(str(self.output), self.options)
        return done, recheck(store, unlearned, run, by=self.desk.by, besides=requests)
