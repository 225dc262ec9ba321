"""Where a change was allowed to act, as a heat map of the locator's scores in inline SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree as ET

from markupsafe import Markup

from unlearn.report import wording
from unlearn.report.figures import WIDTH, frame, label
from unlearn.types import SiteMap

NAMES, TOP, ROW, FOOT = 92, 4, 14, 26
"""Space for the names of modules; the height of a row; the space for the axis below."""
MOST_MODULES = 4096
"""More cells than this make a heavy page, and none of them can be seen."""
_LAYER = re.compile(r"\.(\d+)\.")


class Grid(NamedTuple):
    """Scores by kind of module and block."""

    kinds: tuple[str, ...]
    layers: int
    scores: Mapping[tuple[str, int], float]
    chosen: frozenset[tuple[str, int]]


def site_map(sites: SiteMap | None) -> Markup:
    """Kinds of modules down, blocks across: the darker the higher the score, chosen ones framed.

    Empty where nothing was scored, or no module lies in a numbered block.
    """
    grid = grid_of(sites) if sites is not None else None
    if grid is None:
        return Markup("")
    svg = ET.Element("svg", frame(TOP + ROW * len(grid.kinds) + FOOT, "sites", "curves sites"))
    title = f"Scores of {sites.method} by module and block" if sites else ""
    ET.SubElement(svg, "title", id="sites-title").text = wording.visible(title)
    ET.SubElement(svg, "desc", id="sites-desc").text = wording.visible(described(grid))
    width = (WIDTH - NAMES) / grid.layers
    highest = max(grid.scores.values(), default=0.0)
    for row, kind in enumerate(grid.kinds):
        y = TOP + row * ROW
        label(svg, NAMES - 6, y + ROW - 4, kind, "name", "end")
        for layer in range(grid.layers):
            if (kind, layer) in grid.scores:
                share = grid.scores[kind, layer] / highest if highest > 0 else 0.0
                _cell(svg, NAMES + layer * width, y, width, share, (kind, layer) in grid.chosen)
    bottom = TOP + ROW * len(grid.kinds) + 12
    for layer in _marked(grid.layers):
        label(svg, NAMES + (layer + 0.5) * width, bottom, str(layer), "tick", "middle")
    label(svg, NAMES + (WIDTH - NAMES) / 2, bottom + 11, "block", "axis", "middle")
    return Markup(ET.tostring(svg, encoding="unicode"))


def grid_of(sites: SiteMap) -> Grid | None:
    """The scored modules in order; ``None`` where there are none to draw."""
    scores: dict[tuple[str, int], float] = {}
    chosen = set()
    for name, score in sites.scores.items():
        found = _LAYER.search(f"{name}.")
        if found is None:
            continue
        place = (name[found.end() :] or name[: found.start()], int(found[1]))
        scores[place] = max(score, 0.0)
        if name in (sites.modules or ()) or place[1] in (sites.layers or ()):
            chosen.add(place)
    if not scores or len(scores) > MOST_MODULES:
        return None
    kinds = tuple(dict.fromkeys(kind for kind, _ in scores))
    layers = 1 + max(layer for _, layer in scores)
    return Grid(kinds, layers, scores, frozenset(chosen))


def described(grid: Grid) -> str:
    """The highest scores and what was chosen, in words."""
    best = sorted(grid.scores.items(), key=lambda item: -item[1])[:5]
    said = ", ".join(f"{kind} of block {b}: {wording.number(s)}" for (kind, b), s in best)
    blocks = sorted({layer for _, layer in grid.chosen})
    where = f"in blocks {', '.join(map(str, blocks))}" if blocks else "none"
    chosen = wording.count(len(grid.chosen), "module")
    return f"highest: {said}; chosen: {chosen} of {len(grid.scores)}, {where}"


def _cell(svg: ET.Element, x: float, y: float, width: float, share: float, chosen: bool) -> None:
    attributes = {
        "x": f"{x + 0.5:.2f}",
        "y": f"{y + 0.5:.2f}",
        "width": f"{max(width - 1, 0.5):.2f}",
        "height": f"{ROW - 1}",
        "class": "cell chosen" if chosen else "cell",
        # Never quite nothing, so that a module that was looked at can be told from a gap.
        "fill-opacity": f"{0.06 + 0.9 * share:.3f}",
    }
    ET.SubElement(svg, "rect", attributes)


def _marked(layers: int) -> range:
    """The blocks whose numbers are written."""
    return range(0, layers, max(1, -(-layers // 12)))
