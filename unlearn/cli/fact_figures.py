"""``--fact-figure RECORD FILE`` of ``unlearn locate``: pictures of single records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from unlearn.cli import outputs
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.forget_set import ForgetSet
    from unlearn.locate.trace import Trace
    from unlearn.model.language_model import LanguageModel


class FactFigure(NamedTuple):
    """A picture that was asked for."""

    record_id: str
    path: Path


def option(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes ``--fact-figure`` any number of times, as ``facts``."""
    return click.option(
        "--fact-figure",
        "facts",
        type=(str, click.Path(path_type=Path)),
        multiple=True,
        metavar="RECORD FILE",
        callback=lambda _context, _parameter, pairs: tuple(FactFigure(*pair) for pair in pairs),
        help="Traces: draw the trace of the record to forget with this id, as .svg or .png. "
        "The picture shows the prompt: as personal as the forget set. The record is traced "
        "whatever max_records and --max-seconds say; may be given more than once.",
    )(command)


def check(
    facts: Sequence[FactFigure],
    records: ForgetSet,
    others: Collection[Path | None],
    *,
    force: bool,
    ours: Callable[[Path], bool],
) -> None:
    """Refuses, before any work, records that there are not and files that may not be written.

    Args:
        facts: what was asked for.
        records: the forget set.
        others: files that the command writes too.
        force: whether to replace whatever is there.
        ours: whether a file that exists is a figure of ours.

    Raises:
        InputError: says which.
    """
    if not facts:
        return
    from unlearn.locate.tracing_facts import pick
    from unlearn.report.trace_figure import check_figure_path

    pick(records, [fact.record_id for fact in facts])
    taken = {path.resolve() for path in others if path is not None}
    for _, path in facts:
        check_figure_path(path)
        if path.resolve() in taken:
            raise InputError(f"{path} would be written twice; give every file a name of its own")
        taken.add(path.resolve())
        outputs.check_file(path, force=force, ours=ours)


def draw(
    facts: Sequence[FactFigure],
    trace: Trace,
    model: LanguageModel,
    records: ForgetSet,
    *,
    force: bool,
    ours: Callable[[Path], bool],
) -> None:
    """Draws all that can be drawn.

    Raises:
        InputError: afterwards, of the records that could not be traced.
    """
    if not facts:
        return
    from unlearn.locate.tracing_facts import pick, token_texts
    from unlearn.report.fact_figure import draw_fact

    problems: dict[str, None] = {}
    for record_id, path in facts:
        (record,) = pick(records, [record_id])
        try:
            with outputs.file(path, force=force, ours=ours) as made:
                draw_fact(trace, record_id, token_texts(model, record), made)
        except InputError as error:
            problems[str(error)] = None
    if problems:
        raise InputError(f"{'; '.join(problems)}. All other files are written")
