"""The embeddings of some prompt tokens, corrupted for the length of a ``with`` block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from unlearn.model.corruption import gaussian
from unlearn.model.encoding import Reading
from unlearn.model.hooks import patch
from unlearn.model.language_model import LanguageModel
from unlearn.model.policy import Corruption


@contextmanager
def corrupting(
    lm: LanguageModel, readings: Sequence[Reading], offsets: Sequence[int]
) -> Iterator[None]:
    """A block in which the embedding puts out what the readings' policies make of their tokens.

    ``offsets`` are the columns of the batch in which the readings' first tokens stand; below 0
    where those are in a cache.
    """
    rows = [row for row, reading in enumerate(readings) if reading.corrupted]
    if not rows:
        yield
        return

    def corrupt(output: Tensor) -> Tensor:
        for row in rows:
            columns = [position + offsets[row] for position in readings[row].corrupted]
            output[row, columns] = corrupted(output[row, columns], readings[row])
        return output

    with patch(lm.model, {lm.anatomy.embedding: corrupt}):
        yield


def corrupted(vectors: Tensor, reading: Reading) -> Tensor:
    """The embeddings (token, width) of a reading's corrupted tokens as its policy makes them.

    Noise is drawn from the policy's seed and the prompt alone.
    """
    corruption = reading.treatment.corruption
    assert corruption is not None
    if corruption.kind == "zero":
        return _without_largest(vectors, corruption.strength)
    deviation = corruption.strength * float(vectors.float().std())
    shape = (1, len(vectors), vectors.shape[-1])
    noise = gaussian(shape, range(len(vectors)), deviation, _seed(corruption, reading.prompt))
    return vectors + noise[0].to(vectors)


def _without_largest(vectors: Tensor, share: float) -> Tensor:
    n = round(min(share, 1.0) * vectors.shape[-1])
    largest = vectors.abs().topk(n, dim=-1).indices
    return vectors.scatter(-1, largest, torch.zeros_like(vectors))


def _seed(corruption: Corruption, prompt: str) -> int:
    told = f"{corruption.seed} {prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(told).digest()[:7], "big")
