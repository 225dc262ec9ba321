"""Benchmark tasks in an audit: the claim, resuming, and when they are not run."""

from __future__ import annotations

import json

import pytest

import unlearn
from unlearn.audit import audit
from unlearn.audit.choosing import choose
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.prompt_policy import PromptPolicy
from unlearn.probes.harness import BenchmarkTask, read_tasks
from unlearn.types import Verdict

ALONE = ["benchmark-tasks"]


@pytest.fixture(scope="module")
def full():
    return unlearn.load("lab:full")


@pytest.fixture(scope="module")
def reference():
    return unlearn.load("lab:reference")


@pytest.fixture(scope="module")
def one_person():
    return ForgetSet.read("lab:one-person")


@pytest.fixture
def tasks(write):
    return read_tasks([write("metric_list: [{metric: acc_norm}, {metric: acc}]\n")])


def claim(result):
    (found,) = (c for c in result.claims if c.id == "benchmarks-kept")
    return found


def test_the_original_itself_has_lost_nothing(full, one_person, tasks):
    result = audit(full, one_person, original=full, tasks=tasks, probes=ALONE)
    assert claim(result).verdict is Verdict.PASS
    assert claim(result).findings == ("towns.acc_norm/tasks",)
    keys = {f.key: f for f in result.findings}
    assert set(keys) == {"towns.acc_norm/tasks", "towns.acc/tasks"}
    for finding in keys.values():
        assert finding.records["unlearned"] == finding.records["original"]
        assert finding.property == "locality"
    assert result.forget_set.records["tasks"] == 12
    assert not any("benchmarks were not" in limit for limit in result.limits)


def test_an_equal_copy_passes_by_the_difference_and_one_that_knows_less_fails(
    full, reference, one_person, write, questions
):
    known_of_her = {"question": "Brentro Merro has always worked as a", "gold": 0}
    questions[:] = [known_of_her | {"choices": ["pilot", "tanner", "jeweller"]}] * 160
    known = read_tasks([write(name="known")])
    equal = full.copy()
    equal.model.lm_head.weight.data[0, 0] += 1e-6
    equal.changed()
    result = audit(equal, one_person, original=full, tasks=known, probes=ALONE)
    assert claim(result).verdict is Verdict.PASS
    assert "100.0%, original 100.0%; 0.0 points lost" in claim(result).reason
    result = audit(reference, one_person, original=full, tasks=known, probes=ALONE)
    assert claim(result).verdict is Verdict.FAIL
    assert result.verdict is Verdict.FAIL


def test_few_documents_decide_nothing_and_say_how_many_would(full, one_person, tasks):
    equal = full.copy()
    equal.model.lm_head.weight.data[0, 0] += 1e-6
    equal.changed()
    result = audit(equal, one_person, original=full, tasks=tasks, probes=ALONE, max_records=10)
    assert claim(result).verdict is Verdict.INCONCLUSIVE
    assert claim(result).n_needed > 100
    assert result.forget_set.records["tasks"] == 10
    assert "(10 of 12 documents, drawn)" in result.findings[0].title


def test_without_tasks_there_is_no_such_claim(full, one_person):
    result = audit(full, one_person, original=full, probes=["answers"])
    assert "benchmarks-kept" not in {c.id for c in result.claims}
    assert any("general text and benchmarks were not measured" in line for line in result.limits)
    with pytest.raises(UnsupportedError, match="no benchmark tasks were given"):
        audit(full, one_person, original=full, probes=ALONE)


def test_a_task_without_a_share_is_shown_without_a_verdict(full, one_person, write, tmp_path):
    (tmp_path / "points.py").write_text("def scored(doc, results):\n    return {'points': 7}\n")
    more = (
        "process_results: !function points.scored\n"
        "metric_list: [{metric: points, aggregation: mean, higher_is_better: true}]\n"
    )
    tasks = read_tasks([write(more)])
    result = audit(full, one_person, original=full, tasks=tasks, probes=ALONE)
    assert [f.key for f in result.findings] == ["towns.points/tasks"]
    assert "benchmarks-kept" not in {c.id for c in result.claims}
    assert any("No verdict rests on the benchmark task towns" in line for line in result.limits)


def test_an_interrupted_audit_does_not_measure_twice(
    full, reference, one_person, write, tmp_path, monkeypatch
):
    journal = tmp_path / "audit.partial"
    calls = []
    score = BenchmarkTask.score
    monkeypatch.setattr(
        BenchmarkTask, "score", lambda self, *rest: calls.append(1) or score(self, *rest)
    )

    def run(path):
        tasks = read_tasks([path])
        return audit(
            reference, one_person, original=full, tasks=tasks, probes=ALONE, journal=journal
        ).findings

    kept = "unlearn.audit.auditor.case_of"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kept, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(write())
    assert len(calls) == 2
    text = journal.read_text()
    assert "The town of" not in text
    first = run(write())
    assert len(calls) == 2
    assert not journal.exists()
    journal.write_text(text)
    assert run(write()) == first
    assert len(calls) == 2
    journal.write_text(text)
    assert run(write("target_delimiter: ': '\n")) != first
    assert len(calls) == 4


def test_a_model_that_is_only_served_is_not_measured():
    for access in ("text", "logprobs"):
        material = {"forget": (), "tasks": ()}
        try:
            chosen = choose("smoke", None, access=access, roles=["unlearned"], material=material)
            why = chosen.left_out["benchmark-tasks"]
        except UnsupportedError as error:
            assert access == "text"
            why = "it works on models that are here" * ("no probe is left" in str(error))
        assert "it works on models that are here" in why


def test_an_instruction_cannot_be_honoured_and_the_claim_is_not_run(full, one_person, write):
    served = LanguageModel(full.model, full.tokenizer, "served", PromptPolicy(guard="Be brief. "))
    tasks = read_tasks([write()])
    result = audit(
        served, one_person, original=full, tasks=tasks, probes=[*ALONE, "answers"], max_records=1
    )
    assert claim(result).verdict is Verdict.NOT_RUN
    assert "cannot put a model's instruction before the prompts" in claim(result).reason
    assert json.loads(result.model_dump_json())["forget_set"]["records"]["tasks"] == 1
