"""The rate limit against a clock that only moves when somebody sleeps, and costs in closed form."""

import threading

import pytest

from unlearn.errors import ConfigError
from unlearn.model.rate_limit import Cost, Prices, TokenBucket, estimate_cost


class Clock:
    def __init__(self):
        self.now, self.slept = 100.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def times_of(bucket, clock, n):
    found = []
    for _ in range(n):
        bucket.take()
        found.append(clock.now - 100)
    return found


@pytest.mark.parametrize(
    ("capacity", "expected"), [(1, [0, 2, 4, 6, 8]), (3, [0, 0, 0, 2, 4]), (9, [0, 0, 0, 0, 0])]
)
def test_a_burst_goes_out_at_once_and_then_one_each_interval(capacity, expected):
    clock = Clock()
    bucket = TokenBucket(30, capacity=capacity, clock=clock, sleep=clock.sleep)
    assert times_of(bucket, clock, 5) == pytest.approx(expected)


def test_a_pause_saves_up_no_more_than_the_capacity():
    clock = Clock()
    bucket = TokenBucket(60, capacity=2, clock=clock, sleep=clock.sleep)
    times_of(bucket, clock, 2)
    clock.now += 1000
    assert [t - 1000 for t in times_of(bucket, clock, 4)] == pytest.approx([0, 0, 1, 2])


def test_without_a_limit_nobody_waits():
    clock = Clock()
    assert times_of(TokenBucket(None, clock=clock, sleep=clock.sleep), clock, 50) == [0] * 50
    assert clock.slept == []


def test_threads_that_share_a_bucket_get_different_turns():
    waits = []
    bucket = TokenBucket(60, clock=lambda: 0.0, sleep=waits.append)
    threads = [threading.Thread(target=bucket.take) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == pytest.approx(list(range(1, 20)))


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match="requests_per_minute"):
        TokenBucket(rate)


def test_a_bucket_that_holds_nothing_is_refused():
    with pytest.raises(ConfigError, match="capacity is 0"):
        TokenBucket(60, capacity=0)


def test_costs_follow_from_counts_rate_and_prices():
    found = estimate_cost(121, 4_000_001, 500_000, 60, Prices(prompt=2.0, new=8.0))
    assert found == Cost(121, 1_000_001, 500_000, 120.0, pytest.approx(2.000002 + 4.0))


def test_costs_without_limit_prices_or_requests_are_nothing_or_unknown():
    assert estimate_cost(5, 8, 0, None, None) == Cost(5, 2, 0, 0.0, None)
    assert estimate_cost(0, 0, 0, 60, None).seconds == 0
