"""``unlearn forget --resume`` after Ctrl-C and after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from safetensors.torch import load_file

from unlearn.artifact import Artifact

Run = Callable[..., Result]
LONG = ("--set", "stop=budget", "--set", "learning_rate=1e-3", "--set", "max_steps=40")
EACH_STEP = ("--checkpoint-every", "0")


def tensors(folder: Path) -> dict[str, bytes]:
    delta = load_file(folder / "delta.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in delta.items()}


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unlearn", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cut_off(process: subprocess.Popen[str], work: Path, how: signal.Signals, after: int) -> str:
    """Ends a run once it has written a checkpoint of a later step; what it said on stderr."""
    until = time.monotonic() + 90
    while step_of(work) <= after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(how)
    return process.communicate()[1]


def step_of(work: Path) -> int:
    try:
        text = (work / "training" / "checkpoint" / "trainer_state.json").read_text()
        return int(json.loads(text)["global_step"])
    except (OSError, ValueError):  # not there, or just being replaced
        return 0


def test_a_run_that_was_interrupted_and_then_killed_ends_in_the_same_artifact(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    whole, out, work = tmp_path / "whole", tmp_path / "out", tmp_path / ".out.work"
    assert run("forget", knowing, births, "-o", whole, *LONG).exit_code == 0
    words = ("forget", knowing, births, "-o", out, *LONG, *EACH_STEP)
    process = start(*words)
    said = cut_off(process, work, signal.SIGINT, after=0)
    assert process.returncode == 130
    assert f"what was done is in {work}; --resume goes on from it" in said

    refused = run(*words)
    assert refused.exit_code == 2 and "add --resume" in refused.stderr

    process = start(*words, "--resume")
    cut_off(process, work, signal.SIGKILL, after=step_of(work))
    assert process.returncode == -signal.SIGKILL
    assert not out.exists() and work.is_dir()

    result = run(*words, "--resume")
    assert result.exit_code == 0, result.stderr
    assert "training goes on after step " in result.stderr
    assert tensors(out) == tensors(whole)
    steps = [Artifact.load(folder).provenance.steps for folder in (out, whole)]
    assert steps[0] == steps[1]
    left = {path.name for path in tmp_path.iterdir()} - {"out", "whole"}
    assert all(name.startswith(".unlearn-") for name in left)  # a kill's scratch, of `outputs`


def test_nothing_to_resume_is_said_and_the_run_begins(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    fast = ("--set", "stop=budget", "--set", "max_steps=2")
    result = run("forget", knowing, births, "-o", tmp_path / "out", *fast, "--resume", "--json")
    assert result.exit_code == 0
    assert f"there is nothing to resume in {tmp_path / '.out.work'}" in result.stderr
    assert json.loads(result.stdout)["kind"] == "full-weights"
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_strategy_without_long_training_runs_from_the_start(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    words = ("forget", knowing, births, "-o", tmp_path / "out", "--strategy", "in-context")
    result = run(*words, "--set", "variant=guard", "--resume")
    assert result.exit_code == 0, result.stderr
    assert "in-context has nothing to resume; it runs from the start" in result.stderr
