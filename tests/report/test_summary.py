"""The summary on a terminal: short enough not to wrap, and whole."""

import pytest

from unlearn.cli.summary import WIDTH, summary
from unlearn.types import Estimate, Verdict

LONG = Estimate(value=0.00273, low=0.00234, high=0.00321, n=1296, clusters=162)


def crowded(result):
    """The same audit with figures that take as much room as they can."""
    findings = [
        finding.model_copy(
            update={"metric": "extraction_strength", "models": dict.fromkeys(result.models, LONG)}
        )
        for finding in result.findings
    ]
    return result.model_copy(update={"findings": tuple(findings)})


def test_a_figure_takes_one_line_that_fits_in_a_hundred_columns(result):
    lines = summary(crowded(result)).splitlines()
    assert WIDTH == 100
    figures = [line for line in lines if line.startswith("extraction_strength/")]
    assert len(figures) == len(result.findings)
    cell = ".0027 [.0023,.0032]"
    for line in figures:
        assert line.count(cell) == len(result.models) and "…" not in line
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_a_failure_gives_its_reason_wrapped(result, verdict):
    claim = result.claims[0].model_copy(update={"verdict": verdict, "reason": "because " * 60})
    text = summary(result.model_copy(update={"claims": (claim,)}))
    assert text.count("because") == (60 if verdict is Verdict.FAIL else 0)
    assert max(map(len, text.splitlines())) <= WIDTH
