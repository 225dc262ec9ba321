"""The whole flow on a pretrained checkpoint: locate, forget, apply, audit, report."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from unlearn.cli.main import cli

pytestmark = pytest.mark.slow


def run(*arguments: str | Path) -> int:
    words = [str(argument) for argument in arguments]
    outcome = CliRunner().invoke(cli, words, prog_name="unlearn")
    assert outcome.exit_code in (0, 1, 3), outcome.output
    return outcome.exit_code


@pytest.fixture(scope="module")
def flow(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow")
    full, reference, forget_set = planted / "full", planted / "reference", planted / "set"
    assert run("locate", full, forget_set, "-o", out / "sites.json") == 0
    forget = ("forget", full, forget_set, "--sites", out / "sites.json", "-o", out / "artifact")
    assert run(*forget) == 0
    assert run("apply", full, out / "artifact", "-o", out / "merged") == 0
    models = ("--original", full, "--reference", reference)
    run("audit", full, forget_set, *models, "-o", out / "before")
    run("audit", out / "artifact", forget_set, *models, "-o", out / "after")
    return out


def figures(folder: Path, role: str) -> dict[str, float]:
    result = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    return {row["key"]: row["models"][role]["value"] for row in result["findings"]}


def test_the_planted_facts_were_known_and_never_known_by_the_reference(flow: Path) -> None:
    assert figures(flow / "before", "original")["answers/forget"] >= 0.8
    assert figures(flow / "before", "reference")["answers/forget"] <= 0.35


def test_the_facts_are_no_longer_answered(flow: Path) -> None:
    after, reference = figures(flow / "after", "unlearned"), figures(flow / "after", "reference")
    assert after["answers/forget"] <= reference["answers/forget"] + 0.2
    key = "extraction_strength/forget"
    original = figures(flow / "after", "original")[key]
    assert after[key] - reference[key] < original - after[key]


def test_the_other_facts_and_the_stories_are_kept(flow: Path) -> None:
    before, after = figures(flow / "after", "original"), figures(flow / "after", "unlearned")
    assert after["nll_per_token/retain"] <= before["nll_per_token/retain"] + 0.1


def test_the_merged_model_opens_with_plain_transformers(flow: Path) -> None:
    AutoModelForCausalLM.from_pretrained(flow / "merged")


def test_a_report_was_written(flow: Path) -> None:
    page = (flow / "after" / "audit.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")


def test_the_untouched_model_fails(planted: Path, flow: Path) -> None:
    result = json.loads((flow / "before" / "audit.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "FAIL"
