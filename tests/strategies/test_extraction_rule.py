"""Jang et al.'s recipe: ascent until the records come back no more than unseen ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unlearn.artifact import FullWeights
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.extraction import extraction_likelihood
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies.extraction import Comparison, Extraction
from unlearn.strategies.gradient_ascent import GradientAscent, GradientAscentConfig
from unlearn.strategies.stopping import Budget, Ceiling, Evaluation, StopRule, Target
from unlearn.types import Record

UNSEEN = Extraction(0.2, 0.3)


def ascent(model: LanguageModel, forget_set: ForgetSet, **settings: Any) -> FullWeights:
    given = {
        "variant": "ascent",
        "stop": "extraction",
        "forget_batch": None,
        "evaluate_every": 1,
        "retain_ceiling": 1e3,
        **settings,
    }
    return GradientAscent(GradientAscentConfig(**given)).forget(model, forget_set)


def extracted(model: LanguageModel, records: tuple[Record, ...]) -> tuple[float, float]:
    likelihood = extraction_likelihood(model, encode(model, records), 3)
    memorised = [scored.greedy.mean() for scored in score(model, records)]
    return float(np.mean(likelihood)), float(np.mean(memorised))


def evaluation(likelihood: float, memorisation: float, retain: float | None = None) -> Evaluation:
    # Records whose NLL is at its target or not do not matter here.
    targets = (Target(4.0, 0.0), Target(4.0, 0.0))
    found = Comparison(3, Extraction(likelihood, memorisation), UNSEEN)
    nll, agreement = np.array([9.0, 0.0]), np.array([0.0, 1.0])
    return Evaluation(1, targets, nll, agreement, retain, None, found)


def rule() -> StopRule:
    return StopRule(True, Budget(10), Ceiling(0.5, 0.2, 2), can_repair=False)


def test_both_figures_must_be_at_most_those_of_unseen_records() -> None:
    assert evaluation(0.2, 0.3).forgotten
    assert not evaluation(0.21, 0.0).forgotten
    assert not evaluation(0.0, 0.31).forgotten
    assert evaluation(0.3, 0.5).gap == pytest.approx(0.1 + 0.2)
    assert (rule().reason(evaluation(0.1, 0.3)) or "").startswith("extraction: EL_3 0.100 and MA")


def test_the_state_nearest_to_unseen_records_is_kept_below_the_ceiling_alone() -> None:
    following = rule()
    assert following.is_best(evaluation(1.0, 1.0, retain=0.1))
    assert following.is_best(evaluation(0.6, 1.0, retain=0.1))
    assert not following.is_best(evaluation(0.7, 0.95, retain=0.1))
    assert not following.is_best(evaluation(0.1, 0.1, retain=0.9))
    assert "retain ceiling" in (following.reason(evaluation(0.1, 0.1, retain=0.9)) or "")


def test_ascent_on_the_whole_set_stops_at_the_figures_of_the_holdout(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    artifact = ascent(model, forget_set, learning_rate=5e-4)
    provenance, limits = artifact.provenance, extracted(model, forget_set.holdout)
    assert provenance.stop_reason.startswith("extraction: EL_3")
    before, after = (extracted(m, forget_set.forget) for m in (model, artifact.apply(model)))
    assert before == (1.0, 1.0)
    assert all(mine <= limit + 1e-6 for mine, limit in zip(after, limits, strict=True))
    # One step earlier it was not there yet.
    steps = [entry for entry in provenance.steps if "extraction_likelihood" in entry]
    assert steps[-1]["step"] == provenance.steps[-1]["step"] > 1
    last = steps[-2]
    assert (
        last["extraction_likelihood"] > limits[0] + 1e-6
        or last["memorisation_accuracy"] > limits[1] + 1e-6
    )
    assert steps[0]["unseen_extraction_likelihood"] == pytest.approx(limits[0])


def test_an_abort_goes_back_to_the_best_state(model: LanguageModel, forget_set: ForgetSet) -> None:
    settings = {"retain_ceiling": 0.5, "ceiling_patience": 2, "learning_rate": 1e-3}
    provenance = ascent(model, forget_set, **settings).provenance
    assert "retain ceiling" in provenance.stop_reason
    assert "went back to step" in provenance.stop_reason
    kept = int(provenance.stop_reason.rpartition("step ")[2].split(";")[0])
    by_step = {entry["step"]: entry for entry in provenance.steps if "gap" in entry}
    limit = 0.5 * 0.2 + by_step[0]["retain_nll"]
    inside = {step: entry["gap"] for step, entry in by_step.items() if entry["retain_nll"] <= limit}
    assert by_step[kept]["gap"] == min(inside.values())


def test_every_record_is_in_every_step_of_a_full_batch(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    provenance = ascent(model, forget_set, max_steps=3, learning_rate=1e-5).provenance
    n_tokens = sum(len(encoding.ids) for encoding in encode(model, forget_set.forget))
    assert provenance.tokens == 3 * n_tokens
    assert provenance.stop_reason.startswith("budget: 3 steps")


def test_the_rule_needs_unseen_records(model: LanguageModel, forget_set: ForgetSet) -> None:
    with pytest.raises(UnsupportedError, match=r"stop=extraction compares.*holdout.jsonl"):
        ascent(model, replace(forget_set, holdout=()))
