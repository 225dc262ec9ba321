"""Runs that are cut off and gone on with end as if nothing had happened, bit for bit."""

import errno
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unlearn.artifact import Artifact
from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.strategies import checkpoints as kept_module
from unlearn.strategies import forget
from unlearn.strategies.checkpoints import Checkpoints
from unlearn.strategies.training import Pairs

Settings = dict[str, str]
ASCENT = {"max_steps": "12", "learning_rate": "1e-3"}
RUNS: dict[str, tuple[str, Settings]] = {
    "ascent": ("gradient-ascent", {**ASCENT, "forget_batch": "4", "evaluate_every": "2"}),
    "constraint": (
        "gradient-ascent",
        {**ASCENT, "retain": "constraint", "accumulation": "2", "schedule": "cosine"},
    ),
    "search": (
        "gradient-ascent",
        {**ASCENT, "max_steps": "none", "stop": "match", "strength": "search"},
    ),
    "rmu": ("gradient-ascent", {"variant": "rmu", "max_steps": "12", "stop": "budget"}),
    "lora": ("gradient-ascent", {**ASCENT, "train": "lora", "evaluate_every": "3"}),
    "names": (
        "distillation",
        {"robust": "true", "max_steps": "12", "evaluate_every": "5", "forget_batch": "4"},
    ),
    "difference": (
        "distillation",
        {"variant": "difference", "max_steps": "9", "assistant_steps": "8"},
    ),
    "kga": ("distillation", {"variant": "kga", "max_steps": "8", "assistant_steps": "5"}),
    "ext-sub": (
        "subtraction",
        {"variant": "ext-sub", "max_steps": "6", "rank": "4", "strength": "1"},
    ),
    "both": (
        "gradient-ascent+distillation",
        {"gradient-ascent.max_steps": "5", "distillation.max_steps": "6"},
    ),
}


class Cut(BaseException):
    """What ends a run in its midst; no error that anything might handle."""


def cut_after(n_calls: int) -> Callable[[str, float], None]:
    """A progress callback that ends the run the nth time it hears of training."""
    calls = iter(range(n_calls))

    def progress(what: str, fraction: float) -> None:
        if what == "forget" and next(calls, None) is None:
            raise Cut

    return progress


def run(
    model: LanguageModel,
    forget_set: ForgetSet,
    name: str,
    kept: Checkpoints | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Artifact:
    strategy, settings = RUNS[name]
    return forget(
        model,
        forget_set,
        strategy=strategy,
        settings=settings,
        seed=4,
        checkpoints=kept,
        progress=progress,
    )


def model_for(name: str, model: LanguageModel, unsure: LanguageModel) -> LanguageModel:
    return unsure if name == "ext-sub" else model


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_cut_off_twice_ends_as_one_that_was_not(
    model: LanguageModel,
    unsure: LanguageModel,
    forget_set: ForgetSet,
    tmp_path: Path,
    name: str,
) -> None:
    base, work = model_for(name, model, unsure), tmp_path / ".out.work"
    whole = run(base, forget_set, name)
    at = np.random.default_rng(len(name)).integers(1, 4, size=2)
    said: list[str] = []
    for n_calls in at.tolist():
        kept = Checkpoints.at(work, resume=work.exists(), every=0, say=said.append)
        with pytest.raises(Cut):
            run(base, forget_set, name, kept, cut_after(n_calls))
    kept = Checkpoints.at(work, resume=True, every=0, say=said.append)
    resumed = run(base, forget_set, name, kept)
    assert resumed.apply(base).digest == whole.apply(base).digest
    assert resumed.provenance.steps == whole.provenance.steps
    assert resumed.provenance.stop_reason == whole.provenance.stop_reason
    assert resumed.provenance.sweep == whole.provenance.sweep
    assert resumed.provenance.tokens == whole.provenance.tokens
    assert any(" goes on after step " in line or " was done before" in line for line in said)
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_steps_before_the_checkpoint_are_not_trained_again(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints.at(tmp_path / "work", every=0)
    with pytest.raises(Cut):
        run(model, forget_set, "ascent", kept, cut_after(7))
    drawn: list[int] = []
    step = Pairs.step
    monkeypatch.setattr(Pairs, "step", lambda self: drawn.append(1) or step(self))
    run(model, forget_set, "ascent", Checkpoints.at(tmp_path / "work", resume=True))
    # The eighth step was cut off, and its checkpoint with it.
    assert len(drawn) == 12 - 7


def test_a_finished_part_is_not_run_again(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    heard: list[str] = []
    kept = Checkpoints.at(tmp_path / "work", every=0)
    with pytest.raises(Cut):
        run(model, forget_set, "both", kept, cut_after(9))  # 5 steps and an end, then 3 more
    kept = Checkpoints.at(tmp_path / "work", resume=True, every=0, say=heard.append)
    run(model, forget_set, "both", kept)
    assert heard == [
        "1-gradient-ascent was done before",
        "2-distillation/training goes on after step 3",
    ]


def test_seconds_of_a_run_that_was_cut_off_count(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    kept = Checkpoints.at(tmp_path / "work", every=0)
    with pytest.raises(Cut):
        run(model, forget_set, "ascent", kept, cut_after(5))
    file = tmp_path / "work" / "training" / "checkpoint" / "unlearn.pt"
    own = torch.load(file, weights_only=True)
    own["parts"]["follower"]["seconds"] += 1000.0
    torch.save(own, file)
    resumed = run(model, forget_set, "ascent", Checkpoints.at(tmp_path / "work", resume=True))
    assert 1000 < resumed.provenance.seconds < 1600


def test_no_text_of_a_record_is_in_the_work_folder(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    kept = Checkpoints.at(tmp_path / "work", every=0)
    with pytest.raises(Cut):
        run(model, forget_set, "ascent", kept, cut_after(5))
    assert (tmp_path / "work").stat().st_mode & 0o077 == 0
    files = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    contents = [path.read_bytes() for path in files]
    assert len(files) > 5
    for record in forget_set.forget:
        for text in (record.subject, record.prompt, record.id, record.subject.split()[0]):
            assert not any(text.encode() in content for content in contents)
    digests = (forget_set.digest.encode(), model.digest.encode())
    assert not any(digest in content for digest in digests for content in contents)


def test_an_interrupted_run_is_not_written_over_unasked(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    kept = Checkpoints.at(tmp_path / "work", every=0)
    with pytest.raises(Cut):
        run(model, forget_set, "ascent", kept, cut_after(3))
    with pytest.raises(InputError, match="add --resume to go on from it, or remove it"):
        Checkpoints.at(tmp_path / "work")


def test_another_run_begins_anew_and_says_what_differs(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    kept = Checkpoints.at(tmp_path / "work", every=0)
    with pytest.raises(Cut):
        run(model, forget_set, "ascent", kept, cut_after(3))
    heard: list[str] = []
    kept = Checkpoints.at(tmp_path / "work", resume=True, every=math.inf, say=heard.append)
    other = run(model, forget_set, "rmu", kept)
    assert heard == [
        f"what lies in {tmp_path / 'work'} is of a run with another settings; this one begins anew"
    ]
    assert other.apply(model).digest == run(model, forget_set, "rmu").apply(model).digest


def test_something_else_in_the_place_of_the_work_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(InputError, match="holds something else"):
            Checkpoints.at(tmp_path / "work", resume=resume)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_one_clear_error(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    kept = Checkpoints.at(tmp_path / "work", every=0)
    with pytest.raises(Cut):
        run(model, forget_set, "ascent", kept, cut_after(3))
    for name in ("unlearn.pt", "trained.safetensors"):
        file = tmp_path / "work" / "training" / "checkpoint" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="is damaged; remove it to begin anew"):
            run(model, forget_set, "ascent", Checkpoints.at(tmp_path / "work", resume=True))
        file.write_bytes(whole)


def test_a_short_run_writes_nothing(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    kept = Checkpoints.at(tmp_path / "work")
    with pytest.raises(Cut):
        run(model, forget_set, "ascent", kept, cut_after(8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("full")])
def test_a_disk_that_is_full_costs_the_checkpoints_and_not_the_run(
    model: LanguageModel,
    forget_set: ForgetSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("unlearn.strategies.trainer.torch.save", full)
    heard: list[str] = []
    kept = Checkpoints.at(tmp_path / "work", every=0, say=heard.append)
    made = run(model, forget_set, "ascent", kept)
    assert made.apply(model).digest == run(model, forget_set, "ascent").apply(model).digest
    (line,) = heard
    assert line.startswith("no checkpoint could be written (") and "goes on without" in line
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_slow_disks_are_written_to_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(kept_module.time, "monotonic", lambda: now[0])
    phase = Checkpoints.at(tmp_path / "work", every=10).phase("training")

    def slowly(folder: Path) -> None:
        now[0] += 3.0

    assert not phase.due(ended=True)
    now[0] = 10.0
    assert phase.due(ended=False)
    phase.write(slowly)
    now[0] = 13.0 + 59.0
    assert not phase.due(ended=False) and phase.due(ended=True)
    now[0] = 13.0 + 60.0
    assert phase.due(ended=False)


@pytest.mark.parametrize("strategy", ["edit", "patch", "in-context"])
def test_strategies_without_long_training_say_that_they_run_from_the_start(
    strategy: str, tmp_path: Path
) -> None:
    from unlearn.registry import strategies

    assert not getattr(strategies.get(strategy), "resumes", False)
    heard: list[str] = []
    Checkpoints.at(tmp_path / "work", resume=True, say=heard.append).nothing_to_resume(strategy)
    Checkpoints.at(tmp_path / "work", say=heard.append).nothing_to_resume(strategy)
    assert heard == [f"{strategy} has nothing to resume; it runs from the start"]
    assert not list(tmp_path.iterdir())
