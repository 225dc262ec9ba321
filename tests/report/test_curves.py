"""Curves: every point at its place, names that do not overlap, and words for who sees nothing."""

import itertools
import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unlearn.report
from unlearn.report.curves import HEIGHT, LEFT, NAME_GAP, RIGHT, TOP, curves
from unlearn.report.figures import WIDTH
from unlearn.types import Finding


def drawn(finding, **fields):
    return ET.fromstring(str(curves(finding.model_copy(update=fields), "c")))


def course(svg, role):
    (group,) = (g for g in svg.iter("g") if g.get("class") == role)
    points = group.find("polyline").get("points").split()
    return [tuple(map(float, point.split(","))) for point in points]


@pytest.fixture
def finding(deep):
    return deep.findings[1]


def test_a_point_stands_where_its_numbers_say(finding):
    svg = drawn(finding, curves={"unlearned": ((0.0, 0.0), (2.0, 0.5), (8.0, 1.0))})
    right, bottom = WIDTH - RIGHT, TOP + HEIGHT
    width = right - LEFT
    assert course(svg, "unlearned") == [
        (LEFT, bottom),
        (LEFT + width / 4, TOP + HEIGHT / 2),
        (right, TOP),
    ]


def test_samples_stand_at_equal_distances_for_equal_factors(finding):
    points = tuple((2.0**power, power / 6) for power in range(7))
    xs = [
        x
        for x, _ in course(drawn(finding, axis="samples", curves={"original": points}), "original")
    ]
    steps = [after - before for before, after in itertools.pairwise(xs)]
    assert steps == pytest.approx([steps[0]] * 6, abs=0.02)
    along = [
        x for x, _ in course(drawn(finding, axis="steps", curves={"original": points}), "original")
    ]
    assert along[-1] - along[-2] == pytest.approx((WIDTH - LEFT - RIGHT) * 32 / 63, abs=0.02)


def test_samples_that_begin_at_nothing_are_drawn_all_the_same(finding):
    svg = drawn(finding, axis="samples", curves={"original": ((0.0, 0.1), (4.0, 0.2))})
    assert len(course(svg, "original")) == 2


def test_each_model_has_a_name_at_its_line_a_mark_and_a_class_of_its_own(finding):
    svg = drawn(finding)
    names = [t.text for t in svg.iter("text") if t.get("class") == "who"]
    assert names == ["Original", "Unlearned", "Reference"]
    groups = {g.get("class"): g for g in svg.iter("g")}
    assert groups["original"].find("circle") is not None
    assert len(groups["unlearned"].find("polygon").get("points").split()) == 4


def test_lines_differ_by_dashes_and_not_by_colour_alone():
    css = (Path(unlearn.report.__file__).parent / "templates" / "report.css").read_text(
        encoding="utf-8"
    )
    dashes = re.findall(r"\.(original|reference) \.course \{ stroke-dasharray: ([\d ]+);", css)
    assert len(dict(dashes)) == 2
    assert len(set(dict(dashes).values())) == 2


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_names_never_overlap_and_never_leave_the_panel(ends):
    roles = ("original", "unlearned", "reference")
    found = Finding(
        key="a/forget",
        probe="a",
        metric="a",
        split="forget",
        title="A",
        property="accuracy",
        models={},
        axis="layer",
        curves={role: ((0.0, 0.0), (1.0, end)) for role, end in zip(roles, ends, strict=True)},
    )
    svg = ET.fromstring(str(curves(found, "c")))
    places = sorted(float(t.get("y")) for t in svg.iter("text") if t.get("class") == "who")
    assert all(b - a >= NAME_GAP - 0.02 for a, b in itertools.pairwise(places))
    assert places[0] >= TOP and places[-1] <= TOP + HEIGHT + 3.4


def test_the_description_holds_every_point(finding):
    svg = drawn(finding, curves={"reference": ((0.0, 0.25), (4.0, 0.5))})
    assert svg.find("title").text == f"{finding.title}, by layer"
    assert svg.find("desc").text == "Reference: 0: 0.250, 4.00: 0.500"
    assert svg.get("aria-labelledby") == "c-title c-desc"


def test_points_that_are_no_numbers_are_left_out_and_nothing_is_drawn_of_nothing(finding):
    svg = drawn(finding, curves={"original": ((0.0, math.nan), (1.0, 0.5), (2.0, math.inf))})
    assert len(course(svg, "original")) == 1
    assert curves(finding.model_copy(update={"curves": {}}), "c") == ""
    empty = finding.model_copy(update={"curves": {"original": ((0.0, math.nan),)}})
    assert curves(empty, "c") == ""


def test_numbers_on_the_axis_keep_their_distance(finding):
    many = tuple((float(x), 0.5) for x in range(64))
    svg = drawn(finding, curves={"original": many})
    bottom = [
        t for t in svg.iter("text") if t.get("class") == "tick" and t.get("text-anchor") == "middle"
    ]
    xs = [float(t.get("x")) for t in bottom]
    assert 4 <= len(xs) <= 12
    assert all(b - a >= 26 for a, b in itertools.pairwise(xs))
    assert len(list(svg.iter("circle"))) == 1


def test_hostile_words_stay_words(finding):
    svg = drawn(finding, axis="</svg><script>", title="\x1b<b>")
    assert svg.find("title").text == "⟨U+001B⟩<b>, by </svg><script>"
    assert not list(svg.iter("script"))
