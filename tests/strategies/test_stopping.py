"""When training ends, and which state is kept."""

import math
from dataclasses import replace

import numpy as np
import pytest

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies.counterfactual import Guess
from unlearn.strategies.stopping import (
    TOLERANCE,
    Budget,
    Ceiling,
    Evaluation,
    Evaluator,
    StopRule,
    Target,
    find_targets,
)
from unlearn.types import Statement

TARGETS = (Target(4.0, 0.5), Target(2.0, 0.0))


def evaluation(
    *nll: float, agreement: tuple[float, ...] = (0, 0), retain: float | None = None, step: int = 1
) -> Evaluation:
    return Evaluation(step, TARGETS, np.array(nll), np.array(agreement, float), retain)


def rule(match: bool = True, can_repair: bool = True, patience: int = 2) -> StopRule:
    return StopRule(match, Budget(10), Ceiling(0.5, 0.2, patience), can_repair)


def test_the_gap_adds_missing_nll_and_excess_agreement() -> None:
    found = evaluation(1.0, 2.5, agreement=(0.75, 0.25))
    assert found.gaps.tolist() == [0.75 + 0.25, 0.25]
    assert found.gap == (np.mean([1.0, 0.25]) + 1.0) / 2
    assert found.matched.tolist() == [False, False]


def test_a_record_matches_at_its_target_and_not_before() -> None:
    assert evaluation(4.0, 2.0, agreement=(0.5, 0.0)).matched.tolist() == [True, True]
    assert evaluation(3.99, 9.0, agreement=(0.0, 0.1)).matched.tolist() == [False, False]


def test_the_token_gap_is_the_excess_over_the_guesses_as_a_share_of_their_nats(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    records = [record for record in forget_set.forget if " " in record.answer][:1] * 4
    (scored,) = score(model, records[:1])
    logprobs = scored.logprobs.astype(float)
    assert len(logprobs) == 2
    offsets = ([-3.0, -1.0], [-3.0, 9.0], [-TOLERANCE, 0.0], [0.0])
    targets = tuple(Target(1.0, 0.0, (logprobs + o)[: len(o)]) for o in offsets)
    found = Evaluator(tuple(records), (), targets)(model, 0)
    assert found.token_gaps is not None
    both = (3 - TOLERANCE + 1 - TOLERANCE) / (4 - logprobs.sum())
    # One token far below its guess makes up for none of what the other lacks.
    one = (3 - TOLERANCE) / max(-6 - logprobs.sum(), TOLERANCE)
    assert found.token_gaps[:3].tolist() == pytest.approx([both, one, 0], abs=1e-6)
    # A guess of another length says nothing: the record as a whole decides.
    assert math.isnan(found.token_gaps[3])
    excess = 1 - found.nll_per_token[3] + found.agreement[3]
    assert found.gaps.tolist() == pytest.approx([both, one, 0, excess], abs=1e-6)


def test_overshoot_is_what_lies_above_the_targets() -> None:
    assert evaluation(1.0, 5.0).overshoot == 1.5


def test_one_record_that_is_still_known_keeps_training_going() -> None:
    going = rule()
    still_known = evaluation(40.0, 0.1)
    assert going.is_best(evaluation(0.0, 0.0, step=0))
    assert going.reason(still_known) is None
    assert (going.reason(evaluation(4.5, 2.5)) or "").startswith("matched")


def test_an_answer_that_is_still_greedy_has_not_matched_whatever_its_nll() -> None:
    assert rule().reason(evaluation(40.0, 40.0, agreement=(1.0, 0.0))) is None


def test_the_first_of_equally_good_states_is_kept() -> None:
    following = rule()
    assert following.is_best(evaluation(0.0, 0.0, step=0))
    assert following.is_best(evaluation(4.0, 2.0))
    assert not following.is_best(evaluation(8.0, 8.0))
    assert not following.is_best(evaluation(2.0, 2.0))


def test_a_state_above_the_retain_ceiling_is_never_kept() -> None:
    following = rule()
    following.is_best(evaluation(0.0, 0.0, retain=0.4, step=0))
    assert following.limit == pytest.approx(0.6)
    assert not following.is_best(evaluation(4.0, 2.0, retain=0.61))
    assert following.is_best(evaluation(1.0, 1.0, retain=0.59))


def test_the_floor_keeps_a_well_memorised_retain_split_from_looking_fragile() -> None:
    assert Ceiling(0.5, 0.2, 1).limit(0.01) == pytest.approx(0.11)
    assert Ceiling(0.5, 0.2, 1).limit(1.0) == pytest.approx(1.5)
    assert Ceiling(0.5, 0.2, 1).limit(None) == math.inf


def test_the_ceiling_ends_training_only_after_the_patience() -> None:
    following = rule(patience=2)
    following.is_best(evaluation(0.0, 0.0, retain=0.1, step=0))
    assert following.reason(evaluation(1.0, 1.0, retain=9.0)) is None
    assert following.reason(evaluation(1.0, 1.0, retain=0.1)) is None
    assert following.reason(evaluation(1.0, 1.0, retain=9.0)) is None
    assert "retain ceiling" in (following.reason(evaluation(1.0, 1.0, retain=9.0)) or "")


@pytest.mark.parametrize("can_repair", [True, False])
def test_matched_above_the_ceiling_goes_on_only_if_a_retain_term_can_repair(
    can_repair: bool,
) -> None:
    following = rule(can_repair=can_repair)
    following.is_best(evaluation(0.0, 0.0, retain=0.1, step=0))
    reason = following.reason(evaluation(4.0, 2.0, retain=9.0))
    assert (reason is None) == can_repair


def test_without_matching_the_latest_state_is_kept_and_only_budgets_end_training() -> None:
    following = rule(match=False)
    assert following.is_best(evaluation(0.0, 0.0, step=0))
    assert following.is_best(evaluation(4.0, 2.0))
    assert following.is_best(evaluation(3.0, 2.0))
    assert following.reason(evaluation(4.0, 2.0)) is None


def test_each_budget_says_which_one_is_spent() -> None:
    budget = Budget(10, 100, 1.5)
    assert budget.spent(9, 99, 1.4) is None
    assert budget.spent(10, 0, 0) == "budget: 10 steps"
    assert budget.spent(0, 100, 0) == "budget: 100 tokens"
    assert budget.spent(0, 0, 1.5) == "budget: 1.5 seconds"
    assert Budget(10).spent(9, 10**9, 1e9) is None


def test_targets_are_the_holdout_means_of_the_same_relation(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    found = find_targets(model, forget_set, agreement_quantile=1.0, min_holdout=1)
    for record, target in zip(forget_set.forget, found.records, strict=True):
        same = [r for r in forget_set.holdout if r.relation == record.relation]
        scores = [score(model, [r])[0] for r in same]
        assert target.nll_per_token == pytest.approx(np.mean([s.nll_per_token for s in scores]))
        assert target.agreement == max(s.exact_memorisation for s in scores)
    assert len({target.nll_per_token for target in found.records}) == 3
    assert found.warning == ""


def test_a_relation_with_few_holdout_records_takes_the_whole_holdout(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    found = find_targets(model, forget_set, agreement_quantile=0.9, min_holdout=10**6)
    scores = score(model, forget_set.holdout)
    expected = np.mean([scored.nll_per_token for scored in scores])
    assert [t.nll_per_token for t in found.records] == pytest.approx([expected] * 6)


def test_a_guess_comes_before_the_holdout_and_the_holdout_fills_the_gaps(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    guess = Guess(np.array([-1.0, -4.0]), 0.5)
    others = find_targets(model, forget_set, 0.9, 3).records
    mixed = find_targets(model, forget_set, 0.9, 3, [guess, *[None] * 5])
    assert mixed.records[0].nll_per_token == 2.5
    assert mixed.records[0].agreement == 0.5 and mixed.records[0].guess is guess.logprobs
    assert mixed.records[1:] == others[1:]
    unseen = find_targets(model, forget_set, 0.9, 3, [guess] * 6)
    assert (unseen.origin, unseen.warning) == ("unseen names", "")
    assert find_targets(model, forget_set, 0.9, 3, [None] * 6).records == others


def test_guesses_for_names_the_model_has_met_are_said_to_be_that(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    guess = Guess(np.full(2, -4.0), 0.0)
    met = find_targets(model, replace(forget_set, holdout=()), 0.9, 3, [guess] * 6)
    assert met.origin == "retain names"
    assert "no holdout split" in met.warning


def test_without_a_holdout_the_targets_come_from_wrong_answers_and_say_so(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    bare = forget_set.forget[1].model_copy(update={"alternatives": ()})
    alone = replace(forget_set, forget=(forget_set.forget[0], bare), holdout=())
    found = find_targets(model, alone, agreement_quantile=0.9, min_holdout=3)
    first = forget_set.forget[0]
    wrong = [Statement(prompt=first.prompt, answer=answer) for answer in first.alternatives]
    mean = np.mean([scored.nll_per_token for scored in score(model, wrong)])
    uniform = math.log(model.vocabulary_size)
    assert found.records[0].nll_per_token == pytest.approx(min(mean, uniform))
    assert found.records[1].nll_per_token == pytest.approx(uniform)
    assert "no holdout" in found.warning


def test_an_evaluator_measures_forget_and_retain_apart(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    targets = tuple(Target(1.0, 0.0) for _ in forget_set.forget)
    found = Evaluator(forget_set.forget, forget_set.holdout, targets)(model, 7)
    holdout = [scored.nll_per_token for scored in score(model, forget_set.holdout)]
    assert found.step == 7
    assert found.retain_nll == pytest.approx(np.mean(holdout))
    assert found.nll_per_token.max() < 0.1 < np.mean(holdout)
    assert Evaluator(forget_set.forget, (), targets)(model, 0).retain_nll is None
