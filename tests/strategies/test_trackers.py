"""The steps of a run reach a tracker, as numbers and nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from unlearn.errors import ConfigError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.registry import strategies
from unlearn.strategies import forget

HEARD: list[tuple[int, dict[str, Any]]] = []


class FakeTracker(TrainerCallback):
    """Writes down what it is told of."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        HEARD.append((state.global_step, dict(logs)))


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "fake", FakeTracker)
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["fake"])
    HEARD.clear()
    yield "fake"
    HEARD.clear()


def test_the_tracker_gets_the_step_log_in_numbers(
    model: LanguageModel,
    forget_set: ForgetSet,
    tracker: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = {"max_steps": "7", "report_to": tracker}
    made = forget(model, forget_set, settings=settings)
    steps = [dict(step) for step in made.provenance.steps if "grad_norm" in step]
    assert [(step["step"], step) for step in steps] == HEARD
    assert [step for step, _ in HEARD] == [1, 2, 3, 4, 5, 6, 7]
    assert "retain_nll" in HEARD[4][1] and "retain_nll" not in HEARD[3][1]
    assert all(isinstance(v, int | float) for _, logs in HEARD for v in logs.values())
    told = json.dumps(HEARD)
    assert not any(
        word in told for r in forget_set.forget for word in (*r.subject.split(), r.answer)
    )
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_tracker_changes_nothing(
    model: LanguageModel, forget_set: ForgetSet, tracker: str
) -> None:
    watched = forget(model, forget_set, settings={"max_steps": "3", "report_to": tracker})
    alone = forget(model, forget_set, settings={"max_steps": "3"})
    assert len(HEARD) == 3
    assert watched.provenance.result_digest == alone.provenance.result_digest


def test_subtraction_reports_too(
    unsure: LanguageModel, forget_set: ForgetSet, tracker: str
) -> None:
    settings = {"max_steps": "4", "strength": "1", "report_to": tracker}
    forget(unsure, forget_set, strategy="subtraction", settings=settings)
    assert [step for step, _ in HEARD] == [1, 2, 3, 4]
    assert all(isinstance(v, int | float) for _, logs in HEARD for v in logs.values())


@pytest.mark.parametrize("strategy", ["gradient-ascent", "distillation", "subtraction"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "no tracker of this name; known: none, .*tensorboard"),
        ("dagshub", "not installed"),
    ],
)
def test_a_tracker_that_cannot_be_reached_is_refused_before_any_work(
    tracker: str, strategy: str, name: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=f"setting report_to='{name}': .*{said}"):
        strategies.create(strategy, {"report_to": name})
