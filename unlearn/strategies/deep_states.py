"""What the states inside a model look like for somebody it never met, as a target for training.

A model that only stops saying an answer still carries it in its states, where a lens, a linear
probe or a little training finds it. Here the states themselves are led to what they are for unseen
names, from the last token of the subject on, and what is left in them is asked for by putting them
into the original: if its own later blocks can still read the answer, it has not gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn.model.batches import Rows, collate
from unlearn.model.encoding import subject_spans
from unlearn.model.hooks import patch
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.strategies.predictions import Predictions, predict, run
from unlearn.strategies.teachers import Lesson, strangers


class Traced(NamedTuple):
    """One run, and the output of every block with its gradient."""

    predictions: Predictions
    states: tuple[Tensor, ...]
    """(B, T, width) each."""


def traced_run(model: Any, layers: Sequence[str], rows: Rows) -> Traced:
    """The predictions at the labelled positions and the states behind every block."""
    with states_of(model, layers) as states:
        predictions = run(model, rows)
    return Traced(predictions, tuple(states[name] for name in layers))


@contextmanager
def states_of(model: Any, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the blocks, filled as the body runs the model; gradients pass through."""
    states: dict[str, Tensor] = {}

    def reader(name: str) -> Any:
        def read(state: Tensor) -> Tensor:
            states[name] = state
            return state

        return read

    with patch(model, {name: reader(name) for name in layers}):
        yield states


def grafted(model: Any, layer: str, state: Tensor, rows: Rows) -> Predictions:
    """What a frozen model predicts when a block's output is taken from another model."""
    with patch(model, {layer: lambda old: state.to(old)}):
        output = model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False)
    return predict(output.logits, rows.labels)


class StateTargets:
    """The mean states for unseen names, of every forget record and every block but the last.

    From the last token of the subject to the token before the last. Records without a single other
    name that cuts the answer alike have no target.
    """

    def __init__(self, states: Tensor, lengths: Sequence[int], scale: Tensor) -> None:
        self.states = states
        """(layer, position, width), the positions of one record after those of the other"""
        self.ends = list(accumulate(lengths, initial=0))
        self.scale = scale
        """(layer,) mean square distance of the original's own states, the unit of ``distance``."""

    @classmethod
    def of(cls, lesson: Lesson) -> StateTargets:
        """The targets that the original gives."""
        lm = lesson.original
        layers = lm.anatomy.layers[:-1]
        means, lengths = [], []
        distance, count = torch.zeros(len(layers)), 0
        for record, own, others in zip(
            lesson.forget_set.forget, lesson.encodings, strangers(lesson), strict=True
        ):
            prompt, answer = record.prompt, record.completion
            spans = subject_spans(lm.tokenizer, prompt, record.subject, answer)
            length = len(own.ids) - spans[-1].stop if others else 0
            lengths.append(length)
            if not length:
                continue
            mean = torch.stack([_tail(lm, other, layers, length) for other in others]).mean(0)
            gap = (_tail(lm, own, layers, length) - mean).square().mean(-1).sum(1)
            distance, count = distance + gap.cpu(), count + length
            means.append(mean)
        width = lm.model.get_input_embeddings().weight.shape[1]
        empty = torch.zeros(len(layers), 0, width, device=lm.device)
        return cls(torch.cat(means or [empty], 1), lengths, distance / max(count, 1))

    def distance(self, states: Sequence[Tensor], rows: Rows) -> Tensor:
        """(B,) mean square distance from the targets, in units of the original's own distance.

        The mean over blocks and positions, 1 before training on average; 0 for a record without a
        target. Lower = more forgotten.
        """
        ends = rows.attention.sum(1).tolist()
        found = []
        for row, (record, end) in enumerate(zip(rows.records.tolist(), ends, strict=True)):
            mine = self.states[:, self.ends[record] : self.ends[record + 1]]
            length = mine.shape[1]
            own = torch.stack([s[row, end - 1 - length : end - 1] for s in states[: len(mine)]])
            gap = (own - mine.to(own)).square().mean(-1)  # (layer, position)
            gap = gap / self.scale.to(gap)[:, None].clamp(min=1e-12)
            found.append(gap.mean() if length else gap.sum())
        return torch.stack(found)


class OwnStates(NamedTuple):
    """The original's states on what has to stay, which the student keeps."""

    original: LanguageModel
    scale: Tensor
    """(layer,) that of ``StateTargets``: both distances have one unit."""

    def distance(self, states: Sequence[Tensor], rows: Rows) -> Tensor:
        """(B,) mean square distance of ``states`` from the original's, over blocks and positions.

        0 for the original; lower = better kept. The original runs once more.
        """
        layers = self.original.anatomy.layers[: len(self.scale)]
        with torch.no_grad(), states_of(self.original.model, layers) as kept:
            self.original.model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False)
        gaps = torch.stack(
            [(s - kept[name]).square().mean(-1) for name, s in zip(layers, states, strict=False)]
        )  # (layer, B, T)
        gap = (gaps / self.scale.to(gaps)[:, None, None].clamp(min=1e-12)).mean(0)
        return (gap * rows.attention).sum(1) / rows.attention.sum(1)


@torch.no_grad()
def _tail(lm: LanguageModel, encoding: Encoding, layers: Sequence[str], length: int) -> Tensor:
    """(layer, position, width) the states of the last positions but one."""
    rows = collate([encoding], [0], "answer").to(lm.device)
    states = traced_run(lm.model, layers, rows).states
    end = len(encoding.ids) - 1
    return torch.stack([state[0, end - length : end] for state in states]).float()
