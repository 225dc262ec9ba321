"""What a teacher predicts, computed once and kept: the likeliest tokens, and the mass of the rest.

A vocabulary of 128 000 tokens makes half a megabyte of one prediction. The likeliest few hundred
hold nearly all of its mass; the others are kept as one outcome, "something else", so that their
mass is not silently given to the ones that were kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from unlearn.strategies.kept_rows import KeptRows

Direction = Literal["forward", "reverse"]
"""``forward``: KL(teacher || student), the student has to cover what the teacher says. ``reverse``:
KL(student || teacher), the student may leave out what the teacher says, but add nothing."""

ALMOST_ALL = -1e-7
"""The largest log of a mass whose complement is still more than nothing in float32."""


class SoftLabel(NamedTuple):
    """A teacher's predictions at N positions."""

    ids: Tensor
    """(N, k) the likeliest tokens"""
    logprobs: Tensor
    """(N, k) float32"""
    tail: Tensor
    """(N,) log of the mass of all other tokens; -inf where there are none"""

    @classmethod
    def of(cls, logprobs: Tensor, top_k: int) -> SoftLabel:
        """The ``top_k`` likeliest tokens of (N, vocabulary) log-probabilities."""
        logprobs = logprobs.float()
        top, ids = logprobs.topk(min(top_k, logprobs.shape[-1]), dim=-1)
        if top.shape[-1] == logprobs.shape[-1]:
            return cls(ids, top, torch.full_like(top[:, 0], -torch.inf))
        # Summed and not subtracted from 1: of a sure prediction little more than rounding is left.
        others = logprobs.scatter(-1, ids, -torch.inf)
        return cls(ids, top, others.logsumexp(-1))

    def divergence(self, logprobs: Tensor, direction: Direction = "forward") -> Tensor:
        """(N,) the KL divergence in nats between the teacher and (N, vocabulary) of the student.

        Over k + 1 outcomes: the tokens kept, and all others as one. It is never more than that over
        the whole vocabulary, and equal to it where all tokens are kept or the two agree on how the
        tail is shared out. Lower: the student is closer to the teacher.
        """
        kept = logprobs.gather(-1, self.ids)
        mass = kept.logsumexp(-1).clamp(max=ALMOST_ALL)
        tail = torch.log(-torch.expm1(mass))
        pairs = [(self.logprobs, kept), (self.tail[:, None], tail[:, None])]
        terms = [_pointwise(*(pair if direction == "forward" else pair[::-1])) for pair in pairs]
        if not torch.isfinite(self.tail).any():
            return terms[0].sum(-1)
        return terms[0].sum(-1) + terms[1].sum(-1)


def _pointwise(p: Tensor, q: Tensor) -> Tensor:
    """``p log(p/q)`` of log-probabilities, 0 where p is 0."""
    # The floor keeps an impossible outcome from giving an infinite loss, or 0 times infinity.
    floor = math.log(torch.finfo(torch.float32).tiny)
    p, q = p.clamp(min=floor), q.clamp(min=floor)
    return p.exp() * (p - q)


class SoftLabels:
    """Soft labels of many statements, in memory or in a memory-mapped file.

    >>> labels = SoftLabels.collect(pieces, top_k=256, memory=2**30)      # doctest: +SKIP
    >>> labels.at([3, 0]).divergence(student_logprobs).mean()             # doctest: +SKIP
    """

    def __init__(self, rows: KeptRows) -> None:
        self.rows = rows

    @classmethod
    def collect(cls, pieces: Iterable[Tensor], top_k: int, memory: int) -> SoftLabels:
        """The soft labels of statements, from (T, vocabulary) log-probabilities of each.

        Beyond ``memory`` bytes they lie in a temporary file and are read from there.
        """
        found = [SoftLabel.of(piece, top_k) for piece in pieces]
        columns = {
            field: torch.cat([getattr(one, field) for one in found]).cpu()
            for field in SoftLabel._fields
        }
        columns["ids"] = columns["ids"].int()
        return cls(KeptRows(columns, [len(one.tail) for one in found], memory))

    def at(self, statements: Sequence[int], device: Any = "cpu") -> SoftLabel:
        """Those of the statements, one after the other."""
        ids, logprobs, tail = (
            self.rows.at(name, statements).to(device) for name in SoftLabel._fields
        )
        return SoftLabel(ids.long(), logprobs, tail)
