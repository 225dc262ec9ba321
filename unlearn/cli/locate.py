"""``unlearn locate``: from a model and a forget set to a sites file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import click

from unlearn.cli import fact_figures, outputs
from unlearn.cli import options as opt
from unlearn.cli.console import emit, working
from unlearn.cli.inputs import naming, read_forget_set, read_model, read_sites
from unlearn.errors import InputError
from unlearn.registry import DEFAULT_LOCATOR
from unlearn.types import Sites, Tokens

SHOWN = 8
"""How many of the best modules are named on the terminal."""
SEEN = ("share_of_parameters", "token_read", "compared_by", "selectivity", "logit_lens")
"""Settings that say what a locator saw."""


@click.command(epilog="\b\nExample:\n  unlearn locate lab:full lab:one-person -o sites.json\n")
@click.argument("model")
@click.argument("forget_set")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The sites file to write.",
)
@click.option(
    "--method",
    default=DEFAULT_LOCATOR,
    show_default=True,
    metavar="NAME",
    help="The locator; see `unlearn list locators`.",
)
@click.option(
    "--top",
    metavar="HOW_MUCH",
    help="How much to choose: a share of the blocks' parameters (0.3), modules:5 or layers:2.",
)
@click.option(
    "--tokens",
    type=click.Choice(("subject", "answer", "fact")),
    help="Add which tokens of each forget record count: those of the subject in the prompt, of the "
    "answer, or of the answer those that depend on who the subject is (default: no restriction).",
)
@click.option(
    "--corruption",
    type=click.Choice(("replace", "noise")),
    help="Traces: put another subject's tokens in the prompt (default), or add noise.",
)
@click.option(
    "--score",
    type=click.Choice(("logit-diff", "logprob", "probability")),
    help="Traces: what a run is scored by (default logit-diff).",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    metavar="N",
    help="Traces: how many layers' MLPs or attention are restored at once (default 10 in "
    "causal-trace, 1 in attribution).",
)
@click.option(
    "--refine",
    type=click.IntRange(0),
    metavar="K",
    help="attribution: trace the K cells of each record with the largest estimates exactly.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Traces: begin no further record after this time, and say what is not covered.",
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Traces: draw the averaged trace, as .svg or .png.",
)
@fact_figures.option
@click.option(
    "--raw",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Traces: write every cell of every record, with token ids: as personal as the "
    "forget set. An interrupted run leaves FILE.partial and is resumed from there.",
)
@opt.settings
@opt.force
@opt.shared
@opt.trust
def locate(
    options: opt.Options,
    *,
    model: str,
    forget_set: str,
    output: Path,
    method: str,
    settings: Mapping[str, str],
    force: bool,
    figure: Path | None,
    facts: tuple[fact_figures.FactFigure, ...],
    raw: Path | None,
    tokens: Tokens | None,
    **choices: str | float | None,
) -> None:
    """Find where MODEL keeps what FORGET_SET says must go, and write the sites file.

    Options of traces are for the methods causal-trace and attribution.
    """
    settings = _merged(settings, choices)
    with ExitStack() as stack:
        made = stack.enter_context(outputs.file(output, force=force, ours=_is_sites))
        made_raw = _opened(stack, raw, force, _is_trace)
        made_figure = _opened(stack, figure, force, _is_figure)
        progress = stack.enter_context(working(options))
        records = read_forget_set(forget_set)
        _check_evidence(method, {"--raw": raw, "--figure": figure, "--fact-figure": facts})
        fact_figures.check(facts, records, {output, raw, figure}, force=force, ours=_is_figure)
        from unlearn.locate import locate_and_trace

        with naming(records):
            loaded = read_model(model, options)
            sites, trace = locate_and_trace(
                loaded,
                records,
                method=method,
                tokens=tokens,
                settings=settings,
                seed=options.seed,
                progress=progress,
                journal=None if raw is None else raw.with_name(f"{raw.name}.partial"),
                also=[fact.record_id for fact in facts],
            )
        made.write_text(sites.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if made_raw and trace:
            made_raw.write_text(trace.model_dump_json() + "\n", encoding="utf-8")
        if made_figure and trace:
            from unlearn.report.trace_figure import draw_trace

            draw_trace(trace, made_figure)
    words = describe(sites, output)
    if trace is not None:
        from unlearn.report.trace_wording import describe_trace

        words = f"{describe_trace(trace)}\n{words}"
    emit(options, sites.model_dump(mode="json"), words)
    # After everything else: a picture that cannot be drawn costs none of the finished work.
    if trace is not None:
        fact_figures.draw(facts, trace, loaded, records, force=force, ours=_is_figure)


def describe(sites: Sites, path: Path) -> str:
    """The sites in a few lines: what they restrict, and the modules with the best scores."""
    lines = [f"sites found by {sites.method}, written to {path}"]
    if sites.layers is not None:
        lines.append("layers   " + " ".join(map(str, sites.layers)))
    if sites.modules is not None:
        lines.append("modules  " + " ".join(sites.modules))
    for part in sorted(sites.parts & {"weight_mask", "token_mask"}):
        lines.append(f"{part}: {sum(map(len, getattr(sites, part).values()))} positions")
    if whole := _whole_answers(sites):
        lines.append(whole)
    for key in SEEN:
        if key in sites.settings:
            lines.append(f"{key.replace('_', ' ')}: {sites.settings[key]}")
    best = sorted(sites.scores.items(), key=lambda item: -item[1])[:SHOWN]
    lines += [f"  {score:12.4g}  {name}" for name, score in best]
    return "\n".join(lines)


def _whole_answers(sites: Sites) -> str:
    """How many records keep their whole answer, where the sites were asked for its fact."""
    alone, general = (sites.settings.get(f"tokens_no_{why}") for why in ("replacement", "fact"))
    if sites.token_mask is None or alone is None or general is None:
        return ""
    kept, n = int(alone) + int(general), len(sites.token_mask)
    return (
        f"  {kept} of {n} records keep their whole answer: "
        f"{alone} without another subject to swap in, {general} without a token that depends on it"
    )


def _merged(
    settings: Mapping[str, str], choices: Mapping[str, str | float | None]
) -> Mapping[str, str]:
    """The settings, with those that have an option of their own."""
    chosen = {key: str(value) for key, value in choices.items() if value is not None}
    for key in chosen:
        if key in settings:
            option = key.replace("_", "-")
            raise click.UsageError(f"--{option} and --set {key}=... are the same; give one of them")
    return {**settings, **chosen}


def _check_evidence(method: str, asked: Mapping[str, object]) -> None:
    """Refuses, before any work, files that the method has nothing to write into."""
    figure = asked["--figure"]
    if isinstance(figure, Path):
        from unlearn.report.trace_figure import check_figure_path

        check_figure_path(figure)
    option = next((option for option, value in asked.items() if value), None)
    if option is None:
        return
    from unlearn.registry import locators

    if not hasattr(locators.get(method), "trace"):
        raise InputError(
            f"{option} is for --method causal-trace or attribution; {method} makes no trace"
        )


def _opened(
    stack: ExitStack, path: Path | None, force: bool, ours: Callable[[Path], bool]
) -> Path | None:
    return stack.enter_context(outputs.file(path, force=force, ours=ours)) if path else None


def _is_trace(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"schema_version":"1","tool_version"' in file.read(200)


def _is_figure(path: Path) -> bool:
    with path.open("rb") as file:
        return b"unlearn" in file.read(2000)


def _is_sites(path: Path) -> bool:
    try:
        read_sites(path)
    except InputError:
        return False
    return True
