"""``unlearn audit`` at every tier, on folders and URLs, with calibration and earlier requests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from unlearn.model.language_model import LanguageModel

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from openai_server import Behaviour, serving


def verdicts(document):
    return {claim["id"]: claim["verdict"] for claim in document["claims"]}


@pytest.mark.parametrize("tier", ["smoke", "standard", "deep"])
def test_every_tier_ends_with_a_report_and_leaves_no_journal(
    run, knowing, other, births, tmp_path, tier
):
    out = tmp_path / "audit"
    words = ["--original", knowing, "--reference", other, "--tier", tier, "--json"]
    result = run("audit", knowing, births, "-o", out, *words, "--precisions", "int8")
    assert result.exit_code in (1, 3), result.stderr
    document = json.loads(result.stdout)
    assert document["tier"] == tier
    assert len(document["claims"]) == {"smoke": 8, "standard": 15, "deep": 17}[tier]
    assert {p.name for p in tmp_path.iterdir()} == {"audit"}
    assert {p.name for p in out.iterdir()} == {"audit.json", "audit.md", "audit.html"}
    conditions = {f["condition"] for f in document["findings"]}
    assert conditions == {"", "int8"}
    assert [rung["id"] for rung in document["assurance"]][-1] == "exact"


def test_no_copy_is_measured_where_none_is_asked_for(run, knowing, other, births, tmp_path):
    words = ["--reference", other, "--tier", "standard", "--precisions", "none", "--json"]
    document = json.loads(run("audit", knowing, births, "-o", tmp_path / "a", *words).stdout)
    assert {f["condition"] for f in document["findings"]} == {""}
    assert verdicts(document)["survives-precision"] == "NOT RUN"


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize(
    ("behaviour", "given"), [(Behaviour(), "logprobs"), (Behaviour(echoes=False), "text")]
)
def test_a_model_behind_a_url_is_audited_with_what_it_gives(
    run, knowing, other, births, tmp_path, behaviour, given
):
    with serving(LanguageModel.load(knowing), behaviour) as served:
        words = ["--reference", other, "--tier", "standard", "--prices", "1", "2"]
        words += ["--requests-per-minute", "100000", "--json"]
        result = run("audit", f"{served.url}#tiny", births, "-o", tmp_path / "a", *words)
    assert result.exit_code in (1, 3) and result.stdout, repr(result.exception)
    assert "the endpoint gets" in result.stderr and "price" in result.stderr
    document = json.loads(result.stdout)
    assert document["models"]["unlearned"]["parameters"] is None
    metrics = {f["metric"] for f in document["findings"]}
    assert ("answers" in metrics) == (given == "logprobs")
    assert "leak_rate" in metrics
    assert not metrics & {"kl_from_original", "membership_min_k_plus_plus"}
    assert verdicts(document)["survives-precision"] == "NOT RUN"
    assert any(f"give no more than {given}" in limit for limit in document["limits"])
    assert document["verdict"] != "PASS"


def test_an_endpoint_without_the_name_of_its_model_is_refused(refused, births, tmp_path):
    line = refused("audit", "http://127.0.0.1:9/v1", births, "-o", tmp_path / "a")
    assert "behind a #" in line


def test_margins_are_written_and_used(run, knowing, other, births, tmp_path):
    path = tmp_path / "margins.json"
    words = ["--calibrate", "--tier", "smoke", "--json"]
    result = run("audit", *words, knowing, other, births, "-o", path)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["margins"] == json.loads(path.read_text())["margins"]
    words = ["--reference", other, "--calibration", path, "--json"]
    document = json.loads(run("audit", knowing, births, "-o", tmp_path / "a", *words).stdout)
    assert document["calibration"]["pairs"] == 1


def test_calibration_needs_models_and_a_set_and_an_audit_one_of_each(
    refused, knowing, births, tmp_path
):
    words = ["-o", tmp_path / "x"]
    assert "two or more models" in refused("audit", "--calibrate", knowing, births, *words)
    assert "too few to calibrate" in refused(
        "audit", "--calibrate", knowing, knowing, births, *words
    )
    assert "one model and one forget set" in refused("audit", knowing, *words)
    assert not list(tmp_path.iterdir())


def test_a_calibration_that_is_none_is_refused(refused, knowing, births, tmp_path):
    path = tmp_path / "margins.json"
    words = ["audit", knowing, births, "-o", tmp_path / "a", "--calibration", path]
    assert "there is no file" in refused(*words)
    path.write_text("[]")
    assert "is not a calibration" in refused(*words)


def test_general_text_is_measured_and_named(run, refused, knowing, other, births, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The birthplace of the birthplace is The\n\nThe of is The of is\n\nshort\n")
    words = ["--original", other, "--general", path, "--json"]
    document = json.loads(run("audit", knowing, births, "-o", tmp_path / "a", *words).stdout)
    assert document["forget_set"]["records"]["general"] == 2
    assert "nll_per_token/general" in {f["key"] for f in document["findings"]}
    path.write_text("short\n")
    line = refused("audit", knowing, births, "-o", tmp_path / "b", "--general", path)
    assert "no paragraph of more than" in line


def test_benchmark_tasks_are_measured_and_judged(
    run, refused, knowing, other, births, write, tmp_path
):
    words = ["--original", other, "--tasks", write(), "--json"]
    result = run("audit", knowing, births, "-o", tmp_path / "a", *words)
    document = json.loads(result.stdout)
    assert document["forget_set"]["records"]["tasks"] == 12
    assert {"towns.acc/tasks", "towns.acc_norm/tasks"} <= {f["key"] for f in document["findings"]}
    assert verdicts(document)["benchmarks-kept"] in ("FAIL", "INCONCLUSIVE")
    assert "Running loglikelihood" not in result.stderr
    page = (tmp_path / "a" / "audit.html").read_text()
    assert "Benchmark tasks are still solved as by the original." in page
    words = ["audit", knowing, births, "-o", tmp_path / "b", "--tasks"]
    assert "has no figure" in refused(*words, write("metric_list: [{metric: f1}]\n"))
    assert "no task file" in refused(*words, tmp_path / "none.yaml")
    assert not (tmp_path / "b").exists()


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_benchmark_tasks_are_not_run_on_a_model_behind_a_url(run, knowing, births, write, tmp_path):
    with serving(LanguageModel.load(knowing), Behaviour()) as served:
        words = ["--requests-per-minute", "100000", "--tasks", write(), "--json"]
        result = run("audit", f"{served.url}#tiny", births, "-o", tmp_path / "a", *words)
    document = json.loads(result.stdout)
    (claim,) = (c for c in document["claims"] if c["id"] == "benchmarks-kept")
    assert claim["verdict"] == "NOT RUN"
    assert "it works on models that are here" in claim["reason"]


def test_earlier_requests_are_audited_too_and_the_worst_decides(
    run, knowing, other, births, tmp_path
):
    out = tmp_path / "audit"
    words = ["--original", knowing, "--reference", other, "--after", births, "--after", births]
    result = run("audit", knowing, births, "-o", out, *words, "--json")
    document = json.loads(result.stdout)
    assert set(document) == {"audit", "after"}
    assert document["after"][births]["verdict"] == document["audit"]["verdict"]
    assert {p.name for p in (out / "after").iterdir()} == {"1", "2"}
    assert (out / "after" / "2" / "audit.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--precisions", "int3"], "'int3' is none of bf16, int8, int4"),
        (["--precisions", ","], "names no value"),
        (["--probes", "relearn-facts"], "it needs 'deep'"),
        (["--tier", "standard", "--probes", "anwsers"], "'answers'"),
        (["--general", "nowhere.txt"], "cannot be read as UTF-8 text"),
    ],
)
def test_what_cannot_be_is_one_line(refused, knowing, births, tmp_path, words, said):
    assert said in refused("audit", knowing, births, "-o", tmp_path / "a", *words)
