"""How fast requests may go out, and what they will cost, before the first one does."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from unlearn.errors import ConfigError

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English prose. Other scripts, numbers and code take more tokens."""


class Prices(NamedTuple):
    """What a million tokens cost, in whatever currency the provider bills."""

    prompt: float
    new: float
    """Of the tokens that the model writes."""


class Cost(NamedTuple):
    """What a run of requests needs, if none of them has to be repeated."""

    requests: int
    prompt_tokens: int
    new_tokens: int
    """At most: a text may end earlier."""
    seconds: float
    """At least: what the rate limit alone takes, without the time that the model takes."""
    price: float | None
    """In the currency of the prices; ``None`` where no prices are known."""


def estimate_cost(
    n_requests: int,
    prompt_characters: int,
    new_tokens: int,
    requests_per_minute: float | None,
    prices: Prices | None,
) -> Cost:
    """The cost of requests whose prompts have that many characters in all.

    Prompt tokens are characters over ``CHARACTERS_PER_TOKEN``, rounded up. Requests go out evenly,
    the first at once, so n of them take ``(n - 1) * 60 / requests_per_minute`` seconds.
    """
    prompt_tokens = math.ceil(prompt_characters / CHARACTERS_PER_TOKEN)
    rate = math.inf if requests_per_minute is None else requests_per_minute
    price = None
    if prices is not None:
        price = (prompt_tokens * prices.prompt + new_tokens * prices.new) / 1e6
    seconds = max(0, n_requests - 1) * 60 / rate
    return Cost(n_requests, prompt_tokens, new_tokens, seconds, price)


class TokenBucket:
    """Lets ``capacity`` requests through at once, then one every ``60 / per_minute`` seconds.

    Threads may share one. In any window of t seconds at most ``capacity + t * per_minute / 60``
    get through, so the capacity of 1 keeps to a limit per minute however the minute is cut.
    """

    def __init__(
        self,
        per_minute: float | None,
        *,
        capacity: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if per_minute is not None and not 0 < per_minute < math.inf:
            raise ConfigError(f"requests_per_minute is {per_minute}, but must be above 0, or None")
        if capacity < 1:
            raise ConfigError(f"capacity is {capacity}, but must be at least 1")
        self._interval = 0.0 if per_minute is None else 60 / per_minute
        self._capacity, self._clock, self._sleep = capacity, clock, sleep
        self._tokens, self._at = float(capacity), clock()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Returns when the next request may go out."""
        if self._interval:
            wait = self._reserve()
            if wait > 0:
                self._sleep(wait)

    def _reserve(self) -> float:
        """Takes a token, perhaps one that is still to come, and says how long until it has come."""
        with self._lock:
            now = self._clock()
            grown = self._tokens + (now - self._at) / self._interval
            self._tokens, self._at = min(self._capacity, grown) - 1, now
            return max(0.0, -self._tokens * self._interval)
