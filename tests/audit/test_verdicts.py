"""What an audit concludes of models whose knowledge is known: it must fail those that must fail."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn.audit import audit
from unlearn.types import Verdict
from unlearn.verdicts.criteria import criteria_of

FORGOTTEN = {c.id for c in criteria_of("smoke") if c.against == "reference"}
KEPT = {c.id for c in criteria_of("smoke") if c.against == "original"}


def verdicts(result):
    return {claim.id: claim.verdict for claim in result.claims}


def reasons(result):
    return {claim.id: claim.reason for claim in result.claims}


def test_a_model_that_scores_like_the_reference_passes(make_set, full, reference, forgotten):
    result = audit(forgotten, make_set(), original=full, reference=reference)
    assert set(verdicts(result).values()) == {Verdict.PASS}
    assert (result.verdict, result.verdict.exit_code) == (Verdict.PASS, 0)
    assert result.label == "suppressed"


def test_the_untouched_model_fails_every_claim_of_forgetting(make_set, full, reference):
    result = audit(full, make_set(), original=full, reference=reference)
    found = verdicts(result)
    assert {found[id_] for id_ in FORGOTTEN - {"not-over-forgotten"}} == {Verdict.FAIL}
    assert {found[id_] for id_ in KEPT} == {Verdict.PASS}
    assert (result.verdict, result.verdict.exit_code) == (Verdict.FAIL, 1)
    assert result.label == "none"
    assert "64 of 64 facts" in reasons(result)["forgotten-answers"]


def test_the_untouched_model_fails_even_where_one_person_is_concerned(make_set, full, reference):
    result = audit(full, make_set(1, 8), original=full, reference=reference)
    assert verdicts(result)["forgotten-answers"] is Verdict.FAIL
    assert "p = 0.0039" in reasons(result)["forgotten-answers"]
    assert result.verdict is Verdict.FAIL


def test_a_good_model_about_one_person_is_not_decided(make_set, full, reference, forgotten):
    result = audit(forgotten, make_set(1, 8), original=full, reference=reference)
    found = verdicts(result)
    assert {found[id_] for id_ in FORGOTTEN} == {Verdict.INCONCLUSIVE}
    assert {found[id_] for id_ in KEPT} == {Verdict.PASS}
    assert result.verdict.exit_code == 3
    assert result.label == "suppressed"
    needs = {c.id: c.n_needed for c in result.claims}
    assert all(needs[id_] >= 5 for id_ in FORGOTTEN)
    assert any("one subject" in limit for limit in result.limits)
    assert any("resample its facts" in limit for limit in result.limits)


@pytest.mark.parametrize("n_subjects", [1, 2, 3, 4])
def test_too_few_subjects_never_pass(make_set, full, reference, forgotten, n_subjects):
    result = audit(forgotten, make_set(n_subjects, 8), original=full, reference=reference)
    assert not any(verdicts(result)[id_] is Verdict.PASS for id_ in FORGOTTEN)


def test_five_subjects_with_one_fact_each_are_too_few_records(make_set, full, reference, forgotten):
    result = audit(forgotten, make_set(5, 1), original=full, reference=reference)
    assert verdicts(result)["forgotten-answers"] is Verdict.INCONCLUSIVE
    assert 6 <= next(c.n_needed for c in result.claims if c.id == "forgotten-answers") <= 60


def test_too_few_facts_to_test_are_not_called_a_failure(make_set, full, reference):
    result = audit(full, make_set(1, 3), original=full, reference=reference)
    assert verdicts(result)["forgotten-answers"] is Verdict.INCONCLUSIVE
    assert result.label == "none"


@pytest.mark.parametrize("n_facts", [1, 2])
def test_undecided_is_not_suppressed_where_the_figures_leak(make_set, full, reference, n_facts):
    result = audit(full, make_set(1, n_facts), reference=reference)
    assert verdicts(result)["forgotten-answers"] is Verdict.INCONCLUSIVE
    assert result.label == "none"


def test_a_leak_in_a_claim_that_was_not_run_keeps_the_word_suppressed_away(
    make_set, full, reference, stand_in
):
    polyglot = stand_in("polyglot", lambda s: reference.knows(s) or "traduit" in s.prompt)
    records = bare(make_set(1, 4).forget, "paraphrases")
    models = {"original": full, "reference": reference}
    result = audit(polyglot, make_set(forget=records), **models)
    assert verdicts(result)["forgotten-generality"] is Verdict.NOT_RUN
    assert result.label == "none"


def test_one_implied_answer_of_two_too_many_keeps_the_word_suppressed_away(
    make_set, full, reference, stand_in
):
    first = "Forget Person0 implies"
    knows = lambda s: reference.knows(s) or s.prompt == first  # noqa: E731
    result = audit(stand_in("guesses", knows), make_set(1, 2), original=full, reference=reference)
    assert verdicts(result)["forgotten-portability"] is not Verdict.PASS
    assert result.label == "none"


def test_the_original_itself_is_never_called_suppressed(make_set, reference, stand_in):
    ignorant = stand_in("ignorant", reference.knows)
    result = audit(ignorant, make_set(), original=ignorant, reference=reference)
    assert result.label == "none"


def test_without_a_reference_no_claim_of_forgetting_is_judged(make_set, full, forgotten):
    result = audit(forgotten, make_set(), original=full)
    found = verdicts(result)
    assert {found[id_] for id_ in FORGOTTEN} == {Verdict.INCONCLUSIVE}
    assert all("never-trained reference" in reasons(result)[id_] for id_ in FORGOTTEN)
    assert {found[id_] for id_ in KEPT} == {Verdict.PASS}
    assert (result.verdict.exit_code, result.label) == (3, "none")


def test_without_an_original_nothing_is_said_of_what_was_kept(make_set, reference, forgotten):
    result = audit(forgotten, make_set(), reference=reference)
    assert {verdicts(result)[id_] for id_ in KEPT} == {Verdict.NOT_RUN}
    assert {verdicts(result)[id_] for id_ in FORGOTTEN} == {Verdict.PASS}
    assert result.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("split", "claim"), [("neighbors", "neighbors-kept"), ("retain", "retain-kept")]
)
def test_a_missing_split_is_not_run_and_never_green(
    make_set, full, reference, forgotten, split, claim
):
    result = audit(forgotten, make_set(omit=[split]), original=full, reference=reference)
    assert verdicts(result)[claim] is Verdict.NOT_RUN
    assert f"no {split} split" in reasons(result)[claim]
    assert result.verdict is Verdict.INCONCLUSIVE


def bare(records, *fields):
    return tuple(r.model_copy(update=dict.fromkeys(fields, ())) for r in records)


def test_records_without_paraphrases_leave_generality_not_run(make_set, full, reference, forgotten):
    records = bare(make_set().forget, "paraphrases")
    result = audit(forgotten, make_set(forget=records), original=full, reference=reference)
    assert verdicts(result)["forgotten-generality"] is Verdict.NOT_RUN
    assert "paraphrases" in reasons(result)["forgotten-generality"]
    assert result.verdict is Verdict.INCONCLUSIVE


def test_generality_is_judged_without_translations_and_the_whole_without_implications(
    make_set, full, reference, forgotten
):
    records = bare(make_set().forget, "translations", "implications")
    result = audit(forgotten, make_set(forget=records), original=full, reference=reference)
    assert verdicts(result)["forgotten-generality"] is Verdict.PASS
    assert verdicts(result)["forgotten-portability"] is Verdict.NOT_RUN
    assert result.verdict is Verdict.PASS


def test_leaving_a_probe_out_cannot_buy_a_pass(make_set, full, reference, forgotten):
    names = [
        "probability", "extraction-strength", "answers", "held-out-answers",
        "translated-answers", "kept-answers", "perplexity",
    ]  # fmt: skip
    result = audit(forgotten, make_set(), original=full, reference=reference, probes=names)
    assert verdicts(result)["forgotten-portability"] is Verdict.NOT_RUN
    assert "'implied-answers' was not run" in reasons(result)["forgotten-portability"]
    assert result.verdict is Verdict.INCONCLUSIVE


def test_half_a_claim_can_fail_but_not_pass(make_set, full, reference, forgotten):
    models = {"original": full, "reference": reference, "probes": ["probability"]}
    good = audit(forgotten, make_set(), **models)
    assert verdicts(good)["forgotten-verbatim"] is Verdict.NOT_RUN
    bad = audit(full, make_set(), **models)
    assert verdicts(bad)["forgotten-verbatim"] is Verdict.FAIL


def test_a_model_that_forgot_only_the_trained_wording_fails_generality(
    make_set, full, reference, stand_in
):
    hidden = stand_in("hidden", lambda s: full.knows(s) and "in wording" not in s.prompt)
    retained = stand_in("hidden", lambda s: hidden.knows(s) or reference.knows(s))
    result = audit(retained, make_set(), original=full, reference=reference)
    found = verdicts(result)
    assert found["forgotten-answers"] is Verdict.PASS
    assert found["forgotten-generality"] is Verdict.FAIL
    assert found["forgotten-portability"] is Verdict.FAIL


def test_a_model_that_still_knows_another_language_fails(make_set, full, reference, stand_in):
    foreign = stand_in("foreign", lambda s: reference.knows(s) or "traduit" in s.prompt)
    result = audit(foreign, make_set(), original=full, reference=reference)
    assert verdicts(result)["forgotten-generality"] is Verdict.FAIL
    assert verdicts(result)["forgotten-portability"] is Verdict.PASS


def test_probability_alone_betrays_a_model_that_never_says_it(
    make_set, full, reference, stand_in, scores
):
    near = scores([0.45, 0.45], [False, False])
    shy = stand_in("shy", reference.knows, unknown=near)
    result = audit(shy, make_set(), original=full, reference=reference)
    assert verdicts(result)["forgotten-answers"] is Verdict.PASS
    assert verdicts(result)["forgotten-verbatim"] is Verdict.FAIL


def test_answers_made_conspicuously_improbable_are_over_forgotten(
    make_set, full, reference, stand_in, scores
):
    burnt = stand_in("burnt", reference.knows, unknown=scores([1e-9, 1e-9], [False, False]))
    result = audit(burnt, make_set(), original=full, reference=reference)
    found = verdicts(result)
    assert found["not-over-forgotten"] is Verdict.FAIL
    assert found["forgotten-verbatim"] is Verdict.PASS
    one_person = audit(burnt, make_set(1, 8), original=full, reference=reference)
    assert verdicts(one_person)["not-over-forgotten"] is Verdict.FAIL


def test_one_person_left_behind_among_thirty_is_not_averaged_away(
    make_set, full, reference, stand_in
):
    left = stand_in("left", lambda s: reference.knows(s) or "Forget Person7 " in s.prompt)
    result = audit(left, make_set(30, 8), original=full, reference=reference)
    assert verdicts(result)["forgotten-answers"] is Verdict.FAIL
    assert "of one subject 8 of 8 facts" in reasons(result)["forgotten-answers"]
    assert "Person7" not in reasons(result)["forgotten-answers"]


def test_damage_close_by_fails_neighbors_and_not_retain(make_set, full, reference, stand_in):
    hurt = stand_in("hurt", lambda s: "Retain Person" in s.prompt)
    result = audit(hurt, make_set(), original=full, reference=reference)
    found = verdicts(result)
    assert found["neighbors-kept"] is Verdict.FAIL
    assert found["retain-kept"] is Verdict.PASS
    assert found["fluency-kept"] is Verdict.FAIL
    assert found["forgotten-answers"] is Verdict.PASS


def test_lost_fluency_fails_where_answers_survive(make_set, full, reference, stand_in, scores):
    hoarse = stand_in("hoarse", reference.knows, known=scores([0.8, 0.8], [True, True]))
    result = audit(hoarse, make_set(), original=full, reference=reference)
    assert verdicts(result)["retain-kept"] is Verdict.PASS
    assert verdicts(result)["fluency-kept"] is Verdict.FAIL
    assert "factor 1.125" in reasons(result)["fluency-kept"]


def test_a_loss_of_just_over_two_points_is_not_waved_through(make_set, full, reference, stand_in):
    def knows(s):
        return reference.knows(s) and not s.prompt.startswith("Retain Person3 ")

    result = audit(stand_in("short", knows), make_set(), original=full, reference=reference)
    assert verdicts(result)["retain-kept"] is not Verdict.PASS


def test_the_original_is_no_reference(make_set, full, forgotten):
    result = audit(forgotten, make_set(), original=full, reference=full)
    assert {verdicts(result)[id_] for id_ in FORGOTTEN - {"not-over-forgotten"}} == {
        Verdict.CONFOUNDED
    }
    assert result.verdict.exit_code != 0
    assert "the original itself" in reasons(result)["forgotten-answers"]
    assert result.label == "none"


def test_a_reference_that_saw_the_records_is_found_out_by_the_holdout(
    make_set, full, forgotten, stand_in
):
    tainted = stand_in("tainted", lambda s: full.knows(s) and "Person9 " not in s.prompt)
    result = audit(forgotten, make_set(), original=full, reference=tainted)
    assert verdicts(result)["forgotten-answers"] is Verdict.CONFOUNDED
    assert "seems to have seen" in reasons(result)["forgotten-answers"]


def test_there_being_nothing_to_forget_is_said(make_set, reference, forgotten, stand_in):
    ignorant = stand_in("ignorant", reference.knows)
    result = audit(forgotten, make_set(), original=ignorant, reference=reference)
    assert any("little to forget" in limit for limit in result.limits)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    n_subjects=st.integers(1, 8),
    n_facts=st.integers(1, 4),
    kept=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    omit=st.sets(st.sampled_from(["retain", "neighbors", "holdout"])),
    has=st.sets(st.sampled_from(["original", "reference"])),
    rates=st.tuples(*[st.sampled_from([0.0, 0.1, 0.9, 1.0])] * 3),
)
def test_verdict_exit_code_and_claims_always_agree(
    make_set, stand_in, n_subjects, n_facts, kept, seed, omit, has, rates
):
    def knower(name, rate):
        def knows(s):
            return zlib.crc32(f"{name} {seed} {s.prompt}".encode()) % 1000 < 1000 * rate

        return stand_in(name, knows)

    roles = ("unlearned", "original", "reference")
    models = {role: knower(role, rate) for role, rate in zip(roles, rates, strict=True)}
    forget_set = make_set(n_subjects, n_facts, kept=kept, omit=omit)
    result = audit(models["unlearned"], forget_set, **{role: models[role] for role in has})
    found = verdicts(result)
    assert result.verdict.exit_code == (
        1 if Verdict.FAIL in found.values() else 0 if set(found.values()) == {Verdict.PASS} else 3
    )
    if n_subjects < 5 or "reference" not in has:
        assert not any(found[id_] is Verdict.PASS for id_ in FORGOTTEN)
    if kept < 5 or "original" not in has:
        assert not any(found[id_] is Verdict.PASS for id_ in KEPT)
    if result.label == "suppressed":
        assert not any(found[id_] is Verdict.FAIL for id_ in FORGOTTEN - {"not-over-forgotten"})
    assert result.label != "removed"
