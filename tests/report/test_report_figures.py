import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.report.figures import MARGIN, UNIT_AXIS, WIDTH, axes, axis, interval_bars
from unlearn.types import Estimate


def test_shares_are_drawn_from_zero_to_one():
    assert axis([0.2, 0.4]) == UNIT_AXIS
    assert axis([]) == UNIT_AXIS


def test_a_linear_axis_starts_at_zero_and_has_round_ticks():
    scale = axis([3.05, 8.05])
    assert scale.ticks == (0.0, 2.5, 5.0, 7.5, 10.0)
    assert not scale.log
    assert axis([-0.27, 0.09]).ticks == (-0.3, -0.2, -0.1, 0.0, 0.1)


def test_a_wide_axis_is_drawn_in_powers_of_ten():
    scale = axis([1.08, 1240.0])
    assert scale.log
    assert scale.ticks == (1.0, 10.0, 100.0, 1000.0, 10000.0)
    assert scale.x(100.0) == pytest.approx(WIDTH / 2)


@given(st.lists(st.floats(), max_size=9))
def test_every_finite_value_stands_on_its_axis(values):
    scale = axis(values)
    assert scale.low < scale.high
    assert 2 <= len(scale.ticks) <= 7
    for value in values:
        if math.isfinite(value):
            assert MARGIN <= scale.x(value) <= WIDTH - MARGIN


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_order_on_the_axis_is_the_order_of_the_values(values):
    scale = axis(values)
    places = [scale.x(value) for value in sorted(values)]
    assert places == sorted(places)
    slack = 1e-9 * (scale.high - scale.low) + 1e-9
    assert scale.low - slack <= min(values) <= max(values) <= scale.high + slack


def test_findings_of_one_metric_that_stand_together_share_an_axis(result):
    found = dict(zip((f.key for f in result.findings), axes(result.findings), strict=True))
    assert found["perplexity/retain"] == found["perplexity/neighbors"]
    assert found["perplexity/forget"].log
    assert found["extraction_strength/forget"] == found["leak_at_32/forget"] == UNIT_AXIS


def test_a_chart_is_the_same_bytes_every_time_and_marks_three_shapes(result):
    finding = result.findings[0]
    drawn = interval_bars(finding, UNIT_AXIS, "f")
    assert drawn == interval_bars(finding, UNIT_AXIS, "f")
    svg = ET.fromstring(drawn)
    shapes = [(e.tag, len(e.get("points", "").split())) for e in svg.iter() if "dot" in _of(e)]
    assert shapes == [("circle", 0), ("polygon", 4), ("polygon", 4)]
    assert len({e.get("points") for e in svg.iter("polygon")}) == 2


def test_a_bar_goes_from_low_to_high_and_the_band_is_the_reference(result):
    finding = result.findings[3]
    svg = ET.fromstring(interval_bars(finding, UNIT_AXIS, "f"))
    (bar,) = svg.findall("./g[@class='unlearned']/line[@class='bar']")
    estimate = finding.models["unlearned"]
    assert float(bar.get("x1")) == pytest.approx(UNIT_AXIS.x(estimate.low), abs=0.01)
    assert float(bar.get("x2")) == pytest.approx(UNIT_AXIS.x(estimate.high), abs=0.01)
    (band,) = svg.findall("./rect[@class='band']")
    reference = finding.models["reference"]
    assert float(band.get("x")) == pytest.approx(UNIT_AXIS.x(reference.low), abs=0.01)


def test_an_empty_lane_says_why(result):
    broken = Estimate(value=math.nan, low=math.nan, high=math.nan, n=1, clusters=1)
    finding = result.findings[0].model_copy(update={"models": {"unlearned": broken}})
    words = [e.text for e in ET.fromstring(interval_bars(finding, UNIT_AXIS, "f")).iter("text")]
    assert words[-3:] == ["not measured", "could not be computed", "not measured"]


def test_a_figure_without_interval_keeps_its_mark(result):
    alone = Estimate(value=0.5, low=-math.inf, high=math.inf, n=1, clusters=1)
    finding = result.findings[0].model_copy(update={"models": {"reference": alone}})
    svg = ET.fromstring(interval_bars(finding, UNIT_AXIS, "f"))
    assert svg.findall(".//polygon")
    assert not svg.findall(".//line[@class='bar']")
    assert not svg.findall("./rect")


def test_a_hostile_title_stays_text(result):
    finding = result.findings[0].model_copy(update={"title": "</svg><script>\x1b&"})
    drawn = interval_bars(finding, UNIT_AXIS, "f")
    assert "<script" not in drawn
    assert ET.fromstring(drawn).find("title").text == "</svg><script>⟨U+001B⟩&"


def _of(element):
    return (element.get("class") or "").split()
