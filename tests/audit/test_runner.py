"""What models are asked: each text once for each model and precision, none twice after a stop."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn import registry
from unlearn.audit import audit, runner
from unlearn.errors import InputError
from unlearn.model import scoring
from unlearn.probes.probe import (
    Drawing,
    GenerationProbe,
    Key,
    LikelihoodProbe,
    Measurement,
    ModelProbe,
    trained_statements,
)


@pytest.fixture
def invented(monkeypatch):
    """The registry with nothing in it but what a test puts there."""
    registry.probes.names()
    monkeypatch.setattr(registry.probes, "_classes", {})

    def add(name, base, **fields):
        common = {
            "__doc__": "Invented.",
            "summary": "invented",
            "cost": "nothing",
            "property": "accuracy",
            "honours": frozenset({"text"}),
            "tier": "standard",
        }
        kind = type(name.title().replace("-", ""), (base,), common | fields)
        return registry.probes.register(name)(kind)

    return add


@pytest.fixture
def copies(monkeypatch, stand_in):
    """Low-precision copies of stand-ins know what their model knows."""
    made = []

    def at_precision(lm, precision):
        copy = stand_in(f"{lm.name} in {precision}", lm.knows)
        made.append(copy)
        return copy

    monkeypatch.setattr(runner, "at_precision", at_precision)
    return made


def figure(metric, values):
    return [Measurement(metric, "forget", metric, {key.record_id: v for key, v in values})]


def reading(metric):
    return {
        "statements": lambda self, material: trained_statements(material, "forget"),
        "measure": lambda self, scores, material: figure(
            metric, ((key, 1.0 * score.correct) for key, score in scores.items())
        ),
    }


def writing(metric, n):
    return {
        "drawing": Drawing(n),
        "prompts": lambda self, material: {
            Key("forget", record.id): record.prompt for record in material["forget"]
        },
        "measure": lambda self, texts, material: figure(
            metric, ((key, len(drawn) / n) for key, drawn in texts.items())
        ),
    }


@pytest.fixture
def written(monkeypatch):
    """Counts the prompts that each model is given to continue, by number of samples."""
    asked = []

    def speak(lm, prompts, **options):
        asked.append((lm.name, len(prompts), options["n_samples"]))
        return [["text"] * options["n_samples"] for _ in prompts]

    monkeypatch.setattr(scoring, "generate", speak)
    return asked


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """Stand-ins have no tokenizer to measure answers with."""
    monkeypatch.setattr(runner, "_room", lambda job, lm: 8)


def test_each_model_reads_the_union_once_and_each_copy_too(
    make_set, full, reference, forgotten, invented, copies
):
    invented("one", LikelihoodProbe, **reading("one"))
    invented("two", LikelihoodProbe, **reading("two"))
    result = audit(
        forgotten,
        make_set(),
        original=full,
        reference=reference,
        tier="standard",
        precisions=("bf16", "int4"),
    )
    assert [len(m.batches) for m in (full, reference, forgotten)] == [1, 1, 1]
    names = [copy.name for copy in copies]
    assert names == [f"{m} in {p}" for p in ("bf16", "int4") for m in ("forgotten", "reference")]
    assert all(len(copy.batches) == 1 for copy in copies)
    keys = {f.key for f in result.findings}
    assert keys == {f"{m}/forget{c}" for m in ("one", "two") for c in ("", "@bf16", "@int4")}
    low = next(f for f in result.findings if f.key == "one/forget@int4")
    assert (set(low.models), low.condition) == ({"unlearned", "reference"}, "int4")


def test_equal_prompts_with_equal_drawings_are_continued_once(
    make_set, full, reference, invented, written
):
    invented("one", GenerationProbe, **writing("one", 4))
    invented("two", GenerationProbe, **writing("two", 4))
    invented("three", GenerationProbe, **writing("three", 1))
    audit(full, make_set(), reference=reference, tier="standard", precisions=())
    n = len(make_set().forget)
    assert sorted(written) == sorted((m, n, k) for m in ("full", "reference") for k in (4, 1))


def test_a_probe_of_models_gets_every_model_once_and_gives_figures_by_role(
    make_set, full, reference, invented
):
    seen = []

    def measure(self, bench):
        seen.append({role: lm.name for role, lm in bench.models.items()})
        values = {r.id: 0.5 for r in bench.material["forget"]}
        return {"unlearned": [Measurement("gap", "forget", "Gap", values)]}

    invented("gap", ModelProbe, measure=measure)
    result = audit(full, make_set(), original=full, reference=reference, tier="standard")
    assert seen == [{"original": "full", "unlearned": "full", "reference": "reference"}]
    (finding,) = result.findings
    assert set(finding.models) == {"unlearned"}


def test_an_audit_that_was_stopped_goes_on_where_it_was(
    make_set, full, reference, forgotten, invented, copies, tmp_path
):
    invented("one", LikelihoodProbe, **reading("one"))

    def stop(self, bench):
        raise KeyboardInterrupt

    invented("late", ModelProbe, measure=stop)
    journal = tmp_path / "audit.partial"
    models = {"original": full, "reference": reference}
    options = {"tier": "standard", "precisions": ("int8",), "journal": journal}
    with pytest.raises(KeyboardInterrupt):
        audit(forgotten, make_set(), **models, **options)
    assert journal.exists()
    texts = [r.prompt for r in make_set().forget] + [r.answer for r in make_set().forget]
    assert not [text for text in texts if text in journal.read_text("utf-8")]
    registry.probes.get("late").measure = lambda self, bench: {}
    result = audit(forgotten, make_set(), **models, **options)
    assert [len(m.batches) for m in (full, reference, forgotten)] == [1, 1, 1]
    assert len(copies) == 2
    assert {f.key for f in result.findings} == {"one/forget", "one/forget@int8"}
    assert not journal.exists()


def test_a_changed_model_seed_or_set_never_gets_old_figures(
    make_set, full, reference, invented, tmp_path, stand_in
):
    invented("one", LikelihoodProbe, **reading("one"))

    def stop(self, bench):
        raise KeyboardInterrupt

    invented("late", ModelProbe, measure=stop)

    def run(model, forget_set, seed=0):
        with pytest.raises(KeyboardInterrupt):
            audit(
                model,
                forget_set,
                reference=reference,
                tier="standard",
                precisions=(),
                journal=tmp_path / "audit.partial",
                seed=seed,
            )
        return len(model.batches)

    assert [run(full, make_set()), run(full, make_set())] == [1, 1]
    other = stand_in("other weights", full.knows)
    assert run(other, make_set()) == 1
    assert run(full, make_set(), seed=1) == 2
    assert run(full, make_set(8)) == 3


def test_a_journal_of_something_else_is_refused_before_any_work(make_set, full, tmp_path):
    notes = tmp_path / "notes"
    notes.write_text("mine")
    with pytest.raises(InputError, match="not the journal of an audit"):
        audit(full, make_set(), journal=notes)
    assert full.batches == []


def test_a_figure_that_is_no_number_is_not_kept(make_set, full, invented, tmp_path):
    def broken(self, scores, material):
        return [Measurement("one", "forget", "One", {k.record_id: np.nan for k in scores})]

    invented("one", LikelihoodProbe, **(reading("one") | {"measure": broken}))
    journal = tmp_path / "audit.partial"
    with pytest.raises(Exception, match="is nan for record"):
        audit(full, make_set(), tier="standard", precisions=(), journal=journal)
    assert "nan" not in journal.read_text("utf-8").lower()


def test_what_an_endpoint_will_be_asked_is_counted_once(make_set, full, invented):
    invented("one", LikelihoodProbe, **reading("one"))
    invented("two", LikelihoodProbe, **reading("two"))
    invented("three", GenerationProbe, **writing("three", 4))
    probes = {name: registry.probes.get(name)() for name in ("one", "two", "three")}
    forget = make_set().forget
    work = runner.work_of(runner.Job(probes, {"unlearned": full}, {"forget": forget}))
    read = sum(len(r.text) for r in forget)
    assert work == (2 * len(forget), read + sum(len(r.prompt) for r in forget), 8 * 4 * len(forget))
