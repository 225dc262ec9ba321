"""``unlearn demo``: the whole way on the bundled lab, from request to report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import Progress, emit, say, working
from unlearn.cli.inputs import read_forget_set, read_model
from unlearn.cli.summary import summary
from unlearn.registry import DEFAULT_LOCATOR

if TYPE_CHECKING:
    from unlearn.deletion.request import DeletionRequest
    from unlearn.deletion.workflow import Outcome
    from unlearn.types import Verdict

MODEL, REFERENCE, FORGET_SET = "lab:full", "lab:reference", "lab:one-person"
QUICK_RECORDS = 100
"""Records that a quick demo measures of each split but the forget one."""
QUICK_SETTINGS = {
    "gradient-ascent": {"max_steps": "25", "learning_rate": "6e-4", "evaluate_every": "10"}
}
"""Fewer and larger steps for a quick demo, by strategy; others run with their defaults."""


@click.command(epilog="\b\nExample:\n  unlearn demo --quick")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("reports/demo"),
    show_default=True,
    metavar="DIR",
    help="The folder for the evidence.",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME",
    help="How to forget; may be given more than once.  [default: gradient-ascent]",
)
@click.option(
    "--quick", is_flag=True, help="Fewer steps, fewer records measured: faster, and proves less."
)
@opt.force
@opt.shared
def demo(
    options: opt.Options, *, output: Path, strategies: tuple[str, ...], quick: bool, force: bool
) -> None:
    """Run everything on the bundled lab: a request comes in, a model forgets, an audit judges.

    The lab is an invented world. Its model lab:full was trained on everybody; lab:reference never
    saw the person who asks to be forgotten, so the audit knows what forgetting should look like.
    No network is needed.

    Exit codes: 0 every claim passes, 1 a claim fails, 3 neither is shown.
    """
    started = time.monotonic()
    chosen = tuple(dict.fromkeys(strategies)) or ("gradient-ascent",)
    with outputs.folder(output, outputs.DEMO, force=force) as made, working(options) as progress:
        outcomes = {}
        for name, request, outcome in _runs(chosen, quick, options, progress):
            _write(request, outcome, made / "runs" / name)
            outcomes[name] = outcome
        document = _document(outcomes, output, time.monotonic() - started)
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        (made / outputs.DEMO.marker).write_text(text, encoding="utf-8")
    emit(options, document, _text(outcomes, document))
    raise click.exceptions.Exit(document["exit_code"])


def _runs(
    chosen: tuple[str, ...], quick: bool, options: opt.Options, progress: Progress
) -> Iterator[tuple[str, DeletionRequest, Outcome]]:
    """Each strategy's name, the request and what it came to, one after the other."""
    from unlearn.deletion.request import DeletionRequest
    from unlearn.deletion.workflow import AuditOptions, Run, fitting, process

    locators = {name: fitting(DEFAULT_LOCATOR, name) for name in chosen}
    forget_set = read_forget_set(FORGET_SET)
    model, reference = read_model(MODEL, options), read_model(REFERENCE, options)
    request = DeletionRequest.open(ground="consent-withdrawn")
    say(options, f"request {request.id}: {MODEL} must forget {FORGET_SET}")
    for name, locator in locators.items():
        say(options, f"strategy {name}, sites: {locator or 'no restriction'}")
        yield (
            name,
            request,
            process(
                model,
                forget_set,
                Run(
                    request.id,
                    reference,
                    options.seed,
                    AuditOptions(max_records=QUICK_RECORDS if quick else None),
                    progress,
                ),
                strategy=name,
                locator=locator,
                settings=QUICK_SETTINGS.get(name) if quick else None,
            ),
        )


def _write(request: DeletionRequest, outcome: Outcome, directory: Path) -> None:
    from unlearn.report import report

    directory.mkdir(parents=True)
    report(outcome.result, directory)
    outcome.artifact.save(directory / "artifact")
    pieces = {"request.json": request, "sites.json": outcome.sites}
    for name, noun in pieces.items():
        if noun is not None:
            (directory / name).write_text(noun.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _document(outcomes: dict[str, Outcome], output: Path, seconds: float) -> dict[str, Any]:
    """The result of the demo; with several strategies, the worst of their verdicts."""
    from unlearn.verdicts.case import worst

    runs = [
        {
            "strategy": name,
            "verdict": str(outcome.result.verdict),
            "verdicts": {claim.id: str(claim.verdict) for claim in outcome.result.claims},
            "report": str(output / "runs" / name / "audit.html"),
        }
        for name, outcome in outcomes.items()
    ]
    claims: dict[str, list[Verdict]] = {}
    for outcome in outcomes.values():
        for claim in outcome.result.claims:
            claims.setdefault(claim.id, []).append(claim.verdict)
    verdict = worst(outcome.result.verdict for outcome in outcomes.values())
    return {
        "verdict": str(verdict),
        "exit_code": verdict.exit_code,
        "verdicts": {claim: str(worst(verdicts)) for claim, verdicts in claims.items()},
        "report": runs[0]["report"],
        "seconds": round(seconds, 1),
        "runs": runs,
    }


def _text(outcomes: dict[str, Outcome], document: dict[str, Any]) -> str:
    parts = []
    for run in document["runs"]:
        parts += [f"strategy {run['strategy']}", summary(outcomes[run["strategy"]].result)]
        parts += [f"report {run['report']}", ""]
    return "\n".join([*parts, f"{document['seconds']} seconds"])
