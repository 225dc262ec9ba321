"""Interval bars as inline SVG: no script, no outside file, the same bytes for the same figures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

from markupsafe import Markup

from unlearn.report import wording
from unlearn.types import Estimate, Finding, Role

WIDTH, LANE, MARGIN, FOOT = 320, 17, 16, 18
RADIUS = 4.6
NEGLIGIBLE, HUGE = 1e-9, 1e300
"""Less than the first beyond 0 to 1 still fits that axis; more than the second fits none."""
LOG_FROM = 100.0
"""An axis whose ends are further apart than this factor is drawn in powers of ten."""


class Axis(NamedTuple):
    """The scale of one figure."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value stands, 0 to 1; values beyond an end stand at that end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def x(self, value: float) -> float:
        """Where a value stands in a drawing of the whole width, in SVG units."""
        return round(MARGIN + self.share(value) * (WIDTH - 2 * MARGIN), 2)


UNIT_AXIS = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def axes(findings: Sequence[Finding]) -> list[Axis]:
    """One axis per finding, the same for all that stand together and show one metric.

    It goes from 0 to 1 where all of their values fit, so that most rows of a report are on one
    scale.
    """
    shared: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for finding in findings:
        shared[_kind(finding)] += _numbers(finding)
    scales = {kind: axis(values) for kind, values in shared.items()}
    return [scales[_kind(finding)] for finding in findings]


def _kind(finding: Finding) -> tuple[str, str, str]:
    return finding.property, finding.metric, finding.unit


def axis(values: Iterable[float]) -> Axis:
    """The axis that holds all finite values, with round ticks."""
    finite = [value for value in values if abs(value) < HUGE]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low >= -NEGLIGIBLE and high <= 1 + NEGLIGIBLE:
        return UNIT_AXIS
    if low > 1 / HUGE and high / low > LOG_FROM:
        return _log_axis(low, high)
    return linear_axis(min(low, 0.0), max(high, 0.0))


def linear_axis(low: float, high: float) -> Axis:
    """The axis from ``low`` or a little less to ``high`` or a little more, with round ticks."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for f in (1, 2, 2.5, 5, 10) if (step := f * power) >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(place * step, 12) for place in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _log_axis(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 4))
    ticks = tuple(10.0**place for place in range(first, last + 1, every))
    return Axis(10.0**first, 10.0**last, ticks, log=True)


def _numbers(finding: Finding) -> list[float]:
    found = (x for one in finding.models.values() for x in (one.low, one.value, one.high))
    return [x for x in found if math.isfinite(x)]


def interval_bars(finding: Finding, axis: Axis, name: str) -> Markup:
    """Three bars, one a model, with the reference's interval as a band behind them.

    Args:
        finding: what to draw; models that were not measured get an empty lane that says so.
        axis: the scale.
        name: makes the ids inside this drawing unique in its page.
    """
    height = LANE * len(wording.ROLES) + FOOT
    svg = ET.Element("svg", frame(height, name, "bars"))
    ET.SubElement(svg, "title", id=f"{name}-title").text = wording.visible(finding.title)
    ET.SubElement(svg, "desc", id=f"{name}-desc").text = _describe(finding)
    _draw_axis(svg, axis, height - FOOT)
    reference = finding.models.get("reference")
    if reference is not None and _bounded(reference):
        _draw_band(svg, axis, reference, height - FOOT)
    for lane, role in enumerate(wording.ROLES):
        y = LANE * (lane + 0.5)
        estimate = finding.models.get(role)
        if estimate is None or not math.isfinite(estimate.value):
            words = wording.NOT_MEASURED if estimate is None else wording.NOT_COMPUTED
            label(svg, MARGIN + 6, y + 3.5, words, "absent", "start")
        else:
            _draw_bar(svg, axis, estimate, role, y)
    return Markup(ET.tostring(svg, encoding="unicode"))


def marker(role: Role) -> Markup:
    """A role's mark alone, for headings and legends; words beside it say the rest."""
    svg = ET.Element("svg", {"viewBox": "-7 -7 14 14", "class": "mark", "aria-hidden": "true"})
    draw_marker(svg, role, 0, 0)
    return Markup(ET.tostring(svg, encoding="unicode"))


def frame(height: int, name: str, kind: str) -> dict[str, str]:
    """The attributes of a drawing that names itself by its title and its description."""
    return {
        "viewBox": f"0 0 {WIDTH} {height}",
        "class": kind,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }


def _describe(finding: Finding) -> str:
    def words(role: Role) -> str:
        estimate = finding.models.get(role)
        if estimate is None:
            return wording.NOT_MEASURED
        return f"{wording.number(estimate.value)}, {wording.interval(estimate)}"

    parts = (f"{label[0]}: {words(role)}" for role, label in wording.ROLES.items())
    return wording.visible("; ".join(parts) + f". {finding.more_knowledge} = knows more.")


def _draw_axis(svg: ET.Element, axis: Axis, bottom: int) -> None:
    for tick in axis.ticks:
        x = axis.x(tick)
        line(svg, "grid", x, 0, x, bottom)
        label(svg, x, bottom + 12, tick_words(tick), "tick", "middle")


def tick_words(value: float) -> str:
    """A tick's number."""
    return f"{value:,g}".replace("-", "−") if abs(value) < 1e6 else wording.number(value)


def _draw_band(svg: ET.Element, axis: Axis, reference: Estimate, bottom: int) -> None:
    left, right = axis.x(reference.low), axis.x(reference.high)
    place = {
        "x": f"{left:g}",
        "y": "0",
        "width": f"{max(right - left, 1):g}",
        "height": f"{bottom}",
    }
    ET.SubElement(svg, "rect", {"class": "band", **place})


def _draw_bar(svg: ET.Element, axis: Axis, estimate: Estimate, role: Role, y: float) -> None:
    group = ET.SubElement(svg, "g", {"class": role})
    if _bounded(estimate):
        left, right = axis.x(estimate.low), axis.x(estimate.high)
        line(group, "bar", left, y, right, y)
        for end in (left, right):
            line(group, "cap", end, y - 3.5, end, y + 3.5)
    draw_marker(group, role, axis.x(estimate.value), y)


def draw_marker(parent: ET.Element, role: Role, x: float, y: float, r: float = RADIUS) -> None:
    """A role's mark: a circle, a diamond or a square, so that colour is not all there is."""
    if role == "original":
        place = {"cx": f"{x:g}", "cy": f"{y:g}", "r": f"{r:g}"}
        ET.SubElement(parent, "circle", {"class": f"dot {role}", **place})
        return
    corners = {
        "unlearned": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "reference": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    }[role]
    points = " ".join(f"{x + r * dx:g},{y + r * dy:g}" for dx, dy in corners)
    ET.SubElement(parent, "polygon", {"class": f"dot {role}", "points": points})


def line(parent: ET.Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    """A straight line of a CSS class."""
    ends = {"x1": f"{x1:g}", "y1": f"{y1:g}", "x2": f"{x2:g}", "y2": f"{y2:g}"}
    ET.SubElement(parent, "line", {"class": kind, **ends})


def label(parent: ET.Element, x: float, y: float, words: str, kind: str, anchor: str) -> None:
    """Words of a CSS class, anchored at their start, middle or end."""
    place = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}
    ET.SubElement(parent, "text", {"class": kind, **place}).text = words


def _bounded(estimate: Estimate) -> bool:
    return math.isfinite(estimate.low) and math.isfinite(estimate.high)
