"""What a contest came to, drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np

from unlearn.bench.contest import EVERYWHERE, Outcome
from unlearn.bench.standings import KEPT, Group, groups
from unlearn.types import Role

RELEARNED = "relearned_answers/forget"
MARKS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":")


def standings(outcomes: Sequence[Outcome]) -> str:
    """An SVG: equivalence to the reference against neighbouring answers lost; top left is best."""
    with _drawing("neighbouring answers lost (points)", "retrain equivalence R") as (axes, out):
        for group, look in _looks(outcomes):
            points = [
                (_lost(o), o.equivalence) for o in group.outcomes if o.equivalence is not None
            ]
            if points:
                lost, held = zip(*points, strict=True)
                axes.plot(lost, held, **look | {"linestyle": ""}, label=_label(group))
        axes.axhline(0.8, linestyle=":", color="0.5")
        axes.axvline(1.0, linestyle=":", color="0.5")
    return out.getvalue()


def relearning(outcomes: Sequence[Outcome]) -> str:
    """An SVG: answers that come back while other facts are learned again, by training steps.

    Over seeds: the mean. Original and reference in grey, as the first outcome has them.
    """
    with _drawing("training steps on other facts", "answers right again") as (axes, out):
        for group, look in _looks(outcomes):
            curves = [c for o in group.outcomes if (c := _curve(o, "unlearned"))]
            if curves:
                steps, mean = np.mean(curves, axis=0).T
                axes.plot(steps, mean, **look, label=_label(group))
        first = next((o for o in outcomes if _curve(o, "reference")), None)
        styles: Mapping[Role, str] = {"original": "--", "reference": ":"}
        for role, style in styles.items():
            if first is not None and (curve := _curve(first, role)):
                axes.plot(*zip(*curve, strict=True), style, color="0.4", label=role)
        axes.set_ylim(-0.03, 1.03)
    return out.getvalue()


@contextmanager
def _drawing(x: str, y: str) -> Iterator[tuple[Any, StringIO]]:
    """Axes to draw on, and where the SVG goes after the block: the same bytes every time."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out = StringIO()
    with mpl.rc_context({"svg.hashsalt": "unlearn", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        yield axes, out
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(out, format="svg", metadata={"Date": None})


def _looks(outcomes: Sequence[Outcome]) -> Iterator[tuple[Group, dict[str, Any]]]:
    """Each group with a colour by its strategy, and mark and line by its sites."""
    found = groups(outcomes)
    names = list(dict.fromkeys(group.name for group in found))
    sites = list(dict.fromkeys(group.sites for group in found))
    for group in found:
        at = sites.index(group.sites)
        yield (
            group,
            {
                "color": f"C{names.index(group.name) % 10}",
                "marker": MARKS[at % len(MARKS)],
                "linestyle": LINES[at % len(LINES)],
                "markersize": 5,
                "alpha": 0.8,
            },
        )


def _label(group: Group) -> str:
    return group.name if group.sites == EVERYWHERE else f"{group.name} ({group.sites})"


def _curve(outcome: Outcome, role: Role) -> Sequence[tuple[float, float]]:
    return outcome.curves.get(RELEARNED, {}).get(role, ())


def _lost(outcome: Outcome) -> float:
    before, after = (
        outcome.figures.get(KEPT["neighbors"], {}).get(role) for role in ("original", "unlearned")
    )
    return 0.0 if before is None or after is None else 100 * (before - after)
