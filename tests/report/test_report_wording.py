import doctest
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.report import wording
from unlearn.types import Estimate, Verdict


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(wording)
    assert found.attempted >= 4
    assert found.failed == 0


@given(st.floats(-1e12, 1e12))
def test_a_printed_number_is_within_five_percent_of_its_value(value):
    plain = wording.number(value).replace("−", "-").replace(",", "")
    if "×" in plain:
        digits, power = plain.split(" × 10")
        raised = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
        assert float(f"{digits}e{power.translate(raised)}") == pytest.approx(value, rel=0.06)
    else:
        assert float(plain) == pytest.approx(value, rel=0.06)


@pytest.mark.parametrize(
    ("value", "words"),
    [(math.nan, "could not be computed"), (math.inf, "∞"), (-math.inf, "−∞"), (-0.0, "0")],
)
def test_numbers_that_are_none_have_words(value, words):
    assert wording.number(value) == words


@given(st.text())
def test_visible_text_holds_no_control_or_bidirectional_character(text):
    shown = wording.visible(text)
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in shown)
    assert all(unicodedata.bidirectional(c) not in _BIDI for c in shown)
    assert wording.visible(shown) == shown


_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_joiners_that_scripts_need_stay():
    assert wording.visible("می‌خواهم 👩‍🔬") == "می‌خواهم 👩‍🔬"


def test_a_single_subject_is_never_counted_as_its_facts():
    estimate = Estimate(value=0.5, low=0.4, high=0.6, n=36, clusters=8)
    assert wording.sample_size(estimate, subjects=1) == "36 records, 1 subject"
    assert wording.few_subjects(8, subjects=1) == "Interval over 8 groups, one subject."
    assert wording.few_subjects(4, subjects=4).startswith("Few subjects")
    assert wording.few_subjects(5, subjects=5) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 second"), (89, "89 seconds"), (742.6, "12 minutes"), (9000, "2.5 hours")],
)
def test_durations_are_rounded_to_what_matters(seconds, words):
    assert wording.duration(seconds) == words


def test_dates_are_words_and_anything_else_stays_as_it_is():
    assert wording.day("2026-03-14T09:12:44+00:00") == "14 March 2026, 09:12 UTC"
    assert wording.day("2026-03-14T09:12:44+02:00") == "14 March 2026, 07:12 UTC"
    assert wording.day("yesterday") == "yesterday"


def _with(result, verdicts, overall, label="none"):
    claims = tuple(result.claims[0].model_copy(update={"verdict": v}) for v in verdicts)
    return result.model_copy(update={"claims": claims, "verdict": overall, "label": label})


@pytest.mark.parametrize(
    ("verdicts", "overall", "label", "sentence"),
    [
        ("FP", "FAIL", "none", "Forgetting is not shown: one of two claims does not hold."),
        ("FFP", "FAIL", "suppressed",
         "The model’s outputs no longer show these records, but two of three claims do not hold."),
        ("IN", "INCONCLUSIVE", "none", "The audit cannot decide: two of two claims stay open."),
        ("NP", "INCONCLUSIVE", "none", "The audit cannot decide: one of two claims stays open."),
        ("PP", "INCONCLUSIVE", "none", "The audit cannot decide."),
        ("CP", "CONFOUNDED", "none", "The figures cannot be read as they stand: one of two claims "
         "may have another explanation than memory."),
        ("NN", "NOT RUN", "none", "The audit is not finished: two of two claims were not tested."),
        ("PN", "PASS", "suppressed",
         "The model’s outputs no longer show these records, and every tested claim held."),
        ("PP", "PASS", "none", "Every tested claim held, within the limits named below."),
        ("", "NOT RUN", "none", "No claim was judged: this audit says nothing about the model."),
    ],
)  # fmt: skip
def test_the_headline_counts_what_decided(result, verdicts, overall, label, sentence):
    by_letter = {v.value[0]: v for v in Verdict if v is not Verdict.PASS} | {"P": Verdict.PASS}
    audit = _with(result, [by_letter[c] for c in verdicts], Verdict(overall), label)
    assert wording.headline(audit) == sentence


def test_the_strongest_sentence_needs_a_reference(result):
    strongest = _with(result, [Verdict.PASS], Verdict.PASS, "removed")
    assert "never saw these records" in wording.headline(strongest)
    alone = strongest.model_copy(update={"models": {}})
    assert "never saw these records" not in wording.headline(alone)
