"""Rows of tokens and labels, and the order in which records are drawn."""

from itertools import chain

import numpy as np

from unlearn.model.batches import IGNORED, Deck, collate
from unlearn.model.language_model import Encoding

SHORT, LONG = Encoding([5, 6, 7], 2), Encoding([5, 8, 9, 10, 11], 3)


def test_rows_are_padded_on_the_right_and_labelled_on_the_answer() -> None:
    rows = collate([SHORT, LONG], [1, 0], "answer")
    assert rows.ids.tolist() == [[5, 8, 9, 10, 11], [5, 6, 7, 0, 0]]
    assert rows.attention.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert rows.labels.tolist() == [
        [IGNORED] * 3 + [10, 11],
        [IGNORED, IGNORED, 7, IGNORED, IGNORED],
    ]
    assert rows.records.tolist() == [1, 0]
    assert rows.counted.all()


def test_labels_on_text_begin_at_the_second_token() -> None:
    rows = collate([SHORT], [0], "text")
    assert rows.labels.tolist() == [[IGNORED, 6, 7]]
    assert rows.answer.tolist() == [[False, False, True]]


def test_only_listed_positions_count_where_a_mask_says_so() -> None:
    rows = collate([SHORT, LONG], [0, 1], "answer", [None, [3]])
    assert rows.counted.tolist() == [[True] * 5, [False, False, False, True, False]]


def test_a_deck_gives_every_card_once_a_round() -> None:
    deck = Deck(range(7), np.random.default_rng(0))
    drawn = list(chain.from_iterable(deck.draw(3) for _ in range(7)))
    assert sorted(drawn) == sorted([*range(7)] * 3)


def test_a_draw_never_holds_a_card_twice() -> None:
    deck = Deck(range(5), np.random.default_rng(0))
    for _ in range(30):
        assert len(set(deck.draw(3))) == 3
    assert sorted(deck.draw(9)) == [0, 1, 2, 3, 4]
    assert Deck([], np.random.default_rng(0)).draw(2) == []
