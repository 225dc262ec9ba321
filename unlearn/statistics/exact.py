"""Exact figures of repeated trials: bounds on a rate, and what many samples would show."""

from __future__ import annotations

import math

from scipy import special, stats

from unlearn.statistics.clusters import Interval


def clopper_pearson(events: int, trials: int, confidence: float = 0.95) -> Interval:
    """The rate of events with its exact two-sided interval (Clopper and Pearson 1934).

    Covers at least at the nominal rate whatever the true one. For trials that are independent, such
    as samples of one prompt; not for records of one subject.

    Raises:
        ValueError: no trial, or more events than trials.
    """
    if not 0 <= events <= trials or trials < 1:
        raise ValueError(f"{events} events in {trials} trials")
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, events, trials - events + 1)) if events else 0.0
    high = float(stats.beta.ppf(1 - tail, events + 1, trials - events)) if events < trials else 1.0
    return Interval(events / trials, low, high)


def rate_at_most(trials: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a rate of which no event was seen: 1 - (1 - confidence)^(1/n).

    >>> round(rate_at_most(59), 3)
    0.05
    """
    return -math.expm1(math.log1p(-confidence) / trials)


def leak_at_k(samples: int, leaks: int, k: int) -> float:
    """The probability that at least one of ``k`` samples leaks: 1 - C(n - c, k) / C(n, k).

    Unbiased from ``leaks`` of ``samples`` texts that leaked, as pass@k is (Chen et al. 2021,
    arXiv 2107.03374); higher: more knowledge is left.

    >>> round(leak_at_k(128, 1, 8), 4)
    0.0625

    Raises:
        ValueError: counts that cannot be.
    """
    if not (0 <= leaks <= samples and 1 <= k <= samples):
        raise ValueError(f"{leaks} leaks in {samples} samples, {k} drawn")
    if samples - leaks < k:
        return 1.0
    n, rest = samples, samples - leaks
    log_none = (
        special.gammaln(rest + 1)
        - special.gammaln(rest - k + 1)
        - special.gammaln(n + 1)
        + special.gammaln(n - k + 1)
    )
    return float(-math.expm1(min(0.0, float(log_none))))


def extractable_within(log_p: float, samples: int) -> float:
    """The probability that a text comes at least once in ``samples``: 1 - (1 - p)^n.

    ``log_p`` is the natural logarithm of the probability of the whole text. No sample is drawn
    (Hayes et al. 2024, arXiv 2410.19482). Higher: more knowledge is left.
    """
    if log_p >= 0:
        return 1.0
    return -math.expm1(samples * math.log1p(-math.exp(log_p)))


def samples_until(log_p: float, probability: float) -> float:
    """How many samples it takes until a text comes with ``probability``: the inverse of the above.

    Infinite where the text has no probability in double precision.
    """
    if log_p >= 0:
        return 1.0
    log_miss = math.log1p(-math.exp(log_p))
    return math.inf if log_miss == 0 else math.log1p(-probability) / log_miss
