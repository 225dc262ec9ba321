"""Adapters of later requests kept out of what earlier ones read.

A LoRA reads its input through the rows of A. If those of a new adapter are orthogonal to all rows
of the earlier ones, then ``A_new A_old^T = 0``: what the earlier adapters react to, the new one
does not see. Training is projected gradient descent: after each step the rows are put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn.errors import UnsupportedError
from unlearn.strategies.adapter_arithmetic import adapted


def occupied(network: Any, names: Sequence[str], rank: int) -> dict[str, Tensor]:
    """Module to an orthonormal basis, (k, in), of the rows of A of all these adapters.

    Raises:
        UnsupportedError: the rows leave no room for ``rank`` more.
    """
    rows: dict[str, list[Tensor]] = {}
    for name in names:
        for module, layer in adapted(network, name, "lora_A"):
            rows.setdefault(module, []).append(layer.lora_A[name].weight.detach().double())
    bases = {module: _basis(torch.cat(found)) for module, found in rows.items()}
    for module, basis in bases.items():
        free = basis.shape[1] - basis.shape[0]
        if free < rank:
            raise UnsupportedError(
                f"the earlier adapters leave {free} of {basis.shape[1]} directions of {module} "
                f"free, and the new one needs {rank}; lower rank, or merge and start anew"
            )
    return bases


def _basis(rows: Tensor) -> Tensor:
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    basis: Tensor = right[values > 1e-6 * values.max()]
    return basis


@torch.no_grad()
def project(network: Any, name: str, bases: Mapping[str, Tensor]) -> None:
    """Takes out of the rows of A what lies in the bases."""
    for module, layer in adapted(network, name, "lora_A"):
        if module in bases:
            down, basis = layer.lora_A[name].weight, bases[module]
            # In float64, twice: what rounding leaves of the first pass the second takes out.
            for _ in range(2):
                rows = down.double()
                down.copy_(rows - rows @ basis.T @ basis)
