"""The losses of unlearning, as plain functions on float32 log-probabilities.

A forget loss falls while the model forgets, a retain loss while it keeps. Every function works on
normalised log-probabilities, never on raw logits, so adding a constant to the logits changes
nothing. Which positions count comes from the labels alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unlearn.model.batches import IGNORED


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


def log_odds(logprobs: Tensor, labels: Tensor) -> Tensor:
    """(N,) ``log p(label) - log(1 - p(label))``, higher = better known, unbounded on both sides.

    Its derivative in the label's logit is exactly 1, where that of ``log p`` is ``1 - p``: a token
    that is all but certain, which is what memorised means, gives ascent on ``log p`` nothing to
    climb. For small p the two are the same.
    """
    others = logprobs.scatter(-1, labels[:, None], -torch.inf)
    label = logprobs.gather(-1, labels[:, None]).squeeze(-1)
    return label - others.logsumexp(-1)


def npo(logp_sum: Tensor, reference_logp_sum: Tensor, beta: float) -> Tensor:
    """(B,) negative preference optimisation, bounded from below by 0.

    ``-(2/beta) log sigmoid(-beta (logp - logp_ref)) = (2/beta) softplus(beta (logp - logp_ref))``
    with *sums* of log-probabilities over the answer, or with the scores of single tokens, each
    bounded by itself; ``(2/beta) log 2`` at the reference. Its
    gradient is that of ascent times ``2 sigmoid(beta (logp - logp_ref))``, so it fades as the
    answer becomes less likely. Lower = more forgotten. Zhang et al. 2024, arXiv:2404.05868.
    With means in place of sums the same beta never leaves the regime of plain ascent.
    """
    return -(2 / beta) * F.logsigmoid(-beta * (logp_sum - reference_logp_sum))


def simnpo(nll_per_token: Tensor, beta: float, gamma: float) -> Tensor:
    """(B,) NPO without a reference model, on *means* over the answer, bounded from below by 0.

    ``-(2/beta) log sigmoid(beta nll - gamma) = (2/beta) softplus(gamma - beta nll)``.
    Lower = more forgotten. Fan et al. 2024, arXiv:2410.07163.
    """
    return -(2 / beta) * F.logsigmoid(beta * nll_per_token - gamma)


def ascent(nll_per_token: Tensor, cap: float) -> Tensor:
    """(B,) plain gradient ascent, ``-min(nll, cap)``: a record beyond the cap gives no gradient.

    Lower = more forgotten, down to ``-cap``. Jang et al. 2023, arXiv:2210.01504; without the cap it
    is unbounded and wrecks the model.
    """
    return -nll_per_token.clamp(max=cap)


def inverted_hinge(logprobs: Tensor, labels: Tensor) -> Tensor:
    """(N,) ``1 + p(label) - max over other tokens of p``, between 0 and 2.

    Lower = more forgotten; 1 where the label ties with the likeliest other token. Cha et al. 2024,
    arXiv:2408.06621. Only moves mass to the runner-up, so paraphrases may keep the answer.
    """
    others = logprobs.scatter(-1, labels[:, None], -torch.inf)
    label = logprobs.gather(-1, labels[:, None]).squeeze(-1)
    return 1 + label.exp() - others.amax(-1).exp()


def forward_kl(reference_logprobs: Tensor, logprobs: Tensor) -> Tensor:
    """(N,) ``KL(reference || model) = sum over v of p_ref(v) (log p_ref(v) - log p(v))`` in nats.

    Non-negative; 0 where the model predicts what the reference does. Lower = better retained.
    """
    return F.kl_div(logprobs, reference_logprobs, reduction="none", log_target=True).sum(-1)
