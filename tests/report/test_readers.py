"""What each reader gets: nobody but the officer sees a record, a name or a path."""

import json
import re

import pytest

from unlearn.errors import InputError
from unlearn.report import FORMATS, READERS, render_html, render_markdown, report
from unlearn.report.letter import ANSWERS, QUESTIONS, letter
from unlearn.report.obligations import DUTIES, obligations
from unlearn.report.page import page
from unlearn.report.readers import about_request, for_outsiders
from unlearn.types import AuditResult, Calibration, Claim, Verdict

CANARY = "canary-Ada-Quill-41"
DRAWN = [("regulator", "html"), ("regulator", "md"), ("regulator", "json"), ("subject", "html")]
DRAWN += [("subject", "md")]
FORBIDDEN = re.compile("deleted|anonymous|compliant|certified", re.IGNORECASE)


@pytest.fixture
def personal(result):
    """The audit with a canary wherever a record, a name or a path can be."""
    models = {
        role: model.model_copy(update={"source": f"/home/{CANARY}/model"})
        for role, model in result.models.items()
    }
    findings = tuple(
        one.model_copy(
            update={
                "records": {role: {CANARY: 0.5} for role in one.models},
                "contrast": {role: {CANARY: 0.5} for role in one.models},
            }
        )
        for one in result.findings
    )
    examples = tuple(
        one.model_copy(
            update={
                "record_id": CANARY,
                "prompt": CANARY,
                "expected": CANARY,
                "outputs": {"unlearned": CANARY},
            }
        )
        for one in result.examples
    )
    forget_set = result.forget_set.model_copy(update={"name": CANARY, "digest": CANARY})
    calibration = Calibration(
        forget_set_digest=CANARY, tier="smoke", references=("a", "b"), pairs=1, margins={}
    )
    provenance = {**result.provenance, "base": f"/{CANARY}", "request": f"{CANARY} of Tarn"}
    return result.model_copy(
        update={
            "models": models,
            "findings": findings,
            "examples": examples,
            "forget_set": forget_set,
            "calibration": calibration,
            "provenance": provenance,
        }
    )


def drawn(result, reader, name):
    return FORMATS[name](result, reader, None)


@pytest.mark.parametrize(("reader", "name"), DRAWN)
def test_no_outsider_gets_a_record_a_name_or_a_path(personal, reader, name):
    assert CANARY not in drawn(personal, reader, name)
    assert CANARY in drawn(personal, "officer", name)


def test_the_regulator_gets_every_claim_figure_and_interval(result):
    outside, inside = page(for_outsiders(result), "regulator"), page(result)
    assert outside.judgements == inside.judgements
    assert outside.limits == inside.limits
    for mine, theirs in zip(outside.groups, inside.groups, strict=True):
        assert [row.cells for row in mine.rows] == [row.cells for row in theirs.rows]
    assert not outside.scenes and inside.scenes
    shown = render_html(result, "regulator")
    assert "Before and after" not in shown and "Ada Quill" not in shown


def test_the_regulators_json_is_an_audit_without_what_was_withheld(result):
    shown = AuditResult.model_validate_json(drawn(result, "regulator", "json"))
    assert shown == for_outsiders(result)
    assert shown.claims == result.claims and shown.verdict == result.verdict


def test_a_request_is_named_by_an_id_and_by_nothing_else(result):
    def of(request):
        return result.model_copy(update={"provenance": {"request": request}})

    assert about_request(of("3f9c")) == "Request 3f9c"
    assert about_request(of("Ada Quill")) == about_request(result) == "A request"
    assert letter(of("3f9c")).request == "request 3f9c"
    assert letter(of("Ada Quill")).request == ""


def test_the_letter_is_plain_words_without_figures_ids_or_names(result, deep):
    for one in (result, deep):
        shown = render_markdown(one, "subject")
        assert not re.search(r"\d\.\d{2}|%", shown.replace(one.tool_version, ""))
        for jargon in ("probe", "AUC", "tier", "digest", "forget set", "INCONCLUSIVE", "FAIL"):
            assert jargon not in shown
        assert not any(claim.id in shown.split() for claim in one.claims)
        assert "Quill" not in shown and "one-person" not in shown
        assert len(shown.split()) < 500


def test_the_letter_holds_no_figure_for_programs_either(result):
    data = re.search(r'id="letter">(.*?)</script>', render_html(result, "subject"))[1]
    assert json.loads(data) == {
        "request": None,
        "created": result.created,
        "tool_version": result.tool_version,
    }


def judged(verdict, name="forgotten-answers"):
    return Claim(id=name, statement="s", verdict=verdict, reason="r", findings=())


@pytest.mark.parametrize("verdict", Verdict)
def test_the_letter_says_what_the_verdicts_say(result, verdict):
    said = letter(result.model_copy(update={"claims": (judged(verdict),)}))
    assert dict(said.answers)["Asked directly"] == ANSWERS[verdict]
    assert [found for _, found in said.answers].count("Not tested.") >= len(QUESTIONS) - 1
    assert ("gave away no more" in said.outcome) is (verdict is Verdict.PASS)
    assert ("still gave away more" in said.outcome) is (verdict is Verdict.FAIL)


def test_one_failure_outweighs_what_passed_and_what_is_open(result):
    claims = (
        judged(Verdict.PASS),
        judged(Verdict.FAIL, "survives-sampling"),
        judged(Verdict.INCONCLUSIVE, "latent-gone"),
    )
    said = letter(result.model_copy(update={"claims": claims}))
    assert "still gave away more" in said.outcome
    nothing = letter(result.model_copy(update={"claims": ()}))
    assert "could not decide" in nothing.outcome


def test_harm_to_other_knowledge_is_no_matter_of_the_letter(result):
    claims = (judged(Verdict.PASS), judged(Verdict.FAIL, "neighbors-kept"))
    assert "gave away no more" in letter(result.model_copy(update={"claims": claims})).outcome


def test_the_letter_says_what_was_done_as_it_was_recorded(result):
    def done(**provenance):
        return " ".join(letter(result.model_copy(update={"provenance": provenance})).done)

    policy = "inference-policy, threat model served-only"
    assert "itself was not changed" in done(artifact=policy, strategy="in-context")
    assert "numbers the model consists of" in done(artifact="full-weights", strategy="edit")
    assert "not in the record" in done()
    suppressed = result.model_copy(update={"label": "suppressed"})
    assert "Traces may remain" in " ".join(letter(suppressed).done)


def test_every_question_of_the_audit_has_a_place_in_the_letter():
    from unlearn.verdicts.criteria import CRITERIA

    about_the_person = {one.id for one in CRITERIA if not one.id.endswith("-kept")}
    asked = tuple(start for question in QUESTIONS for start in question.claims)
    strange = {name for name in about_the_person if not name.startswith(asked)}
    # How it answers beside the reference is no leak that a person could meet.
    assert strange <= {"agrees-with-reference"}


def test_each_reader_has_the_formats_that_make_sense(result, tmp_path):
    assert set(READERS) == {"officer", "regulator", "subject"}
    names = {reader: set(report(result, tmp_path, reader=reader)) for reader in READERS}
    assert names["officer"] == names["regulator"] == {"html", "md", "json"}
    assert names["subject"] == {"html", "md"}
    assert (tmp_path / "audit.regulator.html").exists()
    assert (tmp_path / "audit.subject.md").exists()
    for reader, name in (("regulator", "junit"), ("subject", "json"), ("subject", "junit")):
        with pytest.raises(InputError, match=f"no {name} for the {reader}; choose from html, md"):
            report(result, tmp_path, (name,), reader)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("label", ["suppressed", "removed", "none"])
def test_words_that_promise_too_much_are_in_no_variant(result, deep, reader, label):
    for verdict in Verdict:
        for base in (result, deep):
            shown = base.model_copy(update={"verdict": verdict, "label": label})
            assert not FORBIDDEN.search(render_html(shown, reader))
            assert not FORBIDDEN.search(render_markdown(shown, reader))


def test_obligations_name_the_claims_with_their_verdicts_and_what_is_missing(result):
    kept = judged(Verdict.FAIL, "retain-kept")
    claims = (judged(Verdict.PASS), judged(Verdict.NOT_RUN, "survives-sampling"), kept)
    rows = obligations(result.model_copy(update={"claims": claims}))
    assert len(rows) == len(DUTIES) >= 8
    said = {row.rule: [link.title for link in row.evidence] for row in rows}
    erasure = said["GDPR Art. 17(1) and 17(3)"]
    assert erasure[:2] == ["forgotten-answers: PASS", "survives-sampling: NOT RUN"]
    assert "no test in this audit" in said["EDPB Opinion 28/2024"]
    assert said["EU AI Act Art. 11, 12 and 53"][0] == "retain-kept: FAIL"
    assert all(row.missing and row.asks and row.evidence for row in rows)


def test_what_the_table_of_duties_says_is_no_verdict_on_the_law():
    words = " ".join(" ".join((d.rule, d.asks, d.missing)) for d in DUTIES)
    assert not re.search(r"\b(met|fulfilled|satisf|complian|lawful)", words, re.IGNORECASE)
