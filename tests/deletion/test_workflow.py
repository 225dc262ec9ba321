from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn.artifact import Provenance, SitesSummary
from unlearn.deletion import workflow
from unlearn.deletion.workflow import (
    AuditOptions,
    Run,
    fitting,
    process,
    provenance_of,
    strengths_of,
)
from unlearn.forget_set import ForgetSet
from unlearn.types import Noun, Record

RECORD = Record(
    id="r1",
    subject="Ada Quill",
    relation="birthplace",
    prompt="Ada Quill was born in",
    answer="Tarn",
)
FORGET_SET = ForgetSet("births", "One request.", forget=(RECORD,))


def an_artifact(**provenance: Any) -> Any:
    return SimpleNamespace(
        kind="full-weights",
        threat_model="weights",
        limits=(),
        provenance=Provenance(strategy="gradient-ascent", **provenance),
        apply=lambda model: f"{model} after forgetting",
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Stand-ins for the three rooms, and what they were called with."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def stand_in(room: str, result: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made.append((room, args, kwargs))
            return result

        return call

    monkeypatch.setattr(workflow, "locate", stand_in("locate", "sites"))
    monkeypatch.setattr(workflow, "forget", stand_in("forget", an_artifact(base_source="model")))
    monkeypatch.setattr(workflow, "audit", stand_in("audit", "result"))
    return made


def test_the_workflow_locates_forgets_and_audits_with_one_seed(calls: list[Any]) -> None:
    outcome = process(
        "model",  # type: ignore[arg-type]
        FORGET_SET,
        Run("ab" * 8, "reference", 7, AuditOptions(max_records=5, examples=2)),  # type: ignore[arg-type]
        settings={"max_steps": "3"},
    )
    (_, _, located), (_, _, forgot), (_, audited_model, audited) = calls
    assert [room for room, *_ in calls] == ["locate", "forget", "audit"]
    assert [call["seed"] for call in (located, forgot, audited)] == [7, 7, 7]
    assert forgot["sites"] == "sites"
    assert forgot["settings"] == {"max_steps": "3"}
    assert audited_model[0] == "model after forgetting"
    assert (audited["original"], audited["reference"]) == ("model", "reference")
    assert (audited["tier"], audited["max_records"], audited["examples"]) == ("smoke", 5, 2)
    assert audited["provenance"]["request"] == "ab" * 8
    assert audited["provenance"]["base"] == "model"
    assert (outcome.sites, outcome.result) == ("sites", "result")


def test_what_an_artifact_cannot_hold_against_comes_first_among_the_limits(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Result(Noun):
        limits: tuple[str, ...] = ("few records",)

    artifact = an_artifact(base_source="model")
    artifact.limits = ("served only",)
    monkeypatch.setattr(workflow, "forget", lambda *args, **kwargs: artifact)
    monkeypatch.setattr(workflow, "audit", lambda *args, **kwargs: Result())
    outcome = process("model", FORGET_SET, Run("id"))  # type: ignore[arg-type]
    assert outcome.result.limits == ("served only", "few records")


def test_without_a_locator_nothing_is_restricted(calls: list[Any]) -> None:
    outcome = process("model", FORGET_SET, Run("id"), locator=None)  # type: ignore[arg-type]
    assert [room for room, *_ in calls] == ["forget", "audit"]
    assert calls[0][2]["sites"] is None
    assert outcome.sites is None


def test_provenance_says_what_an_audit_should_repeat() -> None:
    sites = SitesSummary(method="gradient-contrast", layers=(1,), parts=("layers",))
    words = provenance_of(an_artifact(settings={"a": 1, "b": None}, seed=4, sites=sites))
    assert words == {
        "artifact": "full-weights, threat model weights",
        "strategy": "gradient-ascent",
        "settings": "a=1, b=None",
        "seed": "4",
        "sites": "gradient-contrast: layers",
    }
    assert provenance_of(an_artifact())["sites"] == "no restriction"


def test_a_locator_fits_a_strategy_that_honours_all_it_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def honouring(*parts: str) -> Any:
        return SimpleNamespace(honours=frozenset(parts))

    monkeypatch.setattr(workflow.locators, "get", lambda name: honouring("layers", "modules"))
    monkeypatch.setattr(workflow.strategies, "get", lambda name: honouring("layers", "modules"))
    assert fitting("finder", "forgetter") == "finder"
    monkeypatch.setattr(workflow.strategies, "get", lambda name: honouring("layers"))
    assert fitting("finder", "forgetter") is None


def test_the_multiples_of_a_change_go_into_the_audit_where_their_price_is_known() -> None:
    sweep = (
        {"strength": 0.0, "matched": 0.0, "retain_nll": 0.2},
        {"strength": 0.5, "matched": 0.75, "retain_nll": 0.25},
    )
    points = strengths_of(an_artifact(sweep=sweep, strength=0.5))
    assert [(p.strength, p.still_known, p.retain_nll, p.kept) for p in points] == [
        (0.0, 1.0, 0.2, False),
        (0.5, 0.25, 0.25, True),
    ]
    unpriced = tuple(point | {"retain_nll": None} for point in sweep)
    assert strengths_of(an_artifact(sweep=unpriced)) == ()
