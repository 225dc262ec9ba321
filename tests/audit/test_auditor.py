"""One pass, the same bytes again, and refusals that say what to do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unlearn import registry
from unlearn.audit import audit
from unlearn.errors import ConfigError, NumericalError, UnknownNameError, UnsupportedError
from unlearn.probes.probe import LikelihoodProbe, Measurement, record_means, trained_statements
from unlearn.types import AuditResult

NEVER_PRINTED = ("deleted", "anonymous", "compliant", "certified")


def test_each_model_reads_the_union_of_all_texts_once(make_set, full, reference, forgotten):
    forget_set = make_set()
    audit(forgotten, forget_set, original=full, reference=reference)
    for model in (full, reference, forgotten):
        (batch,) = model.batches
        texts = [(s.prompt, s.completion) for s in batch]
        assert len(texts) == len(set(texts))
    facts = 16 * 4
    trained = 2 * facts
    attached = 2 * facts + facts + facts
    kept = 3 * 100 * 2 * 2
    assert len(texts) == trained + attached + kept


def test_a_model_with_two_roles_is_read_once(make_set, full, reference):
    result = audit(full, make_set(), original=full, reference=reference)
    assert len(full.batches) == 1
    assert result.models["original"] == result.models["unlearned"]
    assert any("is the original, bit for bit" in limit for limit in result.limits)


def test_equal_digests_count_as_one_model(make_set, full, reference, stand_in):
    twin = stand_in("reference", reference.knows)
    result = audit(twin, make_set(), original=full, reference=reference)
    assert len(twin.batches) + len(reference.batches) == 1
    assert any("is the reference, bit for bit" in limit for limit in result.limits)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_intervals(
    make_set, full, reference, forgotten
):
    def run(seed):
        result = audit(
            forgotten, make_set(kept=120), original=full, reference=reference, seed=seed, examples=3
        )
        assert AuditResult.model_validate_json(result.model_dump_json()) == result
        return result.model_copy(update={"created": "", "seconds": 0.0}).model_dump_json()

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_figure_does_not_depend_on_which_other_probes_run(make_set, full, reference, forgotten):
    models = {"original": full, "reference": reference}
    every = audit(forgotten, make_set(40), **models)
    alone = audit(forgotten, make_set(40), **models, probes=["answers"])
    (figure,) = alone.findings
    assert figure == next(f for f in every.findings if f.key == "answers/forget")


def test_findings_hold_every_record_and_their_mean(make_set, full, reference):
    forget_set = make_set(3, 2)
    result = audit(full, forget_set, reference=reference)
    keys = [finding.key for finding in result.findings]
    assert len(keys) == len(set(keys))
    figure = next(f for f in result.findings if f.key == "probability/forget")
    assert set(figure.records["unlearned"]) == {r.id for r in forget_set.forget}
    for role, estimate in figure.models.items():
        values = list(figure.records[role].values())
        assert estimate.value == pytest.approx(np.mean(values))
        assert (estimate.n, estimate.clusters) == (12, 3)
        assert estimate.low <= estimate.value <= estimate.high
    assert figure.models["unlearned"].value == pytest.approx(0.9)


def test_max_records_draws_whole_subjects_and_never_cuts_forget(make_set, full, reference):
    result = audit(full, make_set(), reference=reference, max_records=20)
    assert result.forget_set.records["forget"] == 128
    for split in ("retain", "neighbors", "holdout"):
        assert result.forget_set.records[split] == 20
        assert result.forget_set.subjects[split] == 5
    assert any("Of 400 retain records 20 were drawn" in limit for limit in result.limits)


def test_smoke_measures_at_most_four_hundred_records_of_a_split(make_set, full, reference):
    result = audit(full, make_set(kept=130), reference=reference)
    assert result.forget_set.records["retain"] == 400


def test_no_text_is_shown_unless_asked_for(make_set, full, reference, forgotten):
    models = {"original": full, "reference": reference}
    assert audit(forgotten, make_set(), **models).examples == ()
    shown = audit(forgotten, make_set(), **models, examples=5).examples
    assert [e.split for e in shown] == ["forget"] * 5 + ["neighbors"] * 2
    assert {role: shown[0].outputs[role].split()[0] for role in shown[0].outputs} == {
        "original": "full",
        "unlearned": "forgotten",
        "reference": "reference",
    }
    facts = {e.record_id.rsplit("-", 1)[0] for e in shown}
    assert len(facts) == 7


def test_no_subject_prompt_or_answer_leaves_the_audit(make_set, full, reference, forgotten):
    forget_set = make_set()
    result = audit(forgotten, forget_set, original=full, reference=reference).model_dump_json()
    for record in forget_set.forget:
        assert record.subject not in result
        assert record.prompt not in result


def test_words_that_promise_too_much_are_never_printed(make_set, full, reference, forgotten):
    for model in (full, forgotten):
        for forget_set in (make_set(), make_set(1, 8), make_set(omit=["retain", "holdout"])):
            text = audit(model, forget_set, original=full, reference=reference).model_dump_json()
            assert not [word for word in NEVER_PRINTED if word in text.lower()]


def test_provenance_and_models_are_recorded(make_set, full, reference):
    result = audit(full, make_set(), reference=reference, provenance={"strategy": "none"})
    assert result.provenance == {"strategy": "none"}
    assert result.models["unlearned"].source == "stand-in full"
    assert result.models["unlearned"].dtype == "float32"
    assert "original" not in result.models
    assert result.forget_set.digest == make_set().digest


def test_progress_rises_to_one_and_names_no_record(make_set, full, reference, forgotten):
    told = []
    audit(
        forgotten,
        make_set(),
        original=full,
        reference=reference,
        progress=lambda what, fraction: told.append((what, fraction)),
    )
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert {what for what, _ in told} == {
        "score the original",
        "score the unlearned",
        "score the reference",
    }


def test_an_unknown_tier_is_refused_with_the_known_ones(make_set, full):
    with pytest.raises(ConfigError, match="no tier 'smoky'; known: smoke, standard, deep"):
        audit(full, make_set(), tier="smoky")
    assert full.batches == []


def test_an_unknown_probe_is_refused_with_the_nearest_name(make_set, full):
    with pytest.raises(UnknownNameError, match="Did you mean 'probability'"):
        audit(full, make_set(), probes=["probabilty"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"probes": []}, "probes is empty"),
        ({"max_records": 0}, "max_records is 0"),
        ({"examples": -1}, "examples is -1"),
    ],
)
def test_settings_out_of_range_are_refused(make_set, full, setting, message):
    with pytest.raises(ConfigError, match=message):
        audit(full, make_set(), **setting)


def test_probes_without_anything_to_measure_are_refused(make_set, full):
    bare = tuple(r.model_copy(update={"implications": ()}) for r in make_set().forget)
    with pytest.raises(UnsupportedError, match="implied-answers"):
        audit(full, make_set(forget=bare), probes=["implied-answers"])


def test_models_with_different_tokenizers_are_refused(make_set, full, stand_in, scores):
    other = stand_in("other", lambda s: True, known=scores([0.9] * 3, [True] * 3))
    with pytest.raises(UnsupportedError, match="the reference has another tokenizer"):
        audit(full, make_set(), reference=other)


def test_a_score_that_is_no_number_is_an_error_and_no_figure(make_set, full, stand_in, scores):
    broken = stand_in("broken", lambda s: True, known=scores([np.nan, 0.5], [True, True]))
    with pytest.raises(NumericalError, match="of the unlearned model is nan for record"):
        audit(broken, make_set(), reference=full)


def test_a_probe_of_another_package_joins_with_one_line(make_set, full, reference, monkeypatch):
    registry.probes.names()
    monkeypatch.setattr(registry.probes, "_classes", dict(registry.probes._classes))

    @registry.probes.register("answer-length")
    class AnswerLength(LikelihoodProbe):
        summary, cost = "tokens of an answer", "nothing"
        honours, tier = frozenset({"logprobs"}), "smoke"
        property = "efficiency"

        def statements(self, material):
            return trained_statements(material, "forget")

        def measure(self, scores, material):
            found = record_means(scores, lambda s: len(s.ids))
            return [
                Measurement("answer_length", split, "Length", values, bounds=(0, np.inf))
                for split, values in found.items()
            ]

    result = audit(full, make_set(), reference=reference)
    figure = next(f for f in result.findings if f.key == "answer_length/forget")
    assert figure.models["unlearned"].value == 2.0
    assert len(full.batches) == 1


def test_a_single_record_has_no_loss_figure_but_a_bounded_one(make_set, full, reference):
    alone = make_set(1, 1).forget[:1]
    result = audit(full, make_set(forget=alone), reference=reference)
    keys = {finding.key for finding in result.findings}
    assert "nll_per_token/forget" not in keys
    figure = next(f for f in result.findings if f.key == "answers/forget")
    assert (figure.models["unlearned"].low, figure.models["unlearned"].high) == (0.0, 1.0)
    json.loads(result.model_dump_json())


def test_much_to_forget_in_one_record_is_not_called_little(make_set, full, reference):
    models = {"original": full, "reference": reference}
    result = audit(full, make_set(forget=make_set(1, 1).forget[:1]), **models)
    assert result.findings[0].models["reference"].high == 1
    assert not any("little to forget" in limit for limit in result.limits)
    ignorant = audit(reference, make_set(), original=reference, reference=reference)
    assert any("little to forget" in limit for limit in ignorant.limits)
