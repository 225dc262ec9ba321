"""Intervals, tests and sample sizes for figures that come in clusters. No torch here.

What a model knows about one subject rises and falls together, so the unit that is drawn at random
is the subject and not the record: every function here takes cluster labels. Treating twenty
questions about each of twenty people as four hundred independent ones rejects a true null several
times too often.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize, stats

from unlearn.errors import NumericalError

MANY_CLUSTERS = 30
"""From here on intervals come from the bootstrap. With fewer clusters the percentile bootstrap is
too narrow (about 85 % instead of 95 % at five), so Student's t is used."""

DRAWS = 2_000
"""Bootstrap draws of an interval."""

EXACT_CLUSTERS = 12
"""Up to here a sign-flip test enumerates every assignment of signs (4 096); beyond, it samples."""

SIGN_DRAWS = 10_000
CHUNK = 1_000_000
"""Array entries a resampling step may hold at once."""

INTRACLASS_CORRELATION = 0.2
"""How alike the facts of one subject usually are (0 to 1): for the number of subjects that a single
subject suggests, and for nothing that decides."""

WORST_CORRELATION = 0.4
"""The intraclass correlation (0 to 1) that a bound on rare exceptions allows for. Higher: wider.

Rare exceptions do not show how they cluster, so it is set beforehand: well above what is usual, and
low enough that ten people with eight facts each can be shown to be forgotten within 10 points. An
error of 5 % stays below 5 % up to 0.4 and reaches 9 % at 0.5 in the simulations of LOG.md. To pass
on 2 points without a loss takes 46 subjects of eight facts, on 10 points 9; at 0.5, 55 and 11."""

ZERO_SPREAD = 1e-12

Bounds = tuple[float, float]
Position = Literal["inside", "outside", "across"]

UNBOUNDED: Bounds = (-math.inf, math.inf)


class Interval(NamedTuple):
    """A mean and how far it may be off."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """Figures with the cluster each belongs to.

    >>> Sample([1.0, 0.0, 1.0], ["Ada", "Ada", "Bo"]).n_clusters
    2

    Raises:
        NumericalError: a figure is not a finite number.
    """

    figures: Sequence[float]
    labels: Sequence[Hashable]

    def __post_init__(self) -> None:
        assert len(self.figures) == len(self.labels) > 0
        if not np.isfinite(self.values).all():
            raise NumericalError("a figure is NaN or infinite, so it has no mean and no interval")

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The figures as an array."""
        return np.asarray(self.figures, dtype=np.float64)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """The number of each figure's cluster, counted in order of appearance."""
        number = {label: i for i, label in enumerate(dict.fromkeys(self.labels))}
        return np.array([number[label] for label in self.labels], dtype=np.int64)

    @property
    def n_clusters(self) -> int:
        """How many clusters there are."""
        return int(self.codes.max()) + 1

    @property
    def mean(self) -> float:
        """The mean over figures; a cluster with more figures weighs more."""
        return float(self.values.mean())

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """The sum of each cluster's figures."""
        return np.bincount(self.codes, weights=self.values).astype(np.float64)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many figures each cluster has."""
        return np.bincount(self.codes).astype(np.int64)

    @property
    def n_even_clusters(self) -> int:
        """How many clusters of one size are as uncertain: n^2 / sum of squared sizes, rounded down.

        Kish (1965), Survey Sampling. The number of clusters where they are of one size.
        """
        return int(len(self.values) ** 2 / np.square(self.sizes).sum() + ZERO_SPREAD)

    @property
    def standard_error(self) -> float:
        """Cluster-robust standard error of the mean; infinite with one cluster.

        sqrt(m / (m - 1) * sum over clusters of (sum of residuals)^2) / n, the linearised error of a
        ratio of totals, with the small-sample factor.
        """
        m = self.n_clusters
        if m < 2:
            return math.inf
        residuals = self.sums - self.mean * self.sizes
        return float(np.sqrt(m / (m - 1) * np.square(residuals).sum()) / len(self.values))


def cluster_t(sample: Sample, confidence: float = 0.95) -> Interval:
    """The mean with a Student t interval on (clusters - 1) degrees of freedom."""
    if sample.n_clusters < 2:
        return Interval(sample.mean, *UNBOUNDED)
    quantile = float(stats.t.ppf((1 + confidence) / 2, sample.n_clusters - 1))
    half = quantile * sample.standard_error
    return Interval(sample.mean, sample.mean - half, sample.mean + half)


def cluster_bootstrap(
    sample: Sample, confidence: float = 0.95, *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """The mean with a percentile interval over ``draws`` resamples of whole clusters."""
    rng = np.random.default_rng(seed)
    m = sample.n_clusters
    chunk = max(1, CHUNK // m)
    means = []
    for start in range(0, draws, chunk):
        picked = rng.integers(m, size=(min(chunk, draws - start), m))  # (draw, cluster)
        means.append(sample.sums[picked].sum(axis=1) / sample.sizes[picked].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return Interval(sample.mean, float(low), float(high))


def mean_interval(
    sample: Sample,
    confidence: float = 0.95,
    *,
    seed: int = 0,
    bounds: Bounds = UNBOUNDED,
    n_units: int | None = None,
) -> Interval:
    """The mean with the interval that suits the number of clusters.

    Args:
        sample: the figures.
        confidence: two-sided.
        seed: of the bootstrap.
        bounds: what a figure can be; the interval is cut there.
        n_units: how many facts the figures are about; by default one for each cluster. A few
            exceptions, or none, say little about how exceptions are spread, and t and bootstrap
            are then too narrow. So the interval of a bounded figure is never narrower than
            ``bounded_interval`` for that many facts.
    """
    many = sample.n_clusters >= MANY_CLUSTERS
    found = (
        cluster_bootstrap(sample, confidence, seed=seed) if many else cluster_t(sample, confidence)
    )
    value, low, high = found
    if math.isfinite(bounds[1] - bounds[0]):
        units = Units(n_units or sample.n_clusters, sample.n_even_clusters)
        floor = bounded_interval(sample, units, confidence, signed=bounds[0] < 0)
        low, high = min(low, floor.low), max(high, floor.high)
    return Interval(value, max(low, bounds[0]), min(high, bounds[1]))


class Units(NamedTuple):
    """How many facts there are, and of how many clusters of like size."""

    n: int
    n_clusters: int


def bounded_interval(
    sample: Sample, units: Units, confidence: float = 0.95, *, signed: bool
) -> Interval:
    """The mean of figures in (-1 or) 0 to 1, from exact tests that allow for clusters.

    Gains and losses are bounded each, and the ends of their difference are the unfavourable ends
    of both. Neither end is nearer to the mean than where no exception was seen, but for the limit
    of what a figure can be.
    """
    tail = (1 - confidence) / 2
    above, below = np.maximum(sample.values, 0), np.maximum(-sample.values, 0)
    low, high = 1 - _most(1 - above, units, tail), _most(above, units, tail)
    if signed:
        low -= _most(below, units, tail)
        high -= 1 - _most(1 - below, units, tail)
    half = share_at_most(0, units, tail)
    return Interval(sample.mean, min(low, sample.mean - half), max(high, sample.mean + half))


def _most(sizes: NDArray[np.float64], units: Units, tail: float) -> float:
    """The upper bound of a mean of ``sizes`` in 0..1.

    The mean is that of sizes up to the largest seen, which is highest where all exceptions are of
    that size, and that of what goes beyond, of which no case was seen.
    """
    largest = float(sizes.max())
    unseen = (1 - largest) * share_at_most(0, units, tail)
    if largest < ZERO_SPREAD:
        return unseen
    count = float(sizes.mean()) / largest * units.n
    return largest * share_at_most(min(count, units.n), units, tail) + unseen


def share_at_most(count: float, units: Units, tail: float) -> float:
    """The upper bound of the share of exceptions where ``count`` of the facts were exceptions.

    The share at which so few have probability ``tail``: the bound of Clopper and Pearson (1934)
    with the beta-binomial distribution in each cluster (Williams 1975, Biometrics 31) in place of
    the binomial, at the intraclass correlation ``WORST_CORRELATION``. One fact a cluster gives
    Clopper and Pearson. It never falls as exceptions are added. Counts between whole numbers are
    interpolated. Known failure: exceptions that come all or nothing, whole subjects at a time.
    """
    whole = math.floor(count + ZERO_SPREAD)
    part = max(0.0, count - whole)
    bound = _share_at_most(whole, units, tail)
    if part < ZERO_SPREAD:
        return bound
    return (1 - part) * bound + part * _share_at_most(whole + 1, units, tail)


@lru_cache(maxsize=4096)
def _share_at_most(count: int, units: Units, tail: float) -> float:
    if count >= units.n:
        return 1.0
    least = ZERO_SPREAD
    return float(
        optimize.brentq(lambda p: probability_at_most(count, units, p) - tail, least, 1 - least)
    )


def probability_at_most(count: int, units: Units, share: float) -> float:
    """The probability of at most ``count`` exceptions where each fact is one with ``share``.

    Beta-binomial within a cluster at ``WORST_CORRELATION``, independent between clusters.
    """
    scale = 1 / WORST_CORRELATION - 1
    size, larger = divmod(units.n, units.n_clusters)
    length = fft.next_fast_len(units.n + 1, real=True)
    total = np.ones(length // 2 + 1, dtype=np.complex128)
    for k, m in ((size, units.n_clusters - larger), (size + 1, larger)):
        if k and m:
            law = stats.betabinom.pmf(np.arange(k + 1), k, share * scale, (1 - share) * scale)
            total *= fft.rfft(law, length) ** m
    return float(fft.irfft(total, length)[: count + 1].sum())


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """The probability of at least so many successes where each has probability ``share``."""
    return float(stats.binom.sf(successes - 1, trials, share))


def sign_flip(sample: Sample, *, seed: int = 0, draws: int = SIGN_DRAWS) -> float:
    """One-sided p-value of "the mean is not above zero", by flipping the sign of whole clusters.

    Exact by enumeration up to 12 clusters. Beyond, the share of sampled assignments that reach the
    observed total, the observed one counted among them. The null it tests is that each cluster's
    total is symmetric about zero.
    """
    m = sample.n_clusters
    reached = sample.sums.sum() - ZERO_SPREAD
    if m <= EXACT_CLUSTERS:
        signs = np.array(list(product((1.0, -1.0), repeat=m)))  # (assignment, cluster)
        return float(np.mean(signs @ sample.sums >= reached))
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK // m)
    count = 0
    for start in range(0, draws, chunk):
        signs = rng.integers(2, size=(min(chunk, draws - start), m)) * 2.0 - 1.0
        count += int(np.count_nonzero(signs @ sample.sums >= reached))
    return (1 + count) / (1 + draws)


def position(interval: Interval, low: float = -math.inf, high: float = math.inf) -> Position:
    """Where an interval lies against a region fixed beforehand.

    With a 90 % interval, ``inside`` is the outcome of two one-sided tests at 5 % each (equivalence,
    TOST), or of one such test where the region is open on one side (non-inferiority). ``outside``
    is the same proof of the contrary; ``across`` proves neither.
    """
    if low < interval.low and interval.high < high:
        return "inside"
    if interval.low > high or interval.high < low:
        return "outside"
    return "across"


def clusters_needed(sd: float, distance: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many clusters a one-sided test needs to tell a mean from a limit ``distance`` away.

    ((z(1 - alpha) + z(power)) * sd / distance)^2, rounded up, two more for Student's t; ``sd`` is
    the spread between cluster means.
    """
    assert distance > 0
    z = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(power))
    return math.ceil((z * sd / distance) ** 2) + 2


def spread_between(sample: Sample, facts: Sequence[Hashable]) -> float:
    """The standard deviation between subjects that a sample suggests; its clusters are subjects.

    From the standard error where there are two subjects or more. One subject shows only how its
    facts differ; the spread between subjects is then taken from that and an assumed intraclass
    correlation.
    """
    if sample.n_clusters > 1:
        return sample.standard_error * math.sqrt(sample.n_clusters)
    by_fact = Sample(sample.figures, facts)
    means = by_fact.sums / by_fact.sizes
    variance = float(means.var(ddof=1)) if len(means) > 1 else 0.25
    k, rho = len(means), INTRACLASS_CORRELATION
    return math.sqrt(variance * (1 / k + rho * (1 - 1 / k)))


def clusters_needed_for_bound(
    sample: Sample, limit: float, per_cluster: float, *, most: int, alpha: float = 0.05
) -> int | None:
    """The fewest clusters that bound figures in -1..1 that stay as they are; None beyond ``most``.

    Those at which the upper end of ``bounded_interval`` lies below ``limit``, with ``per_cluster``
    facts each.
    """

    def bounded(n_clusters: int) -> bool:
        units = Units(max(n_clusters, round(per_cluster * n_clusters)), n_clusters)
        return bounded_interval(sample, units, 1 - 2 * alpha, signed=True).high < limit

    few = 1
    while not bounded(few):
        if few >= most:
            return None
        few = min(2 * few, most)
    first = few // 2 + 1
    return first + bisect_left(range(first, few), True, key=bounded)
