"""What holds a model while it forgets: the retain answers, and what it said of near names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn.model.batches import IGNORED, Rows
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.deep_states import OwnStates, traced_run
from unlearn.strategies.predictions import Predictions, predicted, run, statement_logprobs
from unlearn.strategies.soft_labels import SoftLabels
from unlearn.strategies.training import MicroBatch, Pairs, TrainingConfig


class Held(NamedTuple):
    """What retention adds to the loss of a step."""

    total: Tensor
    """Weighted."""
    retain: Tensor
    """The retain term alone, in nats per token: NLL, or KL from the original."""


@dataclass
class Retention:
    """The retain term and the one on near names, weighted.

    The original's predictions were computed once, so no second model is run while training. With
    ``constraint`` the retain NLL has a limit in place of a weight: the multiplier rises by ``rate``
    for every nat per token above it and falls below (dual ascent), so there is no weight to tune.
    """

    config: TrainingConfig
    retain: SoftLabels | None = None
    """What the original predicts on the retain records; needed for ``kl`` alone."""
    near: SoftLabels | None = None
    limit: float = 0.0
    """Nats per token that ``constraint`` allows."""
    multiplier: float = 0.0
    states: OwnStates | None = None
    """What the states inside the original are; kept too where they are given."""
    state_weight: float = 0.0
    """Of the distance from them."""

    @classmethod
    def of(
        cls,
        original: LanguageModel,
        pairs: Pairs,
        states: OwnStates | None = None,
        state_weight: float = 0.0,
    ) -> Retention:
        """Everything that the config of these pairs asks of the original."""
        config = pairs.config

        def labels(encodings: Any, loss_on: Any) -> SoftLabels:
            pieces = statement_logprobs(original, encodings, loss_on)
            return SoftLabels.collect(pieces, config.top_k, config.cache_mib * 2**20)

        limit = 0.0
        if config.retain == "constraint":
            limit = _nll(original, pairs) + config.constraint_slack
        return cls(
            config,
            labels(pairs.retain, config.loss_on) if config.retain == "kl" else None,
            labels(pairs.near, "answer") if pairs.near else None,
            limit,
            states=states,
            state_weight=state_weight,
        )

    def __call__(self, model: Any, batch: MicroBatch) -> Held:
        """The terms of one micro-batch."""
        device = batch.forget.ids.device
        total, retain = torch.zeros((), device=device), torch.zeros((), device=device)
        if batch.retain is not None:
            predictions, moved = self._read(model, batch.retain, batch.n_retain_labels)
            retain = self._retain(predictions, batch)
            total = total + self._weight(batch, retain) * retain + moved
        if batch.near is not None and self.near is not None:
            predictions, moved = self._read(model, batch.near, batch.n_near_labels)
            label = self.near.at(batch.near.records.tolist(), device)
            near = label.divergence(predictions.logprobs).sum() / batch.n_near_labels
            total = total + self.config.near_weight * near + moved
        return Held(total, retain)

    def _read(self, model: Any, rows: Rows, n_labels: int) -> tuple[Predictions, Tensor | float]:
        """Predictions, and how far the states inside have moved, weighted.

        A row counts by its labels, of which a step has ``n_labels``.
        """
        if self.states is None:
            return run(model, rows), 0.0
        traced = traced_run(model, self.states.original.anatomy.layers, rows)
        moved = self.states.distance(traced.states, rows)
        counts = (rows.labels[:, 1:] != IGNORED).sum(1)
        return traced.predictions, self.state_weight * (counts * moved).sum() / n_labels

    def state(self) -> dict[str, Any]:
        """The multiplier that was found so far."""
        return {"multiplier": self.multiplier}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on with what ``state`` gave."""
        self.multiplier = state["multiplier"]

    def _retain(self, predictions: Predictions, batch: MicroBatch) -> Tensor:
        assert batch.retain is not None
        if self.retain is None:
            return -predictions.label_logprobs.sum() / batch.n_retain_labels
        label = self.retain.at(batch.retain.records.tolist(), predictions.logprobs.device)
        return label.divergence(predictions.logprobs).sum() / batch.n_retain_labels

    def _weight(self, batch: MicroBatch, retain: Tensor) -> float:
        if self.config.retain != "constraint":
            return self.config.retain_weight
        assert batch.retain is not None
        # A micro-batch answers for its share of the step's limit.
        share = float((batch.retain.labels[:, 1:] >= 0).sum()) / batch.n_retain_labels
        excess = float(retain.detach()) - self.limit * share
        self.multiplier = max(0.0, self.multiplier + self.config.dual_rate * excess)
        return self.multiplier


def _nll(lm: LanguageModel, pairs: Pairs) -> float:
    """Nats per labelled token of the retain records."""
    total, count = 0.0, 0
    for _, predictions in predicted(lm, pairs.retain, pairs.config.loss_on):
        total -= float(predictions.label_logprobs.sum())
        count += len(predictions.labels)
    return total / max(count, 1)
