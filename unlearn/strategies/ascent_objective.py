"""The loss of gradient ascent and its successors on one batch, and who has left it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import IGNORED, LossOn, Rows, collate, encode
from unlearn.model.generation import generate
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.strategies import losses
from unlearn.strategies.ascent_config import BETA, GradientAscentConfig
from unlearn.strategies.counterfactual import renamed
from unlearn.strategies.matching import Ingredients
from unlearn.strategies.predictions import Predictions, predicted, run
from unlearn.strategies.retention import Retention
from unlearn.strategies.training import Losses, MicroBatch
from unlearn.types import Statement


class Gate(NamedTuple):
    """Lets a record out of the loss while it looks never trained on."""

    nll_per_token: Tensor
    agreement: Tensor
    by_token: Tensor
    """Records with a guess for each token: the tokens themselves leave the loss."""

    def open(self, rows: Rows, predictions: Predictions) -> Tensor:
        """(B,) 1 where a record still has to be forgotten, 0 where it is not to be pushed further.

        Judged on the very predictions that the loss is made of, so it is never out of date.
        """
        in_answer = rows.answer[:, 1:][rows.labels[:, 1:] != IGNORED]
        counts = predictions.sum_by_row(in_answer.float())
        logprobs = torch.where(in_answer, predictions.label_logprobs.detach(), 0)
        nll = -predictions.sum_by_row(logprobs) / counts
        agreement = predictions.sum_by_row((predictions.greedy & in_answer).float()) / counts
        known = nll < self.nll_per_token[rows.records]
        known |= self.by_token[rows.records]
        # Shares of few tokens: a rounding error must not decide.
        return (known | (agreement > self.agreement[rows.records] + 1e-6)).float()


class Guesses(NamedTuple):
    """What an unseen name would get: the tokens at or below it are no knowledge.

    Without a guess every token counts as knowledge.
    """

    logprobs: Tensor
    """(R, T) log-probability of each answer token for an unseen name; -inf where unknown."""

    @classmethod
    def of(cls, given: Ingredients, device: torch.device) -> Guesses:
        """The guesses laid out by token position."""
        forget = given.pairs.forget
        width = max(len(encoding.ids) for encoding in forget)
        table = torch.full((len(forget), width), -torch.inf)
        for row, (encoding, guess) in enumerate(zip(forget, given.guesses, strict=True)):
            if guess is not None:
                answer = slice(encoding.start, len(encoding.ids))
                table[row, answer] = torch.from_numpy(guess.logprobs)
        return cls(table.to(device))

    def exceeded(self, rows: Rows, logprobs: Tensor) -> Tensor:
        """(N,) whether a labelled token is likelier than for an unseen name."""
        return logprobs > at_labels(self.logprobs, rows)


TOKEN_LOSSES: dict[str, Callable[[Predictions, float], Tensor]] = {
    "inverted-hinge": lambda at, _: losses.inverted_hinge(at.logprobs, at.labels),
    "max-entropy": lambda at, _: losses.max_entropy(at.logprobs),
    "wga": lambda at, beta: losses.weighted_ascent(at.label_logprobs, beta),
}
"""Variants whose loss is a mean over the tokens of an answer."""


class AscentObjective(NamedTuple):
    """The forget loss of the variant plus what retention adds."""

    config: GradientAscentConfig
    reference: Tensor
    """(R, T) what ``npo`` pushes down, for each token of each forget record, before training."""
    gate: Gate | None
    guessed: Guesses
    retention: Retention
    alternatives: Alternatives | None = None
    """What ``altpo`` prefers to the answers."""

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The losses of one micro-batch."""
        predictions = run(model, batch.forget)
        per_record = self.forget_loss(*counted(batch.forget, predictions))  # (B,)
        if self.alternatives is not None:
            per_record = self.preference(model, batch.forget, predictions)
        if self.gate is not None:
            per_record = per_record * self.gate.open(batch.forget, predictions)
        forget = per_record.sum() / batch.n_forget
        held = self.retention(model, batch)
        return Losses(forget + held.total, forget.detach(), held.retain.detach())

    def state(self) -> dict[str, Any]:
        """That of the retention; see ``unlearn.strategies.checkpoints.Resumable``."""
        return self.retention.state()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.retention.resume(state)

    def forget_loss(self, rows: Rows, predictions: Predictions) -> Tensor:
        """(B,) the loss of the variant for each record; guessed tokens give no gradient."""
        config, logprobs = self.config, predictions.label_logprobs
        beta = config.beta or BETA.get(config.variant, 1.0)
        known = self.guessed.exceeded(rows, logprobs.detach())
        logprobs = torch.where(known, logprobs, logprobs.detach())
        if config.variant == "npo":
            ratio = pushed(predictions, config.on) - at_labels(self.reference, rows)
            ratio = torch.where(known, ratio, 0)
            if config.per == "token":
                by_token = losses.npo(ratio, torch.zeros_like(ratio), beta)
                return predictions.sum_by_row(torch.where(known, by_token, 0))
            by_answer = predictions.sum_by_row(ratio)
            return losses.npo(by_answer, torch.zeros_like(by_answer), beta)
        if config.variant == "simnpo":
            return losses.simnpo(-predictions.mean_by_row(logprobs), beta, config.gamma)
        if config.variant in TOKEN_LOSSES:
            each = TOKEN_LOSSES[config.variant](predictions, beta)
            return predictions.mean_by_row(torch.where(known, each, each.detach()))
        return losses.ascent(-predictions.mean_by_row(logprobs), config.cap)

    def preference(self, model: Any, rows: Rows, predictions: Predictions) -> Tensor:
        """(B,) how far the answers are from being less likely than their alternatives."""
        assert self.alternatives is not None
        other = self.alternatives.rows(rows.records.tolist()).to(rows.ids.device)
        gained = run(model, other)
        beta = self.config.beta or BETA["altpo"]
        change = gained.label_logprobs - at_labels(self.alternatives.reference, other)
        lost = predictions.label_logprobs - at_labels(self.reference, rows)
        return losses.preference(gained.sum_by_row(change), predictions.sum_by_row(lost), beta)


class Alternatives(NamedTuple):
    """One other answer to each forget prompt."""

    encodings: Sequence[Encoding]
    reference: Tensor
    """(R, T) log-probability of each of their tokens before training."""
    loss_on: LossOn

    @classmethod
    def of(cls, given: Ingredients, forget_set: ForgetSet, seed: int) -> Alternatives:
        """An alternative of each record; for one without, what is said of somebody else.

        Raises:
            UnsupportedError: a record has no alternative, and there is nobody else.
        """
        statements = _alternatives(given.original, forget_set, seed)
        encodings, loss_on = encode(given.work, statements), given.pairs.config.loss_on
        reference = scores_by_token(given.work, encodings, loss_on, "log-prob")
        return cls(encodings, reference, loss_on)

    def rows(self, records: Sequence[int]) -> Rows:
        """Those of the records, as one batch."""
        return collate(self.encodings, records, self.loss_on)


def _alternatives(model: LanguageModel, forget_set: ForgetSet, seed: int) -> list[Statement]:
    rng = np.random.default_rng(seed)
    others = sorted({record.subject for record in (*forget_set.holdout, *forget_set.retain)})
    found = []
    for record in forget_set.forget:
        answers = [answer for answer in record.alternatives if answer != record.answer]
        if not answers and not others:
            raise UnsupportedError(
                f"altpo needs another answer to record {record.id!r}: give it alternatives, or the "
                "forget set a holdout or retain split"
            )
        if not answers:
            asked = renamed(record, others[rng.integers(len(others))]).prompt
            room = len(model.encode(record.prompt, record.completion).ids)
            answers = [generate(model, [asked], max_new_tokens=room)[0][0].strip() or "unknown"]
        answer = answers[rng.integers(len(answers))]
        found.append(Statement(prompt=record.prompt, answer=answer, separator=record.separator))
    return found


def counted(rows: Rows, predictions: Predictions) -> tuple[Rows, Predictions]:
    """The rows with labels only where a token may carry a forget loss, and their predictions."""
    keep = rows.counted[:, 1:][rows.labels[:, 1:] != IGNORED]
    fewer = rows._replace(labels=rows.labels.masked_fill(~rows.counted, IGNORED))
    return fewer, predictions.where(keep)


def at_labels(table: Tensor, rows: Rows) -> Tensor:
    """(N,) the entries of a (R, T) table of forget records at the labelled positions of a batch."""
    targets = rows.labels[:, 1:]
    row, column = (targets != IGNORED).nonzero(as_tuple=True)
    return table[rows.records[row], column + 1]


def pushed(predictions: Predictions, on: Literal["log-odds", "log-prob"]) -> Tensor:
    """(N,) the score of each label that ``npo`` pushes down."""
    if on == "log-prob":
        return predictions.label_logprobs
    return losses.log_odds(predictions.logprobs, predictions.labels)


def scores_by_token(
    model: LanguageModel,
    encodings: Sequence[Encoding],
    loss_on: LossOn,
    on: Literal["log-odds", "log-prob"],
) -> Tensor:
    """(R, T) the score of each labelled token of each statement, 0 elsewhere."""
    width = max(len(encoding.ids) for encoding in encodings)
    table = torch.zeros(len(encodings), width, device=model.device)
    for rows, predictions in predicted(model, encodings, loss_on):
        row, column = (rows.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        table[rows.records[row], column + 1] = pushed(predictions, on)
    return table
