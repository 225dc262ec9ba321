"""The averaged causal trace as a picture: roles of tokens down, layers across. SVG or PNG.

It names roles and never tokens, so it may be shown where the records may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn import __version__
from unlearn.errors import InputError
from unlearn.locate.averages import Averages, average
from unlearn.locate.trace import ROLES, SUBJECT_ROLES, Kind, Role, Trace
from unlearn.report.trace_wording import ROLES as ROLE_WORDS
from unlearn.report.trace_wording import SCORES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
TITLES: dict[Kind, str] = {
    "hidden": "state after one block",
    "mlp": "MLPs",
    "attention": "attention",
}
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#6b4e9b")
MAX_PIXELS = 30_000
"""Along one side of a PNG; what is longer is drawn at fewer dots an inch."""
MAPS: dict[Kind, str] = {"hidden": "Purples", "mlp": "Greens", "attention": "Reds"}


def check_figure_path(path: Path) -> None:
    """Refuses a name whose ending is no format that can be drawn.

    Raises:
        InputError: the ending is neither .svg nor .png.
    """
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise InputError(f"{path} should end in .svg or .png: that chooses the figure's format")


def draw_trace(trace: Trace, path: Path) -> None:
    """Writes the figure; the ending of ``path`` chooses the format.

    Above, heat maps of average indirect effects. Below, the same for the subject's tokens and the
    last one as curves with 95 % intervals over groups of facts, and what is left of the decisive
    token's effect when MLPs or attention are severed there.
    """
    from matplotlib.figure import Figure

    check_figure_path(path)
    found = average(trace)
    kinds = list(found.by_role)
    with style():
        figure = Figure(figsize=(3.2 * len(kinds) + 1.8, 6.4), layout="constrained")
        axes: Any = figure.subplots(2, len(kinds), squeeze=False, sharey="row", sharex=True)
        for column, kind in enumerate(kinds):
            _heat_map(figure, axes[0][column], found, kind, trace)
            _curves(axes[1][column], found, kind)
        _severed(axes[1][0], found)
        axes[1][0].set_ylabel("effect, with its 95 % interval")
        _bound(axes[1][0], found)
        lines, names = axes[1][0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(_title(trace, found))
        save(figure, path)


def style(**more: Any) -> AbstractContextManager[None]:
    """What every figure of a trace is drawn and saved in; matplotlib's own settings stay."""
    from matplotlib import rc_context

    # Fixed ids and words as words: with no date either, the same trace gives the same file.
    fixed: Any = {"svg.hashsalt": "unlearn", "svg.fonttype": "none", "font.size": 8}
    context: AbstractContextManager[None] = rc_context(fixed | more)
    return context


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in the format of the path's ending, with no date in it."""
    creator = f"unlearn {__version__}"
    svg = path.suffix.lower() == ".svg"
    metadata = {"Creator": creator, "Date": None} if svg else {"Software": creator}
    dpi = min(150, MAX_PIXELS / max(figure.get_size_inches()))
    figure.savefig(path, metadata=metadata, dpi=dpi)


def panel_title(trace: Trace, kind: Kind) -> str:
    """What a panel restores, and in how wide windows."""
    width = max(last - first + 1 for first, last in trace.windows[kind])
    return TITLES[kind] if kind == "hidden" else f"{TITLES[kind]}, windows of {width}"


def corrupted_by(trace: Trace) -> str:
    """What the corruption puts in the subject's place."""
    return "another subject's tokens" if trace.corruption == "replace" else "noise on the subject"


def effect_words(trace: Trace, kind: str = "") -> str:
    """What the figure shows, estimates called so."""
    screen = "estimated " if trace.method == "attribution" else ""
    words = f"{screen}{kind} indirect effect" if kind else f"{screen}indirect effect"
    return words[0].upper() + words[1:]


def _title(trace: Trace, found: Averages) -> str:
    score = SCORES[trace.score]
    n, m = found.total.n, found.total.clusters
    facts = f"{n} {'fact' if n == 1 else 'facts'}"
    groups = f" in {m} groups" if 1 < m < n else ""
    how = corrupted_by(trace)
    return f"{effect_words(trace, 'average')} on the {score}, {facts}{groups}, corrupted by {how}"


def _heat_map(figure: Figure, axis: Any, found: Averages, kind: Kind, trace: Trace) -> None:
    curves = found.by_role[kind]
    roles: Sequence[Role] = [role for role in ROLES if role in curves]
    # Restoring may also harm a little; a colour for that would drown what the map is for.
    table = np.clip([curves[role].mean for role in roles], 0, None)
    image = axis.imshow(table, aspect="auto", cmap=MAPS[kind], vmin=0)
    axis.set_yticks(range(len(roles)), [ROLE_WORDS[role] for role in roles])
    axis.set_title(panel_title(trace, kind))
    figure.colorbar(image, ax=axis, location="bottom", label="effect (below 0 drawn as 0)")


def _curves(axis: Any, found: Averages, kind: Kind) -> None:
    shown = [role for role in (*SUBJECT_ROLES, "last") if role in found.by_role[kind]]
    for role, colour in zip(shown, COLOURS, strict=False):
        curve = found.by_role[kind][role]
        layers = range(len(curve.mean))
        axis.plot(layers, curve.mean, color=colour, label=ROLE_WORDS[role])
        if curve.clusters > 1:
            axis.fill_between(layers, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    axis.axhline(0, color="#888888", linewidth=0.5)
    axis.set_xlabel("layer")
    axis.xaxis.get_major_locator().set_params(integer=True)


def _severed(axis: Any, found: Averages) -> None:
    role = found.decisive
    for (part, curves), style in zip(found.severed.items(), ("--", ":"), strict=False):
        curve = curves[role]
        words = f"{ROLE_WORDS[role]}, without later {TITLES[part]}"
        axis.plot(range(len(curve.mean)), curve.mean, style, color="#444444", label=words)


def _bound(axis: Any, found: Averages) -> None:
    """Keeps the means in sight where an interval over two or three subjects is very wide."""
    means = [curve.mean for curves in found.by_role.values() for curve in curves.values()]
    low, high = min(0.0, float(np.min(means))), max(0.0, float(np.max(means)))
    room = 0.4 * (high - low) or 1.0
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(bottom, low - room), min(top, high + room))
