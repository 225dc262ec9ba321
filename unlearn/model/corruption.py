"""A prompt and its corrupted twins: the same length, with something in it made unknowable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import ConfigError
from unlearn.model.hooks import patch


@dataclass(frozen=True)
class Pair:
    """Token ids of one prompt, clean and in N corrupted versions of equal length.

    >>> Pair(torch.tensor([5, 6, 7]), torch.tensor([[5, 9, 7]])).first
    1
    """

    clean: Tensor
    """(token,)"""
    corrupted: Tensor
    """(row, token)"""
    noise: Tensor | None = None
    """What is added to what the embedding puts out, (row, token, width); zero where nothing is."""

    def __post_init__(self) -> None:
        assert self.corrupted.ndim == 2 and self.clean.shape == self.corrupted.shape[1:]
        assert self.noise is None or self.noise.shape[:2] == self.corrupted.shape

    @property
    def n_rows(self) -> int:
        """How many corrupted versions there are."""
        return len(self.corrupted)

    @property
    def n_tokens(self) -> int:
        """The length of the prompt and of each of its versions."""
        return len(self.clean)

    @property
    def first(self) -> int:
        """The first corrupted position; ``n_tokens`` where nothing is corrupted."""
        changed = (self.corrupted != self.clean).any(0)
        if self.noise is not None:
            changed |= self.noise.ne(0).any(-1).any(0).to(changed.device)
        where = torch.nonzero(changed)
        return int(where[0]) if len(where) else self.n_tokens

    def to(self, device: torch.device) -> Pair:
        """The same with its token ids on a device; noise goes there as it is needed."""
        return Pair(self.clean.to(device), self.corrupted.to(device), self.noise)

    def pieces(self, max_rows: int) -> Iterator[Pair]:
        """The same prompt with at most ``max_rows`` of its corrupted versions at a time."""
        for at in range(0, self.n_rows, max_rows):
            rows = slice(at, at + max_rows)
            noise = None if self.noise is None else self.noise[rows]
            yield replace(self, corrupted=self.corrupted[rows], noise=noise)


def embedding_noise(
    model: nn.Module, embedding: str, pair: Pair, rows: Tensor, positions: slice
) -> Any:
    """A block in which the embedding adds the pair's noise for these rows and positions."""
    if pair.noise is None:
        return nullcontext()
    noise = pair.noise[rows.to(pair.noise.device), positions]
    return patch(model, {embedding: lambda out: out + noise.to(out)})


def gaussian(
    shape: tuple[int, int, int], positions: Sequence[int], deviation: float, seed: int
) -> Tensor:
    """Normal noise at the given positions, zero elsewhere, (row, token, width), float32.

    The draw is ``torch.randn(rows, len(positions), width)`` of a CPU generator seeded with
    ``seed``, times ``deviation``; so anybody can make it again, and every cell of a prompt sees
    the same noise.
    """
    if not deviation > 0:
        raise ConfigError(f"noise with standard deviation {deviation} corrupts nothing")
    n_rows, n_tokens, width = shape
    generator = torch.Generator().manual_seed(seed)
    noise = torch.zeros(n_rows, n_tokens, width)
    noise[:, list(positions)] = deviation * torch.randn(
        n_rows, len(positions), width, generator=generator
    )
    return noise


def spread(model: nn.Module, embedding: str, ids: Sequence[int]) -> float:
    """The standard deviation over all entries of the given tokens' embeddings.

    ROME's measure (Meng et al. 2022): one figure, of what the embedding module puts out.
    """
    module: Any = model.get_submodule(embedding)
    with torch.no_grad():
        vectors = module(torch.tensor(sorted(set(ids)), device=module.weight.device))
    return float(vectors.float().std())
