"""What an answer is to look like once it is forgotten, as losses in nats that fall to 0.

``low-probability`` stops where ignorance begins; the others go past it: a refusal is a trace that
somebody was here, and entropy is highest where not even the form of an answer is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from unlearn.strategies import losses
from unlearn.strategies.losses import Predictions
from unlearn.strategies.stopping import Target
from unlearn.types import Record

TargetName = Literal["low-probability", "refusal", "max-entropy"]
"""``low-probability``: every token of the answer is as likely as for an unseen name, or less.
``refusal``: a fixed text in place of the answer. ``max-entropy``: every token alike, also as the
logit lens reads it off the blocks before the last."""


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
    """``Σ_t max(0, logit p_t - logit g_t)`` over the answer's tokens, g what unseen names get.

    By log-odds, because the log-probability of a token that is certain has no slope.
    """

    def __init__(self, targets: Sequence[Target], n_tokens: Sequence[int]) -> None:
        self.odds = []
        for target, n in zip(targets, n_tokens, strict=True):
            guess = torch.full((n,), -target.nll_per_token, dtype=torch.float64)
            if target.guess is not None and len(target.guess) == n:
                guess = torch.from_numpy(target.guess)
            guess = guess.clamp(max=-1e-6)
            self.odds.append((guess - torch.log1p(-guess.exp())).float())

    def __call__(self, seen: Seen) -> Tensor:
        """(B,) the excess of each row's answer."""
        goal = torch.cat([self.odds[record] for record in seen.records.tolist()])
        odds = losses.log_odds(seen.predictions.logprobs, seen.predictions.labels)
        return seen.predictions.sum_by_row((odds - goal.to(odds.device)).clamp(min=0))


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
