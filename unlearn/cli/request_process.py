"""``unlearn request process``: from approved requests to an unlearned model and evidence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
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
    from unlearn.deletion.request import DeletionRequest
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
    help="The folder for the unlearned model; with --all, or requests about several models, one "
    "below it for each, called by the digest of the model in scope.",
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
        batches = _waiting(store, on, job) if all_ else _named(store, ids, on, job)
        for batch in batches:
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


def _named(store: Store, ids: tuple[str, ...], on: str | None, job: Job) -> list[_Batch]:
    """The requests of some ids by model, each model with a place for what comes of it."""
    found: dict[str, list[DeletionRequest]] = {}
    for request in map(store.get, ids):
        if on is None and len(request.models) != 1:
            which = ", ".join(model.source for model in request.models) or "no model yet"
            raise InputError(
                f"request {request.id} is about {which}; say which one to start from with --on"
            )
        found.setdefault(on or request.models[0].source, []).append(request)
    if len(found) == 1:
        return [_Batch(source, [each.id for each in of], job) for source, of in found.items()]
    return [_batch(source, of, job) for source, of in found.items()]


def _waiting(store: Store, on: str | None, job: Job) -> Iterator[_Batch]:
    """Approved requests that no other worker has, those about one model together, until none is.

    Those about several models are left to be processed by their ids, unless one is started ``on``.
    """
    from unlearn.deletion.states import WORKING

    tried: set[str] = set()

    def wanted(request: DeletionRequest) -> bool:
        return request.id not in tried and (on is not None or len(request.models) == 1)

    while True:
        with store.registry.change() as change:
            states = ("approved", *WORKING)
            taken = change.take(job.worker, states, seconds=job.lease_seconds, wanted=wanted)
        if not taken:
            return
        tried |= {request.id for request in taken}
        yield _batch(on or taken[0].models[0].source, taken, job)


def _batch(source: str, requests: list[DeletionRequest], job: Job) -> _Batch:
    """Requests about one of several models: what comes of it lies in a folder of its own."""
    place = job.output / requests[0].models[0].digest[:12]
    return _Batch(source, [request.id for request in requests], replace(job, output=place))
