"""``unlearn forget`` in two processes, as a launcher starts them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import Result
from safetensors.torch import load_file

from unlearn.artifact import Artifact, FullWeights
from unlearn.model.language_model import LanguageModel

Run = Callable[..., Result]
ASCENT = ("--set", "stop=budget", "--set", "learning_rate=1e-3", "--set", "max_steps=20")


def launch(*words: object) -> subprocess.Popen[str]:
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    given = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    port = ("--main_process_port", "0")
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *given, *port, "-m", "unlearn", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_arrive_where_one_does(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    words = ("forget", knowing, births, *ASCENT, "-o")
    process = launch(*words, tmp_path / "two")
    assert run(*words, tmp_path / "one").exit_code == 0
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.count("artifact written to") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    one, two = (Artifact.load(tmp_path / name) for name in ("one", "two"))
    assert isinstance(one, FullWeights)
    for mine, its in zip(one.provenance.steps, two.provenance.steps, strict=True):
        assert its.keys() == mine.keys()
        for name, value in mine.items():
            close = value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-5)
            assert its[name] == close
    before = LanguageModel.load(knowing)
    states = [made.apply(before).model.state_dict() for made in (one, two)]
    moved = max(float((states[0][n] - t).abs().max()) for n, t in before.model.state_dict().items())
    apart = max(float((states[0][name] - tensor).abs().max()) for name, tensor in states[1].items())
    assert apart < 0.01 * moved


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_together(
    knowing: str, births: str, tmp_path: Path
) -> None:
    words = ("forget", knowing, births, *ASCENT, "--checkpoint-every", "0", "-o")
    whole = launch(*words, tmp_path / "whole")
    whole.communicate(timeout=120)
    process = launch(*words, tmp_path / "out")
    until = time.monotonic() + 90
    while not (tmp_path / ".out.work" / "training" / "checkpoint").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    # The launcher's workers outlive it.
    launcher = psutil.Process(process.pid)
    for each in [launcher, *launcher.children(recursive=True)]:
        each.kill()
    process.communicate()
    resumed = launch(*words, tmp_path / "out", "--resume")
    _, stderr = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, stderr
    assert stderr.count("training goes on after step ") == 1
    one, two = (load_file(tmp_path / name / "delta.safetensors") for name in ("whole", "out"))
    assert one.keys() == two.keys()
    assert all(bool((one[name] == two[name]).all()) for name in one)


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_other_commands_run_in_one_process(
    second_of_two: None, knowing: str, births: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = refused("audit", knowing, births, "-o", tmp_path / "audit")
    assert "unlearn audit runs in one process, and 2 were launched" in line
