"""One fact's trace as a picture: its prompt's tokens down, layers across. SVG or PNG.

It shows the prompt, so it is as personal as the forget set.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn.errors import InputError
from unlearn.locate.trace import KINDS, SUBJECT_ROLES, FactTrace, Kind, Trace
from unlearn.report.trace_figure import (
    MAPS,
    check_figure_path,
    corrupted_by,
    effect_words,
    panel_title,
    save,
    style,
)
from unlearn.report.trace_wording import REASONS, SCORES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 0.19
"""Height of a token, in inches."""
FRAME = 2.1
"""What stands above and below the heat maps, in inches."""
LONGEST = 28
"""Characters of a token that are shown."""
FAINTEST = 0.05
"""A panel's darkest colour stands for at least this share of the total effect, so that a part which
brings nothing back does not look as if it did; what is below minus this share of the darkest colour
is marked."""
BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
FONTS = (
    "DejaVu Sans",
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Arial Unicode MS", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic"),
)
"""Tried in this order for each character, where installed."""


def draw_fact(trace: Trace, record_id: str, tokens: Sequence[str], path: Path) -> None:
    """Writes the picture of one record; the ending of ``path`` chooses the format.

    A PNG shows a character that no font of this computer has by its number. An SVG leaves it to
    whoever opens it.

    Args:
        trace: what the record was traced in.
        record_id: which record.
        tokens: the text of each token of its prompt, special tokens included.
        path: the file; its ending is .svg or .png.

    Raises:
        InputError: the record was not traced, the tokens are not as many as were traced, or the
            path has another ending.
    """
    check_figure_path(path)
    fact = fact_of(trace, record_id)
    if len(tokens) != len(fact.token_ids):
        raise InputError(
            f"{len(tokens)} tokens were given for record {record_id!r}, of which "
            f"{len(fact.token_ids)} were traced; give those of its prompt, special ones included"
        )
    fonts = _installed()
    labels = [visible(token) for token in tokens]
    if path.suffix.lower() == ".png":
        labels = _drawable(labels, fonts)
    with style(**{"font.family": fonts}), warnings.catch_warnings():
        # What is missing here is only measured here; whoever opens the SVG has other fonts.
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from", UserWarning)
        save(picture(trace, fact, labels), path)


def fact_of(trace: Trace, record_id: str) -> FactTrace:
    """The traced record.

    Raises:
        InputError: it was not traced; the message says why.
    """
    found = trace.of(record_id)
    if isinstance(found, FactTrace):
        return found
    why = "it is not among those traced" if found is None else REASONS[found.reason]
    raise InputError(f"record {record_id!r} has no trace to draw: {why}")


def visible(token: str) -> str:
    r"""A token as it can be read: blanks as signs, what prints nothing as its number.

    >>> visible(" Tarn"), visible("\x00")
    ('␣Tarn', '\\u0000')
    """
    shown = "".join(BLANKS.get(c) or (c if c.isprintable() else _number(c)) for c in token)
    if shown and unicodedata.category(shown[0]).startswith("M"):
        return f"◌{shown}"
    return shown


def picture(trace: Trace, fact: FactTrace, labels: Sequence[str]) -> Figure:
    """The figure: a heat map for each kind, with the effects as they are in the trace."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    kinds = [kind for kind in KINDS if kind in fact.effects]
    tall = max(1.0, ROW * len(labels))
    layout = ConstrainedLayoutEngine(w_pad=0.08, hspace=0)
    figure = Figure(figsize=(2.9 * len(kinds) + 1.8, tall + FRAME), layout=layout)
    axes: Any = figure.subplots(
        2, len(kinds), squeeze=False, sharey="row", height_ratios=(tall, 0.1)
    )
    for column, kind in enumerate(kinds):
        _heat_map(figure, axes[0][column], axes[1][column], trace, fact, kind)
    inside = subject_tokens(fact)
    marked = [_cut(text) + "*" * (at in inside) for at, text in enumerate(labels)]
    first = axes[0][0]
    first.set_yticks(range(len(marked)), marked, parse_math=False)
    for at, text in enumerate(first.get_yticklabels()):
        text.set_fontweight("bold" if at in inside else "normal")
    first.set_ylim(len(marked) - 0.5, -0.5)
    figure.suptitle(_title(trace, fact), parse_math=False)
    return figure


def subject_tokens(fact: FactTrace) -> set[int]:
    """The positions of the subject's tokens, at every mention that was corrupted."""
    pairs = enumerate(zip(fact.token_ids, fact.corrupted_token_ids, strict=True))
    changed = {at for at, (clean, corrupted) in pairs if clean != corrupted}
    noisy = set(fact.noise.positions) if fact.noise else set()
    return changed | noisy | {at for at, role in enumerate(fact.roles) if role in SUBJECT_ROLES}


def _title(trace: Trace, fact: FactTrace) -> str:
    return (
        f"{effect_words(trace)}s on the {SCORES[trace.score]}, record {_cut(visible(fact.id))}\n"
        f"clean run {fact.clean:.3g}; corrupted by {corrupted_by(trace)} (*) {fact.corrupted:.3g}; "
        "effects below 0 drawn as 0"
    )


def _heat_map(
    figure: Figure, axis: Any, below: Any, trace: Trace, fact: FactTrace, kind: Kind
) -> None:
    effects = np.array(fact.effects[kind])  # (token, layer)
    top = max(float(effects.max()), FAINTEST * abs(fact.total_effect)) or 1.0
    image = axis.imshow(
        effects, aspect="auto", cmap=MAPS[kind], vmin=0, vmax=top, interpolation="nearest"
    )
    axis.set_title(panel_title(trace, kind))
    axis.set_xlabel("layer")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.tick_params(length=2)
    axis.spines[:].set_linewidth(0.5)
    words = fill(f"effect on the {SCORES[trace.score]}", 40)
    rows, layers = np.nonzero(effects < -FAINTEST * top)
    if len(rows):
        # White would hide that restoring these does harm.
        axis.scatter(layers, rows, s=9, marker="_", color="#666666", linewidth=0.8)
        words += f"\n– where it is below {-FAINTEST * top:.1g}; lowest {effects.min():.2g}"
    figure.colorbar(image, cax=below, orientation="horizontal", label=words)
    below.tick_params(length=2)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _number(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _installed() -> list[str]:
    """The fonts to draw with; the first one comes with matplotlib."""
    from matplotlib.font_manager import get_font_names

    there = set(get_font_names())
    return [font for font in FONTS if font in there]


def _drawable(labels: Sequence[str], fonts: Sequence[str]) -> list[str]:
    """The labels, with a number for each character that none of the fonts has."""
    from matplotlib.font_manager import findfont, get_font

    known = {code for font in fonts for code in get_font(findfont(font)).get_charmap()}
    return ["".join(c if ord(c) in known else _number(c) for c in label) for label in labels]
