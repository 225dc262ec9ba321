"""What an anti-expert does to a weight and an expert does not, row by row; and rank-limited copies.

Ext-Sub, Hu et al. 2024, arXiv:2308.08090.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def unshared(expert: Tensor, anti: Tensor) -> Tensor:
    """The rows of ``anti`` without what they share with those of ``expert``, (out, in).

    For each row ``w- - (w- . c) c`` with ``c = norm(norm(w+) + norm(w-))``, the direction half-way
    between the two. A row that is zero in either shares nothing, and neither do two that are
    opposite. Every row lies in the span of the two adapters' own rows, so the result has at most
    the sum of their ranks.
    """
    expert, anti = expert.double(), anti.double()
    common = _unit(_unit(expert) + _unit(anti))
    shared = (anti * common).sum(-1, keepdim=True) * common
    alone = (expert.norm(dim=-1, keepdim=True) == 0) | (anti.norm(dim=-1, keepdim=True) == 0)
    return torch.where(alone, anti, anti - shared)


def _unit(rows: Tensor) -> Tensor:
    norms = rows.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)


class Factored(NamedTuple):
    """Matrices as products of two factors."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """Module to A, (rank, in), and B, (out, rank); ``B A`` is the best of that rank."""
    error: float
    """Norm of what was cut off, relative to that of the whole; 0 where the rank is enough."""


def factored(matrices: Mapping[str, Tensor], rank: int) -> Factored:
    """Each matrix, (out, in), as factors of ``rank``, by its largest singular values.

    A matrix with fewer singular values gets factors that end in zeros.
    """
    factors = {}
    lost = total = 0.0
    for module, matrix in matrices.items():
        left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        kept = min(rank, len(values))
        root = values[:kept].sqrt()
        down = torch.zeros(rank, matrix.shape[1])
        up = torch.zeros(matrix.shape[0], rank)
        down[:kept] = (root[:, None] * right[:kept]).float()
        up[:, :kept] = (left[:, :kept] * root).float()
        factors[module] = (down, up)
        lost += float(values[kept:].square().sum())
        total += float(values.square().sum())
    return Factored(factors, (lost / total) ** 0.5 if total else 0.0)
