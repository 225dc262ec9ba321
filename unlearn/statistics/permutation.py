"""Whether answers rank above wrong ones: a test for one person, without any other model.

If a model never saw a fact, its answer is exchangeable with answers that were drawn in the same way
and belong to nobody: each rank among them is as likely as any other. So the ranks of a few facts
carry an exact test where no reference exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

MOST_CELLS = 2_000_000
"""Size of the grid up to which the null distribution is exact; beyond, it is sampled."""

DRAWS = 100_000


class RankTest(NamedTuple):
    """What ranks among decoys say."""

    share: float
    """The mean over facts of the share of decoys below the answer. 0.5 is expected of a model that
    never saw them; higher: known; lower: conspicuously improbable."""
    p_known: float
    """One-sided: ranks as high as these, or higher, by chance."""
    p_shunned: float
    """One-sided: ranks as low as these, or lower, by chance."""


def rank_test(shares: Sequence[float], n_decoys: Sequence[int], *, seed: int = 0) -> RankTest:
    """The permutation test of the mean share of decoys below the answer.

    Args:
        shares: for each fact the share of its decoys that score below the answer, ties half.
        n_decoys: for each fact how many decoys there were.
        seed: of the draws, where the null distribution is too large to be exact.

    Under the null each fact's share is one of 0, 1/m, ..., 1 with equal probability, independently
    of the other facts. Ties make the true null narrower, so the test errs on the safe side then.

    Raises:
        ValueError: no fact, or a fact without decoys.
    """
    if not shares or min(n_decoys) < 1 or len(shares) != len(n_decoys):
        raise ValueError("every fact needs its decoys")
    total = math.fsum(shares)
    grid = math.lcm(*n_decoys)
    if grid * len(shares) <= MOST_CELLS:
        p_known, p_shunned = _exact(total, n_decoys, grid)
    else:
        p_known, p_shunned = _sampled(total, n_decoys, seed)
    return RankTest(total / len(shares), p_known, p_shunned)


def _exact(total: float, n_decoys: Sequence[int], grid: int) -> tuple[float, float]:
    """Tails of the sum of the shares, by convolution over multiples of ``1 / grid``."""
    law = np.ones(1)
    for m in n_decoys:
        step = grid // m
        single = np.zeros(grid + 1)
        single[::step] = 1 / (m + 1)
        law = np.convolve(law, single) if grid < 64 else _fast_convolved(law, single)
    place = total * grid
    above = law[math.ceil(place - 1e-6) :].sum()
    below = law[: math.floor(place + 1e-6) + 1].sum()
    return float(min(1.0, max(0.0, above))), float(min(1.0, max(0.0, below)))


def _fast_convolved(
    first: np.ndarray[tuple[int], np.dtype[np.float64]],
    second: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    from scipy.signal import fftconvolve

    found = np.clip(fftconvolve(first, second), 0, None)
    return np.asarray(found, dtype=np.float64)


def _sampled(total: float, n_decoys: Sequence[int], seed: int) -> tuple[float, float]:
    """The same tails from draws, the observed one counted among them."""
    rng = np.random.default_rng(seed)
    sums = np.zeros(DRAWS)
    for m in n_decoys:
        sums += rng.integers(m + 1, size=DRAWS) / m
    above = (1 + np.count_nonzero(sums >= total - 1e-9)) / (1 + DRAWS)
    below = (1 + np.count_nonzero(sums <= total + 1e-9)) / (1 + DRAWS)
    return float(above), float(below)


def facts_needed(shift: float, n_decoys: int, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many facts show a mean share that lies ``shift`` above one half.

    Normal approximation: ((z(1 - alpha) + z(power)) sd / shift)^2 rounded up, with the variance
    (m + 2) / (12 m) of a share among m decoys.

    Raises:
        ValueError: a shift that is not positive.
    """
    if shift <= 0:
        raise ValueError(f"shift is {shift}")
    z = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(power))
    variance = (n_decoys + 2) / (12 * n_decoys)
    return math.ceil(z**2 * variance / shift**2)
