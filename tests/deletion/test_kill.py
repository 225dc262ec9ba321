"""Processing that is killed at any moment loses no request and leaves nothing half-written.

``UNLEARN_KILLS=200 pytest tests/deletion/test_kill.py`` kills that often; CI kills a few times.
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.cli.conftest import make_model, records
from unlearn.deletion.processing import Attempt, Job, Processing
from unlearn.deletion.request import DeletionRequest, ScopedModel
from unlearn.deletion.states import OUTCOMES, PROCESSABLE
from unlearn.deletion.store import Person, Store
from unlearn.deletion.workflow import AuditOptions, Run
from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel

KILLS = int(os.environ.get("UNLEARN_KILLS", "12"))
LEASE = 0.3
PLAN = (
    Attempt(strategy="gradient-ascent", settings={"max_steps": "2", "stop": "budget"}),
    Attempt(strategy="in-context", settings={"sealed": "true"}),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return LanguageModel.load(make_model(tmp_path_factory.mktemp("model") / "knowing", seed=0))


FACTS = ForgetSet("births", "", **{split: records(split) for split in ("forget", "retain")})


def job(output: Path, worker: str) -> Job:
    run = Run("", None, 0, AuditOptions(tier="smoke"))
    return Job(output, "worker", worker, PLAN, None, run, LEASE)


def approve_one(store: Store, model: LanguageModel, number: int) -> str:
    request = DeletionRequest.open(ground="objection")
    scoped = [ScopedModel(source=model.source, digest=model.digest)]
    person = Person(f"Person {number}")
    store.open(request, person, by="officer", forget_set=FACTS, models=scoped)
    return store.approve(request.id, by="officer").id


def in_a_child(folder: Path, model: LanguageModel, request: str, output: Path) -> int:
    """Processes in another process that is a copy of this one; gives its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with Store(folder) as store:
            Processing(store, job(output, f"worker {os.getpid()}"), model, [request]).run()
        code = 0
    finally:
        os._exit(code)


def check_whole(store: Store, request: str, output: Path) -> None:
    """Nothing that has its final name is unfinished."""
    assert store.verify() == []
    assert store.get(request).state in PROCESSABLE
    for audit in store.evidence(request).glob("[!.]*"):
        assert json.loads((audit / "audit.json").read_text())["verdict"]
        assert (audit / "audit.html").read_text().rstrip().endswith("</html>")
    if output.exists():
        assert (output / "unlearn.json").exists() or (output / "artifact.json").exists()


def test_killed_processing_is_taken_up_again(tmp_path: Path, model: LanguageModel) -> None:
    folder, rng = tmp_path / "office", random.Random(0)
    with Store(folder, create=True) as store:
        requests = [approve_one(store, model, number) for number in range(KILLS + 1)]
    current, killed, seconds = 0, 0, 3.0
    while killed < KILLS:
        request, output = requests[current], tmp_path / f"out-{current}"
        started = time.monotonic()
        child = in_a_child(folder, model, request, output)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with Store(folder) as store:
            check_whole(store, request, output)
            done = store.get(request).state in OUTCOMES
        if os.WIFSIGNALED(status):
            killed += 1
        if done:
            seconds = max(0.3, time.monotonic() - started)
            shutil.rmtree(output, ignore_errors=True)
            current += 1
        time.sleep(LEASE)
    finish(folder, model, requests[current], tmp_path / f"out-{current}")


def finish(folder: Path, model: LanguageModel, request: str, output: Path) -> None:
    """What is left is processed to its end, and nothing unfinished is left beside it."""
    with Store(folder) as store:
        Processing(store, job(output, "last"), model, [request]).run()
        assert store.get(request).state in OUTCOMES
        assert list(store.evidence(request).glob(".*")) == []
        assert list(output.parent.glob(".*")) == []
        assert store.verify() == []
        with pytest.raises(InputError, match="exists"):
            Processing(store, job(output, "last"), model, [request])
