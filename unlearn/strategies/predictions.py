"""What a model predicts where a label stands: the one way in which training runs a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn.model.batches import IGNORED, LossOn, Rows, collate
from unlearn.model.language_model import Encoding, LanguageModel

BATCH = 64
"""Statements in one forward pass without a gradient."""


class Predictions(NamedTuple):
    """What a model predicts at the positions that carry a label; N of them in B rows."""

    logprobs: Tensor
    """(N, vocabulary) float32"""
    labels: Tensor
    """(N,)"""
    rows: Tensor
    """(N,) the row of the batch each position stands in"""
    n_rows: int

    @property
    def label_logprobs(self) -> Tensor:
        """(N,) the log-probability of each label."""
        return self.logprobs.gather(-1, self.labels[:, None]).squeeze(-1)

    @property
    def greedy(self) -> Tensor:
        """(N,) whether the label is the likeliest token."""
        return self.logprobs.argmax(-1) == self.labels

    def where(self, keep: Tensor) -> Predictions:
        """Only the positions, (N,), to keep."""
        return self._replace(
            logprobs=self.logprobs[keep], labels=self.labels[keep], rows=self.rows[keep]
        )

    def sum_by_row(self, values: Tensor) -> Tensor:
        """(N,) values to (B,) sums."""
        # Not index_add, which is not deterministic on an accelerator.
        inside = self.rows == torch.arange(self.n_rows, device=values.device)[:, None]  # (B, N)
        return torch.where(inside, values, 0).sum(1)

    def mean_by_row(self, values: Tensor) -> Tensor:
        """(N,) values to (B,) means; 0 for a row without a label."""
        counts = self.sum_by_row(torch.ones_like(values))
        return self.sum_by_row(values) / counts.clamp(min=1)


def predict(logits: Tensor, labels: Tensor) -> Predictions:
    """The predictions for ``labels``, where the logits at position t - 1 predict label t.

    Args:
        logits: (B, T, vocabulary), of any floating-point type; normalised in float32.
        labels: (B, T), ``IGNORED`` where a position does not count.
    """
    targets = labels[:, 1:]
    rows, columns = (targets != IGNORED).nonzero(as_tuple=True)
    chosen = logits[rows, columns].float()  # (N, vocabulary)
    return Predictions(chosen.log_softmax(-1), targets[rows, columns], rows, len(labels))


def run(model: Any, rows: Rows) -> Predictions:
    """The model's predictions at the labelled positions."""
    output = model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False)
    return predict(output.logits, rows.labels)


@torch.no_grad()
def predicted(
    lm: LanguageModel, encodings: Sequence[Encoding], loss_on: LossOn
) -> Iterator[tuple[Rows, Predictions]]:
    """The predictions for all statements in order, some at a time and without a gradient."""
    for at in range(0, len(encodings), BATCH):
        chosen = range(at, min(at + BATCH, len(encodings)))
        rows = collate(encodings, chosen, loss_on).to(lm.device)
        yield rows, run(lm.model, rows)


def statement_logprobs(
    lm: LanguageModel, encodings: Sequence[Encoding], loss_on: LossOn
) -> Iterator[Tensor]:
    """(T, vocabulary) log-probabilities at the labelled positions of each statement."""
    for rows, predictions in predicted(lm, encodings, loss_on):
        counts = (rows.labels[:, 1:] != IGNORED).sum(1).tolist()
        yield from torch.split(predictions.logprobs, counts)
