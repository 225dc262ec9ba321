"""The claims as a test report that a CI server can read."""

from xml.etree import ElementTree as ET

import pytest

from unlearn.report import render_junit, report
from unlearn.types import Verdict


def case_of(result, verdict, **fields):
    claim = result.claims[0].model_copy(update={"verdict": verdict, **fields})
    root = ET.fromstring(render_junit(result.model_copy(update={"claims": (claim,)})))
    (case,) = root.iter("testcase")
    return root, case


def test_every_claim_is_a_test_case_under_its_id(result):
    root = ET.fromstring(render_junit(result))
    assert root.tag == "testsuites"
    (suite,) = root.findall("testsuite")
    assert [case.get("name") for case in suite.findall("testcase")] == [c.id for c in result.claims]
    for counted in (root, suite):
        counts = [int(counted.get(name)) for name in ("tests", "failures", "errors", "skipped")]
        assert counts == [8, 2, 0, 3]


@pytest.mark.parametrize("verdict", Verdict)
def test_only_a_pass_passes_only_a_fail_fails_and_the_rest_is_skipped_with_its_reason(
    result, verdict
):
    root, case = case_of(result, verdict, reason="Because.")
    failure, skipped = case.find("failure"), case.find("skipped")
    assert (failure is not None) is (verdict is Verdict.FAIL)
    assert (skipped is not None) is (verdict not in (Verdict.PASS, Verdict.FAIL))
    if failure is not None:
        assert failure.text == "Because."
        assert failure.get("message") == f"FAIL: {result.claims[0].statement}"
    if skipped is not None:
        assert skipped.get("message") == f"{verdict}: Because."
    assert root.get("failures") == str(int(verdict is Verdict.FAIL))


def test_the_overall_verdict_is_a_property_so_that_no_failure_is_not_read_as_a_pass(result):
    found = {p.get("name"): p.get("value") for p in ET.fromstring(render_junit(result)).iter()}
    assert found["verdict"] == result.verdict
    assert found["digest of unlearned"] == "4be0d2a74be0"


@pytest.mark.parametrize(
    "hostile", ["</failure><a>", "a&b\"'", "\x1b[31m\x00", "\ufffe\uffff", "]]>"]
)
def test_hostile_words_are_escaped_and_come_back(result, hostile):
    for verdict in Verdict:
        _, case = case_of(result, verdict, reason=hostile, statement=hostile)
        assert [child.tag for child in case if child.tag not in ("failure", "skipped")] == [
            "system-out"
        ]
        if hostile.isascii() and hostile.isprintable():
            assert hostile in case.find("system-out").text


def test_the_file_has_its_own_ending_and_is_not_written_unasked(result, tmp_path):
    assert "junit" not in report(result, tmp_path)
    assert report(result, tmp_path, ("junit",))["junit"].name == "audit.junit.xml"
    raw = (tmp_path / "audit.junit.xml").read_bytes()
    assert raw.startswith(b'<?xml version="1.0" encoding="UTF-8"?>')
    assert ET.fromstring(raw).tag == "testsuites"
