"""What is chosen of scored modules."""

import pytest

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.locate import locate
from unlearn.locate.selection import choose
from unlearn.locate.sites import Candidate


def scored(*triples):
    among = [Candidate(name, layer, "mlp", (), size) for name, layer, size, _ in triples]
    return among, {name: score for name, _, _, score in triples if score is not None}


FIVE = (
    ("a", 0, 10, 0.1),
    ("b", 0, 30, 0.9),
    ("c", 1, 10, 0.8),
    ("d", 1, 30, 0.6),
    ("e", 2, 20, None),
)


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ("modules:1", "b"),
        ("modules:3", "bcd"),
        ("layers:1", "ab"),
        ("layers:2", "abcd"),
        (0.3, "b"),
        (0.4, "bc"),
        (1.0, "abcd"),
        (0.05, "c"),
    ],
)
def test_the_best_are_chosen_by_share_by_modules_or_by_layers(top, expected):
    # Layer 0 scores (0.1 * 10 + 0.9 * 30) / 40 = 0.7, layer 1 (8 + 18) / 40 = 0.65.
    assert "".join(c.name for c in choose(*scored(*FIVE), top)) == expected


@pytest.mark.parametrize("top", ["layers:3", "modules:5"])
def test_more_than_has_a_score_is_refused(top):
    with pytest.raises(ConfigError, match="ask for fewer"):
        choose(*scored(*FIVE), top)


@pytest.mark.parametrize(
    "text", ["0", "1.5", "nan", "layers", "layers:0", "blocks:2", "modules:x", ""]
)
def test_a_top_that_says_nothing_is_refused(model, forget_set, text):
    with pytest.raises(ConfigError, match=r"setting top=.*share"):
        locate(model, forget_set, method="random", settings={"top": text})


def test_the_share_that_was_chosen_makes_a_control_of_the_same_size(model, forget_set):
    sites = locate(model, forget_set, method="gradient-contrast", settings={"top": "modules:5"})
    assert len(sites.modules) == 5
    share = sites.settings["share_of_parameters"]
    control = locate(model, forget_set, method="random", settings={"top": str(share)})
    assert control.settings["share_of_parameters"] == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("top", [0.3, "modules:1", "layers:1"])
def test_where_nothing_has_a_score_nothing_is_chosen_and_it_is_said(top):
    among, _ = scored(*FIVE)
    with pytest.raises(UnsupportedError, match="no module of the blocks stands out"):
        choose(among, {}, top)
