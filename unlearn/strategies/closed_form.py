"""The change of a matrix that gives new answers to some keys and disturbs the others least.

A down-projection is read as a memory: W k is its answer to the key k. All updates here are of the
form ΔW = Aᵀ (C⁻¹ K)ᵀ, so they move the answer to a key k only by its overlap kᵀ C⁻¹ K with the
edited ones, measured against C, the second moment of all keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.errors import NumericalError
from unlearn.model.covariance import solve

RELATIVE_RANK = 1e-10
"""Directions of the edited keys that are weaker than this share of the strongest are one key."""


def least_change(moment: Tensor, keys: Tensor, moves: Tensor, slack: float = 0.0) -> Tensor:
    """ΔW (out, in), float64, that moves the answers to the keys.

    It minimises ``‖ΔW k - r‖² + λ tr(ΔW C ΔWᵀ)`` summed over the keys k (rows of K) and moves r
    (rows of R): ``ΔWᵀ = C⁻¹Kᵀ (K C⁻¹ Kᵀ + λ I)⁻¹ R`` with λ = ``slack`` times the mean diagonal of
    ``K C⁻¹ Kᵀ`` (Meng et al. 2023, MEMIT, eq. 14). With no slack and one key that is ROME's
    ``r uᵀ / (uᵀ k)``, u = C⁻¹ k (Meng et al. 2022, eq. 2), and k gets exactly r. Moves of equal
    keys are averaged: no order in which edits come, and no last one that wins.

    Args:
        moment: C, (in, in), positive definite.
        keys: (key, in).
        moves: what is to be added to the answer of each key, (key, out).
        slack: 0 or more; the larger, the less the answers move and the less all else does.

    Raises:
        NumericalError: C cannot be solved, or a key, a move or the change is not finite.
    """
    keys, moves = keys.double(), moves.double()
    against = solve(moment, keys)
    overlap = keys @ against.T
    if not (torch.isfinite(overlap).all() and torch.isfinite(moves).all()):
        raise NumericalError("keys or values of the edit are not finite; try dtype float32")
    overlap.diagonal().add_(slack * overlap.diagonal().mean())
    # A pseudo-inverse, for equal keys make the overlap singular.
    inverse = torch.linalg.pinv(overlap, rtol=RELATIVE_RANK, hermitian=True)
    change: Tensor = (inverse @ moves).T @ against
    return change
