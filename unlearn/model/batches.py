"""Records as batches: which tokens carry a label, which may carry a forget loss, in what order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.types import Statement

IGNORED = -100
"""The label of a position that does not count."""

LossOn = Literal["answer", "text"]
"""The tokens that carry labels: those of the answer, or of prompt and answer."""


class Rows(NamedTuple):
    """Encoded records, padded on the right; B rows of T tokens."""

    ids: Tensor
    attention: Tensor
    labels: Tensor
    """``IGNORED`` where a token carries no loss."""
    answer: Tensor
    """Whether the token belongs to the answer."""
    records: Tensor
    """(B,) the record's place in its split."""
    counted: Tensor
    """Whether the token may carry a forget loss; all may where no token mask says otherwise."""

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device."""
        return Rows(*(tensor.to(device) for tensor in self))


def encode(model: LanguageModel, records: Sequence[Statement]) -> list[Encoding]:
    """The token ids of each record, and where its answer starts."""
    return list(model.encode_all([(record.prompt, record.completion) for record in records]))


def collate(
    encodings: Sequence[Encoding],
    chosen: Sequence[int],
    loss_on: LossOn,
    counted: Sequence[Sequence[int] | None] = (),
) -> Rows:
    """The chosen encodings as one batch of rows.

    ``counted`` holds for each encoding the positions that may carry a forget loss, None for all.
    """
    width = max(len(encodings[i].ids) for i in chosen)
    ids = torch.zeros(len(chosen), width, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    counts = torch.ones_like(answer)
    for row, i in enumerate(chosen):
        tokens, start = encodings[i]
        length = len(tokens)
        ids[row, :length] = torch.tensor(tokens)
        attention[row, :length] = 1
        answer[row, start:length] = True
        first = first_label(encodings[i], loss_on)
        labels[row, first:length] = ids[row, first:length]
        if counted and (only := counted[i]) is not None:
            counts[row] = False
            counts[row, list(only)] = True
    return Rows(ids, attention, labels, answer, torch.tensor(list(chosen)), counts)


def first_label(encoding: Encoding, loss_on: LossOn) -> int:
    """The first position of a record that carries a label."""
    # The first token of a text has nothing in front of it that could predict it.
    return encoding.start if loss_on == "answer" else 1


class Deck:
    """Draws without replacement, and shuffles again once every card was drawn."""

    def __init__(self, cards: Sequence[int], rng: np.random.Generator) -> None:
        self.cards = list(cards)
        self.rng = rng
        self.rest: list[int] = []

    def draw(self, n: int) -> list[int]:
        """``n`` different cards, or all of them if there are fewer."""
        n = min(n, len(self.cards))
        drawn, self.rest = self.rest[:n], self.rest[n:]
        if len(drawn) < n:
            shuffled = [self.cards[i] for i in self.rng.permutation(len(self.cards))]
            fresh = [card for card in shuffled if card not in set(drawn)]
            missing = n - len(drawn)
            # What was already drawn in this round comes last, so that no round repeats a card.
            self.rest = fresh[missing:] + drawn
            drawn = drawn + fresh[:missing]
        return drawn
