"""The heat map of sites: a cell for each scored module, as dark as its score, framed if chosen."""

from xml.etree import ElementTree as ET

import pytest

from unlearn.report.site_map import MOST_MODULES, described, grid_of, site_map
from unlearn.types import SiteMap

SCORES = {
    "model.layers.0.mlp.up_proj": 0.0,
    "model.layers.0.self_attn.q_proj": 0.1,
    "model.layers.1.mlp.up_proj": 0.4,
    "model.layers.1.self_attn.q_proj": 0.2,
}
CHOSEN = ("model.layers.1.mlp.up_proj",)


def cells(sites):
    svg = ET.fromstring(str(site_map(sites)))
    return [cell for cell in svg.iter() if cell.tag.endswith("rect")]


def test_cells_are_as_dark_as_their_scores_and_chosen_ones_are_framed():
    found = cells(SiteMap(method="x", scores=SCORES, modules=CHOSEN))
    darkness = [float(cell.get("fill-opacity")) for cell in found]
    by_row = [0.0, 0.4, 0.1, 0.2]  # blocks across, kinds down
    expected = [0.06 + 0.9 * score / 0.4 for score in by_row]
    assert darkness == pytest.approx(expected, abs=1e-3)
    assert [cell.get("class") for cell in found] == ["cell", "cell chosen", "cell", "cell"]


def test_layers_choose_all_their_modules():
    grid = grid_of(SiteMap(method="x", scores=SCORES, layers=(1,)))
    assert grid.chosen == {("mlp.up_proj", 1), ("self_attn.q_proj", 1)}


def test_whole_blocks_and_unnumbered_modules():
    scores = {"transformer.h.0": 0.5, "transformer.h.1": 1.0, "lm_head": 9.0}
    grid = grid_of(SiteMap(method="x", scores=scores))
    assert grid.kinds == ("transformer.h",) and grid.layers == 2 and len(grid.scores) == 2


def test_it_says_in_words_what_it_shows():
    words = described(grid_of(SiteMap(method="x", scores=SCORES, modules=CHOSEN)))
    assert words.startswith("highest: mlp.up_proj of block 1: 0.4")
    assert words.endswith("chosen: 1 module of 4, in blocks 1")


@pytest.mark.parametrize(
    "sites",
    [
        None,
        SiteMap(method="random", modules=CHOSEN),
        SiteMap(method="x", scores={"lm_head": 1.0}),
        SiteMap(method="x", scores={f"h.{n}.mlp": 1.0 for n in range(MOST_MODULES + 1)}),
    ],
)
def test_nothing_to_draw_is_no_drawing(sites):
    assert site_map(sites) == ""


def test_hostile_names_stay_text():
    scores = {"model.layers.0.<script>alert(1)</script>": 1.0}
    drawn = str(site_map(SiteMap(method="<b>", scores=scores)))
    assert "<script" not in drawn and "<b>" not in drawn


def test_scores_below_nothing_are_as_light_as_nothing():
    scores = {"h.0.mlp": -1.0, "h.1.mlp": 2.0}
    light, dark = (float(c.get("fill-opacity")) for c in cells(SiteMap(method="x", scores=scores)))
    assert (light, dark) == pytest.approx((0.06, 0.96))
