"""What an answer is to look like once it is forgotten, as losses in nats that fall to 0.

``low-probability`` stops where ignorance begins; the others go past it: a refusal is a trace that
somebody was here, and entropy is highest where not even the form of an answer is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearn.strategies import losses
from unlearn.strategies.predictions import Predictions
from unlearn.strategies.stopping import Target
from unlearn.types import Record

TargetName = Literal["low-probability", "refusal", "max-entropy"]
"""``low-probability``: every token of the answer is as likely as for an unseen name, or less.
``refusal``: a fixed text in place of the answer. ``max-entropy``: every token alike, also as the
logit lens reads it off the blocks before the last."""


BAND = 3.0
"""Nats below what an unseen name gets that are still no trace of forgetting."""


class Seen(NamedTuple):
    """What a model says in a batch of rows, at their labels."""

    predictions: Predictions
    records: Tensor
    """(B,) which record each row is of."""
    depths: tuple[Tensor, ...] = ()
    """(N, vocabulary) log-probabilities through the lens, of each block that is read."""


class Ignorance(Protocol):
    """A loss for each row of a batch."""

    def __call__(self, seen: Seen) -> Tensor:
        """(B,) nats from ignorance; 0 where nothing is left to do."""
        ...


class LowProbability:
    """``Σ_t`` of how far ``logit p_t`` lies outside a band below ``logit g_t``, g of unseen names.

    The band reaches ``BAND`` nats down, or to what the token had before, since one that is no
    knowledge need not become likelier. By log-odds, because the log-probability of a token that is
    certain has no slope; from below too, because an answer that has become impossible is a trace.
    """

    def __init__(
        self, targets: Sequence[Target], before: Sequence[npt.NDArray[np.floating[Any]]]
    ) -> None:
        """Per record its target, and the log-probabilities of its answer's tokens so far."""
        self.bands = []
        for target, logprobs in zip(targets, before, strict=True):
            own = torch.from_numpy(np.asarray(logprobs, dtype=np.float64))
            guess = torch.full_like(own, -target.nll_per_token)
            if target.guess is not None and len(target.guess) == len(own):
                guess = torch.from_numpy(target.guess)
            high = _log_odds(guess)
            low = torch.minimum(high - BAND, _log_odds(own))
            self.bands.append(torch.stack([low, high]).float())

    def __call__(self, seen: Seen) -> Tensor:
        """(B,) the distance of each row's answer from its band."""
        odds = losses.log_odds(seen.predictions.logprobs, seen.predictions.labels)
        low, high = torch.cat([self.bands[i] for i in seen.records.tolist()], 1).to(odds.device)
        outside = (odds - high).clamp(min=0) + (low - odds).clamp(min=0)
        return seen.predictions.sum_by_row(outside)


def _log_odds(logprobs: Tensor) -> Tensor:
    certain = logprobs.clamp(max=-1e-6)
    return certain - torch.log1p(-certain.exp())


class Refusal:
    """The NLL of the refusal that stands in the rows in place of the answer."""

    def __call__(self, seen: Seen) -> Tensor:
        """(B,) summed over the refusal's tokens."""
        return -seen.predictions.sum_by_row(seen.predictions.label_logprobs)


class MaxEntropy:
    """``log V - H``, the mean over the answer's tokens and the blocks that are read.

    Patil et al. 2024, arXiv:2309.17410, against answers that the logit lens still shows.
    """

    def __call__(self, seen: Seen) -> Tensor:
        """(B,) how much less entropy than the uniform distribution has."""
        depths = [seen.predictions.logprobs, *seen.depths]
        entropy = torch.stack([-(d.exp() * d).sum(-1) for d in depths]).mean(0)
        lacking = math.log(depths[0].shape[-1]) - entropy
        return seen.predictions.mean_by_row(lacking)


def refusing(record: Record, refusal: str) -> Record:
    """The record with the refusal for an answer."""
    return record.model_copy(update={"answer": refusal})
