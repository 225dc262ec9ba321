"""Leases: requests that one worker has to itself, for as long as it lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from unlearn.deletion.registry import Registry
from unlearn.errors import InputError

LEASE_SECONDS = 60.0
"""How long after its death a worker's requests wait until another may take them up."""


@contextmanager
def leased(
    registry: Registry, requests: Sequence[str], worker: str, seconds: float = LEASE_SECONDS
) -> Iterator[None]:
    """Has the requests to oneself inside: the lease is renewed until the block ends.

    Raises:
        InputError: another worker has one of them.
    """
    _hold(registry, requests, worker, seconds)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(seconds / 3):
            # Not now, then the next time; a lease that is lost shows when the work is answered.
            with suppress(InputError):
                _hold(registry, requests, worker, seconds)

    renewing = threading.Thread(target=renew, name="leases", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with registry.change() as change:
            for request in requests:
                change.release(request, worker)


def _hold(registry: Registry, requests: Sequence[str], worker: str, seconds: float) -> None:
    with registry.change() as change:
        # In one order, so that two workers with the same requests never wait for each other.
        for request in sorted(requests):
            change.hold(request, worker, seconds=seconds)
