"""``unlearn request process``: from approved requests to an unlearned model and evidence."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit, working
from unlearn.cli.inputs import read_model
from unlearn.cli.office import Office, office
from unlearn.cli.request_text import document_of, line_of
from unlearn.errors import InputError
from unlearn.registry import DEFAULT_LOCATOR

if TYPE_CHECKING:
    from unlearn.deletion.processing import Job, Processed
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
    "--locator",
    default=DEFAULT_LOCATOR,
    show_default=True,
    metavar="NAME",
    help="What finds where strategies may act, see `unlearn list locators`; none for anywhere.",
)
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
    locator: str,
    tier: str,
    max_records: int | None,
) -> None:
    """Make the models forget what approved requests are about, audit it, and write the evidence.

    An attempt whose audit fails is followed by the next strategy. Requests end in audited, in
    filter-only where only a policy before the model did not fail, or in retrain-scheduled. Then
    earlier requests are audited again on the new model.

    Exit codes: those of `unlearn audit`, for the worst verdict of all.
    """
    if bool(ids) == all_:
        raise InputError("give the ids of the requests to process, or --all")
    from unlearn.deletion.processing import Job, plan_of
    from unlearn.deletion.workflow import AuditOptions, Run

    audits = AuditOptions(tier=tier, max_records=max_records)  # type: ignore[arg-type]
    with desk.store() as store, working(options) as progress:
        job = Job(
            output.resolve(),
            by=desk.by,
            worker=f"{desk.by}@{socket.gethostname()}:{os.getpid()}",
            plan=plan_of(strategies, settings),
            locator=None if locator == "none" else locator,
            run=Run("", None, options.seed, audits, progress),
        )
        done: list[Processed] = []
        earlier: dict[str, AuditResult] = {}
        for batch in _batches(store, ids, on, job):
            finished, again = batch.process(store, options, reference)
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


class _Batch(NamedTuple):
    """The requests that are processed on one model together."""

    source: str
    requests: list[str]
    job: Job

    def process(
        self, store: Store, options: opt.Options, reference: str | None
    ) -> tuple[list[Processed], dict[str, AuditResult]]:
        """What became of them, and of earlier ones on the new model."""
        from unlearn.deletion.processing import Processing, recheck

        model = read_model(self.source, options)
        never = None if reference is None else read_model(reference, options)
        run = replace(self.job.run, reference=never)
        done = Processing(store, replace(self.job, run=run), model, self.requests).run()
        if any(each.request.state != "audited" for each in done):
            return done, {}
        unlearned = read_model(str(self.job.output), options)
        return done, recheck(store, unlearned, run, by=self.job.by, besides=self.requests)


def _batches(store: Store, ids: tuple[str, ...], on: str | None, job: Job) -> list[_Batch]:
    """The requests by model, each model with a place for what comes of it."""
    from unlearn.deletion.states import WORKING

    requests = [store.get(each) for each in ids]
    if not ids:
        with store.registry.look() as view:
            requests = view.requests(("approved", *WORKING))
    found: dict[str, list[str]] = {}
    places: dict[str, Path] = {}
    for request in requests:
        if on is None and len(request.models) != 1:
            which = ", ".join(model.source for model in request.models) or "no model yet"
            raise InputError(
                f"request {request.id} is about {which}; say which one to start from with --on"
            )
        source = on or request.models[0].source
        found.setdefault(source, []).append(request.id)
        places[source] = job.output / request.models[0].digest[:12]
    if len(found) == 1:
        places = dict.fromkeys(found, job.output)
    return [_Batch(source, found[source], replace(job, output=places[source])) for source in found]
