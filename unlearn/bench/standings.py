"""What a contest came to, as a table and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from unlearn.bench.contest import EVERYWHERE, Outcome
from unlearn.bench.equivalence import FIGURES

HEAD = (
    "strategy",
    "sites",
    "n",
    "R",
    "by",
    *FIGURES.values(),
    "retain",
    "neighbors",
    "seconds",
    "MiB",
    "tokens",
)

KEPT = ("answers/retain", "answers/neighbors")


class Group(NamedTuple):
    """The outcomes of one way to forget on one choice of sites, over its seeds."""

    name: str
    sites: str
    outcomes: tuple[Outcome, ...]


def groups(outcomes: Iterable[Outcome]) -> list[Group]:
    """Seeds together, in order of appearance."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((str(outcome.entry), outcome.entry.sites), []).append(outcome)
    return [Group(*key, tuple(of_key)) for key, of_key in found.items()]


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table: original and reference first, then a row for each strategy and sites.

    Over seeds: the mean, and of R the lowest too. Knowledge figures are shares of the forget
    records, as the auditor gives them; retain and neighbors are points of answers lost or gained
    against the original.
    """
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    measured = [outcome for outcome in outcomes if outcome.figures]
    for role in ("original", "reference") if measured else ():
        figures = [_number(_of(measured[0], key, role)) for key in FIGURES]
        lines.append(f"| *{role}* | | | | | {' | '.join(figures)} | | | | | |")
    lines += [_row(group) for group in groups(outcomes)]
    notes = list(_refusals(outcomes))
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _row(group: Group) -> str:
    done = [outcome for outcome in group.outcomes if outcome.figures]
    if not done:
        return f"| {group.name} | {group.sites} | 0 | refused |" + " |" * (len(HEAD) - 4)
    values = [o.equivalence for o in done if o.equivalence is not None]
    lowest = f" ({min(values):.2f})" if len(values) > 1 else ""
    worst = min(done, key=lambda o: np.inf if o.equivalence is None else o.equivalence).worst
    cells = [
        group.name,
        group.sites,
        str(len(done)),
        f"{np.mean(values):.2f}{lowest}" if values else "–",
        FIGURES.get(worst, "–"),
        *(_number(_mean(done, key, "unlearned")) for key in FIGURES),
        *(_points(done, key) for key in KEPT),
        f"{np.mean([o.seconds for o in done]):.0f}",
        f"{np.mean([o.peak_mib for o in done]):.0f}",
        f"{np.mean([o.tokens for o in done]):,.0f}".replace(",", " "),
    ]
    return f"| {' | '.join(cells)} |"


def _refusals(outcomes: Iterable[Outcome]) -> Iterator[str]:
    said = dict.fromkeys((str(o.entry), o.entry.sites, o.refused) for o in outcomes if o.refused)
    for name, sites, why in said:
        where = "" if sites == EVERYWHERE else f" on {sites}"
        yield f"- {name}{where}: {why}"


def _of(outcome: Outcome, key: str, role: str) -> float | None:
    return outcome.figures.get(key, {}).get(role)


def _mean(outcomes: Iterable[Outcome], key: str, role: str) -> float | None:
    found = [value for o in outcomes if (value := _of(o, key, role)) is not None]
    return float(np.mean(found)) if found else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _points(outcomes: Sequence[Outcome], key: str) -> str:
    before, after = _mean(outcomes, key, "original"), _mean(outcomes, key, "unlearned")
    return "–" if before is None or after is None else f"{100 * (after - before):+.1f}"


def picture(outcomes: Sequence[Outcome]) -> str:
    """An SVG: equivalence to the reference against neighbouring answers lost; top left is best."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    marks = "osD^vP*X<>hp"
    drawn = [g for g in groups(outcomes) if any(o.equivalence is not None for o in g.outcomes)]
    with mpl.rc_context({"svg.hashsalt": "unlearn", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for number, group in enumerate(drawn):
            points = [
                (_lost(o), o.equivalence) for o in group.outcomes if o.equivalence is not None
            ]
            lost, held = zip(*points, strict=True)
            label = group.name if group.sites == EVERYWHERE else f"{group.name} ({group.sites})"
            mark = marks[number % len(marks)]
            axes.plot(lost, held, mark, label=label, markersize=7, markeredgecolor="white")
        axes.axhline(0.8, linestyle=":", color="0.5")
        axes.axvline(1.0, linestyle=":", color="0.5")
        axes.set_xlabel("neighbouring answers lost (points)")
        axes.set_ylabel("retrain equivalence R (worst figure)")
        if drawn:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return _svg(figure)


def _lost(outcome: Outcome) -> float:
    before, after = (_of(outcome, KEPT[1], role) for role in ("original", "unlearned"))
    return 0.0 if before is None or after is None else 100 * (before - after)


def _svg(figure: object) -> str:
    from io import StringIO

    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    return out.getvalue()
