"""Figures along layers, steps or samples as small inline SVG: three lines, named at their ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

from markupsafe import Markup

from unlearn.report import wording
from unlearn.report.figures import (
    WIDTH,
    Axis,
    axis,
    draw_marker,
    frame,
    label,
    line,
    linear_axis,
    tick_words,
)
from unlearn.types import Finding, Role, StrengthPoint

TOP, LEFT, RIGHT, HEIGHT, FOOT = 8, 34, 64, 96, 30
"""The panel's margins and its height; names stand to the right of it, the axis below."""
LOGARITHMIC = ("samples",)
"""What doubles from point to point, so that equal distances stand for equal factors."""
NAME_GAP = 11
TICK_GAP = 26
"""The least distance of two names, and of two numbers on the axis."""
MARKED = 16
"""A line of more points than this carries a mark at its end only."""
DOT = 3.0

Point = tuple[float, float]


class Panel(NamedTuple):
    """Where a point of a curve stands in its drawing."""

    xs: tuple[float, ...]
    """What is marked of what the curves run along, in order; the ends are those of the panel."""
    log: bool
    y_axis: Axis

    def x(self, value: float) -> float:
        """From the left, in SVG units."""
        low, high = (self._place(end) for end in (self.xs[0], self.xs[-1]))
        share = (self._place(value) - low) / (high - low) if high > low else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        """From the top, in SVG units."""
        return round(TOP + (1 - self.y_axis.share(value)) * HEIGHT, 2)

    def _place(self, value: float) -> float:
        return math.log2(value) if self.log else value


def curves(finding: Finding, name: str) -> Markup:
    """The finding's curves in one panel; empty where it has none that can be drawn.

    Each model has its own mark and its own dashes, and its name at the end of its line, so that
    colour is not all there is. ``samples`` run along an axis of factors of two.

    Args:
        finding: what to draw.
        name: makes the ids inside this drawing unique in its page.
    """
    lines = drawable(finding.curves)
    if not lines:
        return Markup("")
    xs = tuple(sorted({x for points in lines.values() for x, _ in points}))
    log = finding.axis in LOGARITHMIC and xs[0] > 0
    return _drawn(finding.title, finding.axis, lines, _panel(xs, log, lines), name)


def strength_curve(points: Sequence[StrengthPoint]) -> Markup:
    """What each multiple of a change forgets against what it costs; empty without two of them."""
    course = [(point.retain_nll, point.still_known) for point in points]
    lines = drawable({"unlearned": course})
    most = max((x for points in lines.values() for x, _ in points), default=0.0)
    if len(course) < 2 or not most:
        return Markup("")
    # Measured, unlike layers and steps: the axis has round numbers of its own.
    panel = _panel(linear_axis(0.0, most).ticks, False, lines)
    return _drawn("Share still known", wording.RETAIN_NLL, lines, panel, "strengths")


def _drawn(
    title: str, along: str, lines: Mapping[Role, Sequence[Point]], panel: Panel, name: str
) -> Markup:
    svg = ET.Element("svg", frame(TOP + HEIGHT + FOOT, name, "curves"))
    title = f"{title}, by {along}"
    ET.SubElement(svg, "title", id=f"{name}-title").text = wording.visible(title)
    ET.SubElement(svg, "desc", id=f"{name}-desc").text = wording.visible(described(lines))
    _draw_axes(svg, panel, along)
    ends = {role: panel.y(points[-1][1]) for role, points in lines.items()}
    names = dict(zip(ends, _spread(list(ends.values())), strict=True))
    for role, points in lines.items():
        _draw_curve(svg, panel, role, points, names[role])
    return Markup(ET.tostring(svg, encoding="unicode"))


def drawable(
    by_role: Mapping[Role, Sequence[Point]],
) -> dict[Role, tuple[Point, ...]]:
    """The curves in the order of the models, without points that are no numbers."""
    found = {
        role: tuple(p for p in by_role.get(role, ()) if all(map(math.isfinite, p)))
        for role in wording.ROLES
    }
    return {role: points for role, points in found.items() if points}


def described(lines: Mapping[Role, Sequence[Point]]) -> str:
    """Every point in words, for whoever does not see the drawing."""
    return "; ".join(
        f"{wording.ROLES[role][0]}: "
        + ", ".join(f"{wording.number(x)}: {wording.number(y)}" for x, y in points)
        for role, points in lines.items()
    )


def _panel(xs: tuple[float, ...], log: bool, lines: Mapping[Role, Sequence[Point]]) -> Panel:
    return Panel(xs, log, axis(y for points in lines.values() for _, y in points))


def _draw_axes(svg: ET.Element, panel: Panel, along: str) -> None:
    right, bottom = WIDTH - RIGHT, TOP + HEIGHT
    for tick in panel.y_axis.ticks[:: 2 if len(panel.y_axis.ticks) > 4 else 1]:
        y = panel.y(tick)
        line(svg, "grid", LEFT, y, right, y)
        label(svg, LEFT - 6, y + 3.3, tick_words(tick), "tick", "end")
    last = -math.inf
    for x_value in panel.xs:
        x = panel.x(x_value)
        line(svg, "grid", x, bottom, x, bottom + 3)
        if x - last >= TICK_GAP:
            label(svg, x, bottom + 13, tick_words(x_value), "tick", "middle")
            last = x
    label(svg, (LEFT + right) / 2, bottom + 26, wording.visible(along), "along", "middle")


def _draw_curve(
    svg: ET.Element, panel: Panel, role: Role, points: Sequence[Point], name_y: float
) -> None:
    group = ET.SubElement(svg, "g", {"class": role})
    places = [(panel.x(x), panel.y(y)) for x, y in points]
    path = " ".join(f"{x:g},{y:g}" for x, y in places)
    ET.SubElement(group, "polyline", {"class": "course", "points": path})
    for x, y in places if len(places) <= MARKED else places[-1:]:
        draw_marker(group, role, x, y, DOT)
    label(group, WIDTH - RIGHT + 8, name_y + 3.3, wording.ROLES[role][0], "who", "start")


def _spread(places: Sequence[float]) -> list[float]:
    """The places in their own order, moved apart until no two names overlap."""
    order = sorted(range(len(places)), key=lambda place: places[place])
    moved: list[float] = []
    for place in order:
        moved.append(max(places[place], moved[-1] + NAME_GAP if moved else -math.inf))
    bottom = float(TOP + HEIGHT)
    for place in reversed(range(len(moved))):
        moved[place] = min(moved[place], bottom)
        bottom = moved[place] - NAME_GAP
    back = dict(zip(order, moved, strict=True))
    return [round(back[place], 2) for place in range(len(places))]
