"""A store of many requests: how long a step, a list and a check of the ledger take.

    python benchmarks/requests.py                    # 10 000 requests on SQLite
    python benchmarks/requests.py --requests 1000 --url postgresql://tests@/office?host=/tmp/pg

Commands are timed as a user runs them, in a process of their own; a bare ``unlearn --version`` is
run beside them, for most of the time of a command is that of starting Python. Steps are timed in
this process, beside what the disk needs for as many bytes written through.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unlearn.deletion.request import DeletionRequest, ScopedModel
from unlearn.deletion.store import Person, Store
from unlearn.forget_set import ForgetSet

FACTS = ForgetSet("one", "", forget=ForgetSet.read("lab:one-person").forget)
MODEL = ScopedModel(source="models/a", digest="ab" * 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--url")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, store_of(Path(folder), given.url) as store:
        print(f"{given.requests} requests on {store.registry.engine.dialect.name}")
        fill(store, given.requests)
        times("write 1 kB through to the disk", lambda: written_through(Path(folder)))
        times("open and scope", lambda: opened(store, "another"))
        fresh = iter([opened(store, f"late {number}") for number in range(20)])
        times("approve", lambda: store.approve(next(fresh), by="officer"))
        times("list", store.requests, repeats=5)
        times("verify", store.verify, repeats=3)
        place = ["--store", given.url, "--folder", folder + "/office"] if given.url else []
        for words in ([], ["list", "--due", "7d"], ["list"], ["verify"]):
            command(words, place or ["--store", f"{folder}/office"])


@contextmanager
def store_of(folder: Path, url: str | None) -> Iterator[Store]:
    with Store(folder / "office", url=url, create=True) as store:
        yield store


def fill(store: Store, number: int) -> None:
    """Opens and approves requests without waiting for the disk, which is measured below."""
    through, os.fsync = os.fsync, lambda handle: None
    try:
        for person in range(number):
            request = opened(store, f"Person {person}")
            if person % 3:
                store.approve(request, by="officer")
    finally:
        os.fsync = through


def opened(store: Store, name: str) -> str:
    request = DeletionRequest.open(ground="consent-withdrawn")
    store.open(request, Person(name), by="officer", forget_set=FACTS, models=[MODEL], again=True)
    return request.id


def written_through(folder: Path) -> None:
    with (folder / "probe").open("wb") as file:
        file.write(os.urandom(1024))
        file.flush()
        os.fsync(file.fileno())


def times(what: str, work: Callable[[], object], repeats: int = 20) -> None:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    print(f"{what:<32}{1000 * statistics.median(seconds):9.1f} ms")


def command(words: list[str], place: list[str]) -> None:
    asked = ["request", *words, *place, "--json"] if words else ["--version"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "unlearn", *asked], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    print(f"unlearn {' '.join(['request', *words] if words else asked):<24}{seconds:9.2f} s")


if __name__ == "__main__":
    main()
