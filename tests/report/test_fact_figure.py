"""The picture of one fact: what is drawn is what was traced."""

import re
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pytest

from unlearn.errors import InputError
from unlearn.locate.trace import KINDS, FactTrace, Noise, Skipped, Trace, roles_of
from unlearn.report.fact_figure import draw_fact, picture, subject_tokens, visible

PROMPT = ["<s>", "The", " town", " of", " Ada", " Quill", " is"]
SUBJECT = range(4, 6)
ODD = ["<s>", "مرحبا", " שלום", "東京", "東(1/3)", "\n\t", "$x^2$", "<b>&", "\x00\ud800", " " * 99]


def grid(n_tokens, n_layers, seed):
    table = np.random.default_rng(seed).normal(size=(n_tokens, n_layers))
    return tuple(tuple(row) for row in table.tolist())


def made(n_tokens=7, effects=None, **changes):
    """A trace of one made-up fact, ``r1``, by three kinds; ``r2`` was skipped."""
    effects = effects or {kind: grid(n_tokens, 4, seed) for seed, kind in enumerate(KINDS)}
    ids = tuple(range(n_tokens))
    fact = {
        "id": "r1",
        "cluster": 0,
        "token_ids": ids,
        "corrupted_token_ids": tuple(99 if at in SUBJECT else at for at in ids),
        "answer_token_ids": (3,),
        "roles": roles_of(n_tokens, SUBJECT),
        "clean": 7.25,
        "corrupted": -1.5,
        "effects": effects,
        "severed": {},
    }
    return Trace(
        tool_version="0",
        model_digest="0" * 64,
        forget_set_digest="0" * 64,
        seed=0,
        corruption="replace",
        score="logprob",
        windows=dict.fromkeys(effects, ((0, 0), (0, 1), (1, 2), (2, 3))),
        settings={},
        records=(FactTrace(**(fact | changes)),),
        skipped=(Skipped(id="r2", reason="no-replacement"),),
    )


def drawn(trace, tokens=PROMPT):
    """The figure, laid out, its heat maps and its colour bars by kind."""
    figure = picture(trace, trace.records[0], tokens)
    figure.draw_without_rendering()
    n = len(trace.records[0].effects)
    return figure, figure.axes[:n], figure.axes[n : 2 * n]


def test_the_matrix_that_is_drawn_is_that_of_the_trace():
    trace = made()
    _, maps, _ = drawn(trace)
    for kind, axis in zip(KINDS, maps, strict=True):
        (image,) = axis.images
        np.testing.assert_array_equal(image.get_array(), trace.records[0].effects[kind])
        # Token 0 above, layer 0 at the left: no flip between the matrix and the page.
        assert (image.origin, axis.get_ylim(), axis.get_xlim()) == (
            "upper",
            (6.5, -0.5),
            (-0.5, 3.5),
        )


def test_tokens_stand_in_order_and_an_asterisk_marks_the_subject():
    _, maps, _ = drawn(made())
    labels = [text.get_text() for text in maps[0].get_yticklabels()]
    assert labels == ["<s>", "The", " town", " of", " Ada*", " Quill*", " is"]
    assert list(maps[0].get_yticks()) == list(range(7))


def test_every_mention_that_was_corrupted_is_marked():
    (fact,) = made(corrupted_token_ids=(0, 98, 2, 3, 99, 99, 6)).records
    assert subject_tokens(fact) == {1, 4, 5}
    noise = Noise(seed=0, standard_deviation=1.0, samples=1, positions=(2, 4, 5))
    (fact,) = made(corrupted_token_ids=tuple(range(7)), noise=noise).records
    assert subject_tokens(fact) == {2, 4, 5}


def test_the_title_gives_both_scores_and_the_bars_name_theirs():
    figure, maps, bars = drawn(made())
    title = figure.get_suptitle()
    assert "7.25" in title and "-1.5" in title and "r1" in title
    assert "below 0 drawn as 0" in title and "another subject's tokens (*)" in title
    for bar in bars:
        assert "log-probability of the answer (nats)" in bar.get_xlabel().replace("\n", " ")
    assert [axis.get_title() for axis in maps] == [
        "state after one block",
        "MLPs, windows of 2",
        "attention, windows of 2",
    ]


def test_what_does_harm_is_marked_and_not_only_white():
    rows = [[0.0, 0.0], [10.0, -0.1], [0.0, -3.0]]
    trace = made(
        3,
        {"hidden": rows},
        roles=("before", "last-subject", "last"),
        corrupted_token_ids=(0, 9, 2),
    )
    _, (axis,), (bar,) = drawn(trace, PROMPT[:3])
    (marks,) = axis.collections
    assert marks.get_offsets().tolist() == [[1.0, 2.0]]  # layer, token
    assert "lowest -3" in bar.get_xlabel()
    assert axis.images[0].get_clim() == (0, 10)


def test_a_part_that_brings_nothing_back_does_not_look_as_if_it_did():
    _, maps, _ = drawn(made(effects={"hidden": [[1e-6] * 4] * 7, "mlp": [[0.0] * 4] * 7}))
    for axis in maps:
        assert axis.images[0].get_clim() == (0, pytest.approx(0.05 * 8.75))


def test_a_longer_prompt_gives_a_higher_figure_with_rows_of_one_height():
    heights = []
    for n in (7, 70):
        figure, maps, _ = drawn(made(n), ["word"] * n)
        heights.append(maps[0].get_window_extent().height / figure.dpi / n)
    assert heights[1] == pytest.approx(heights[0], rel=0.2)
    assert min(heights) > 8 / 72  # inches: more than the 8 points of the letters


@pytest.mark.parametrize(("name", "magic"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_a_picture_has_the_format_of_its_name_and_always_the_same_bytes(tmp_path, name, magic):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        draw_fact(made(), "r1", PROMPT, tmp_path / folder / name)
    first = (tmp_path / "one" / name).read_bytes()
    assert first.startswith(magic)
    assert first == (tmp_path / "two" / name).read_bytes()


def test_an_svg_holds_its_tokens_as_text(tmp_path):
    draw_fact(made(), "r1", PROMPT, tmp_path / "a.svg")
    texts = [
        "".join(element.itertext())
        for element in ElementTree.parse(tmp_path / "a.svg").iter(
            "{http://www.w3.org/2000/svg}text"
        )
    ]
    labels = ["<s>", "The", "␣town", "␣of", "␣Ada*", "␣Quill*", "␣is"]
    assert [text for text in texts if text in labels] == labels


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_tokens_of_any_script_and_of_none_are_drawn(tmp_path, name):
    trace = made(len(ODD), id="東 $1$")
    draw_fact(trace, "東 $1$", ODD, tmp_path / name)
    if name.endswith(".svg"):
        ElementTree.parse(tmp_path / name)
        written = unescape((tmp_path / name).read_text("utf-8"))
        for text in ("مرحبا", "␣שלום", "東京", "東(1/3)*", "↵⇥", "$x^2$", "<b>&", r"\u0000\ud800"):
            assert re.search(f">{re.escape(text)}", written), text


def test_white_space_and_what_prints_nothing_can_be_seen():
    assert visible(" Tarn\n") == "␣Tarn↵"
    assert visible("a\u200fb\u00a0") == r"a\u200fb\u00a0"
    assert visible("\u0301e") == "◌\u0301e"


def test_what_cannot_be_drawn_is_refused_with_the_reason(tmp_path):
    with pytest.raises(InputError, match=r"'r2'.*no other subject"):
        draw_fact(made(), "r2", PROMPT, tmp_path / "a.svg")
    with pytest.raises(InputError, match="not among those traced"):
        draw_fact(made(), "r3", PROMPT, tmp_path / "a.svg")
    with pytest.raises(InputError, match=r"6 tokens .* 7 were traced"):
        draw_fact(made(), "r1", PROMPT[1:], tmp_path / "a.svg")
    with pytest.raises(InputError, match=r"svg.*png"):
        draw_fact(made(), "r1", PROMPT, tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())


def test_matplotlib_keeps_its_own_settings(tmp_path):
    from matplotlib import rcParams

    before = dict(rcParams)
    draw_fact(made(), "r1", PROMPT, tmp_path / "a.svg")
    assert dict(rcParams) == before
