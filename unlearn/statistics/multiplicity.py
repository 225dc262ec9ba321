"""Many tests at once: p-values that hold for the search as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unlearn.statistics.clusters import Interval

LEAST_P = 1e-6
"""Smaller p-values are not told apart."""

STEPS = 20
"""Halvings of the search for a p-value; the last changes it by less than 0.002 %."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order (Holm 1979, Scandinavian Journal of Statistics 6).

    The i-th smallest of k is multiplied by k - i + 1, and none is less than a smaller one's. What
    is at most alpha is shown with a chance of at most alpha of any false alarm among all, however
    the tests hang together.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(order.tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def p_by_inversion(
    interval_at: Callable[[float], Interval], limit: float, *, two_sided: bool = False
) -> float:
    """The p-value of "the figure is not beyond ``limit``" that an interval stands for.

    The smallest tail at which the interval of confidence ``1 - 2 tail`` still lies beyond the
    limit; one half where even its centre does not. So p is at most 0.05 exactly where the 90 %
    interval lies beyond. ``two_sided``: beyond ``limit`` or below ``-limit``; only one of the two
    can be at fault, so p stays that of the side at hand.
    """

    def beyond(tail: float) -> bool:
        interval = interval_at(1 - 2 * tail)
        return interval.low > limit or (two_sided and interval.high < -limit)

    low, high = LEAST_P, 0.5
    if beyond(low):
        return low
    if not beyond(0.5 - LEAST_P):
        return high
    for _ in range(STEPS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high
