"""``unlearn locate`` with evidence: the raw trace and its figure."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from unlearn.forget_set import ForgetSet

Run = Callable[..., Result]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two records of the bundled set about one person."""
    from unlearn.lab.bundled import forget_set_path

    folder = tmp_path / "few"
    folder.mkdir()
    source = forget_set_path("one-person")
    for name in ("card.toml", "neighbors.jsonl"):
        (folder / name).write_bytes((source / name).read_bytes())
    lines = (source / "forget.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "forget.jsonl").write_text("".join(lines[:2]), "utf-8")
    return folder


def test_a_trace_is_written_drawn_and_told(run: Run, few: Path, tmp_path: Path) -> None:
    sites, raw, figure = (tmp_path / name for name in ("s.json", "raw.json", "trace.svg"))
    words = ("locate", "lab:full", few, "--method", "causal-trace", "--window", "1", "-o", sites)
    result = run(*words, "--raw", raw, "--figure", figure)
    assert result.exit_code == 0, result.output
    assert "traced 2 facts" in result.stdout
    document = json.loads(raw.read_text("utf-8"))
    first = document["records"][0]
    assert {"id", "token_ids", "corrupted_token_ids", "answer_token_ids", "effects"} <= set(first)
    assert len(first["effects"]["hidden"]) == len(first["token_ids"])
    assert document["score"] == "logit-diff" and document["windows"]["mlp"][3] == [3, 3]
    assert figure.read_bytes().startswith(b"<?xml")
    assert json.loads(sites.read_text("utf-8"))["method"] == "causal-trace"
    assert not list(tmp_path.glob("*.partial"))


def test_evidence_of_a_method_without_a_trace_is_refused_before_any_work(
    refused: Callable[..., str], few: Path, tmp_path: Path
) -> None:
    line = refused("locate", "lab:full", few, "-o", tmp_path / "s", "--raw", tmp_path / "r")
    assert "causal-trace" in line
    words = ("--method", "causal-trace", "--figure", tmp_path / "trace.gif")
    assert ".svg" in refused("locate", "lab:full", few, "-o", tmp_path / "s", *words)
    words = ("--method", "causal-trace", "--window", "1", "--set", "window=2")
    assert "--window" in refused("locate", "lab:full", few, "-o", tmp_path / "s", *words)


@pytest.mark.parametrize("corruption", ["replace", "noise"])
def test_the_choices_of_a_trace_reach_its_files(
    run: Run, few: Path, tmp_path: Path, corruption: str
) -> None:
    sites, raw, figure = (tmp_path / name for name in ("s.json", "raw.json", "trace.png"))
    chosen = ("--corruption", corruption, "--score", "probability", "--window", "3")
    words = ("locate", "lab:full", few, "--method", "causal-trace", *chosen, "-o", sites)
    result = run(*words, "--set", "samples=2", "--raw", raw, "--figure", figure, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(sites.read_text("utf-8"))
    document = json.loads(raw.read_text("utf-8"))
    assert (document["corruption"], document["score"]) == (corruption, "probability")
    assert document["windows"]["mlp"][4] == [3, 5]
    assert all(bool(fact["noise"]) == (corruption == "noise") for fact in document["records"])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_screen_is_refined_drawn_and_called_one(run: Run, few: Path, tmp_path: Path) -> None:
    sites, raw, figure = (tmp_path / name for name in ("s.json", "raw.json", "trace.svg"))
    words = ("--method", "attribution", "--refine", "3", "--top", "modules:4")
    files = ("-o", sites, "--raw", raw, "--figure", figure)
    result = run("locate", "lab:full", few, *words, *files)
    assert result.exit_code == 0, result.output
    assert "Effects are estimates from gradients: all but 6 cells" in result.stdout
    assert "share of parameters: 0." in result.stdout
    assert len(json.loads(sites.read_text("utf-8"))["modules"]) == 4
    document = json.loads(raw.read_text("utf-8"))
    assert document["method"] == "attribution"
    assert [len(fact["refined"]) for fact in document["records"]] == [3, 3]
    assert "Estimated average indirect effect" in figure.read_text("utf-8")


def test_a_trace_that_ran_out_of_time_says_so_and_goes_on(
    run: Run, few: Path, tmp_path: Path
) -> None:
    words = ("locate", "lab:full", few, "--method", "causal-trace", "--window", "1")
    files = ("-o", tmp_path / "s.json", "--raw", tmp_path / "raw.json")
    result = run(*words, *files, "--max-seconds", "0.000001")
    assert result.exit_code == 0, result.output
    assert "not covered 1: the time did not suffice" in result.stdout
    assert (tmp_path / "raw.json.partial").exists()
    assert len(json.loads((tmp_path / "raw.json").read_text("utf-8"))["not_covered"]) == 1
    result = run(*words, *files, "--force")
    assert "traced 2 facts" in result.stdout
    assert not (tmp_path / "raw.json.partial").exists()


def test_choices_that_are_none_are_refused_with_those_there_are(
    refused: Callable[..., str], few: Path, tmp_path: Path
) -> None:
    words = ("locate", "lab:full", few, "--method", "causal-trace", "-o", tmp_path / "s")
    assert "noise" in refused(*words, "--corruption", "blur")
    assert "probability" in refused(*words, "--score", "rank")
    assert "--window" in refused(*words, "--window", "0")


FACTS = ("p000-birthplace-0", "p000-birthplace-1")


def test_single_records_are_drawn_whatever_is_sampled(run: Run, few: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("a.svg", "b.svg", "b.png")]
    asked = [("--fact-figure", *pair) for pair in zip((*FACTS, FACTS[1]), pictures, strict=True)]
    words = ("locate", "lab:full", few, "--method", "causal-trace", "--window", "1")
    result = run(
        *words,
        *(word for option in asked for word in option),
        *("--set", "max_records=1", "-o", tmp_path / "s", "--raw", tmp_path / "raw.json"),
    )
    assert result.exit_code == 0, result.output
    assert "traced 1 fact;" in result.stdout and "traced 1 more" in result.stdout
    first, second = (path.read_text("utf-8") for path in pictures[:2])
    assert "␣town</text>" in first and "␣light</text>" in second
    assert all("Brentro*</text>" in text and "␣Merro*</text>" in text for text in (first, second))
    assert pictures[2].read_bytes().startswith(b"\x89PNG")
    document = json.loads((tmp_path / "raw.json").read_text("utf-8"))
    assert {document["records"][0]["id"], document["extra"][0]["id"]} == set(FACTS)


def test_a_record_that_cannot_be_traced_costs_none_of_the_finished_work(
    run: Run, few: Path, tmp_path: Path
) -> None:
    lines = (few / "forget.jsonl").read_text("utf-8").splitlines()
    wrong = json.loads(lines[1])
    wrong["answer"], wrong["alternatives"] = wrong["alternatives"][0], []
    (few / "forget.jsonl").write_text(f"{lines[0]}\n{json.dumps(wrong)}\n", "utf-8")
    names = [tmp_path / name for name in ("s.json", "raw.json", "t.svg", "1.svg", "0.svg")]
    sites, raw, figure, missing, drawn = names
    files = ("-o", sites, "--raw", raw, "--figure", figure)
    asked = ("--fact-figure", FACTS[1], missing, "--fact-figure", FACTS[0], drawn)
    result = run("locate", "lab:full", few, "--method", "causal-trace", *files, *asked)
    assert result.exit_code == 2
    assert FACTS[1] in result.stderr and "does not give the answer" in result.stderr
    assert "All other files are written" in result.stderr
    assert [path.exists() for path in names] == [True, True, True, False, True]
    assert json.loads(sites.read_text("utf-8"))["method"] == "causal-trace"
    assert not list(tmp_path.glob(".unlearn-*")) and not list(tmp_path.glob("*.partial"))


def test_pictures_that_cannot_be_are_refused_before_any_work(
    refused: Callable[..., str], few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.json"
    # A model that does not exist: whoever gets as far as loading it gives another message.
    words = ("locate", tmp_path / "no-model", few, "-o", out, "--fact-figure")
    traced = ("--method", "causal-trace")
    prompt = ForgetSet.read(few).forget[0].prompt
    line = refused(*words, prompt, tmp_path / "a.svg", *traced)
    assert "no record to forget has the id" in line and prompt not in line
    line = refused(*words, FACTS[0], tmp_path / "a.pdf", *traced)
    assert ".svg or .png" in line
    line = refused(*words, FACTS[0], tmp_path / "a.svg")
    assert "--fact-figure is for --method causal-trace or attribution" in line
    (tmp_path / "mine.svg").write_text("<svg>somebody's</svg>", "utf-8")
    assert "--force" in refused(*words, FACTS[0], tmp_path / "mine.svg", *traced)
    assert (tmp_path / "mine.svg").read_text("utf-8") == "<svg>somebody's</svg>"
    twice = ("--fact-figure", FACTS[1], tmp_path / "a.svg", *traced)
    assert "written twice" in refused(*words, FACTS[0], tmp_path / "a.svg", *twice)
    same = ("--figure", tmp_path / "a.svg", *traced)
    assert "written twice" in refused(*words, FACTS[0], tmp_path / "a.svg", *same)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "mine.svg"]


def test_token_sites_flow_into_forgetting(
    run: Run, refused: Callable[..., str], few: Path, tmp_path: Path
) -> None:
    answer, subject, fact = (tmp_path / f"{name}.json" for name in ("answer", "subject", "fact"))
    result = run("locate", "lab:full", few, "--method", "all", "--tokens", "answer", "-o", answer)
    assert result.exit_code == 0, result.output
    assert "token_mask: 2 positions" in result.stdout and "whole answer" not in result.stdout
    document = json.loads(answer.read_text("utf-8"))
    assert len(document["token_mask"]) == 2 and document["settings"]["tokens"] == "answer"
    words = ("--set", "max_steps=2", "--set", "retain=none", "--json")
    result = run("forget", "lab:full", few, "--sites", answer, "-o", tmp_path / "a", *words)
    assert result.exit_code == 0, result.output
    sites = json.loads(result.stdout)["provenance"]["sites"]
    assert sites["parts"] == ["layers", "token_mask"] and sites["settings"]["tokens"] == "answer"

    result = run("locate", "lab:full", few, "--method", "all", "--tokens", "subject", "-o", subject)
    assert "token_mask: 4 positions" in result.stdout
    line = refused("forget", "lab:full", few, "--sites", subject, "-o", tmp_path / "b", *words[:4])
    assert "loss_on=text" in line

    trace = ("--method", "causal-trace", "--window", "1", "--tokens", "fact", "-o", fact)
    result = run("locate", "lab:full", few, *trace)
    assert result.exit_code == 0, result.output
    assert "0 of 2 records keep their whole answer" in result.stdout
    assert json.loads(fact.read_text("utf-8"))["token_mask"] == document["token_mask"]
    assert "fact" in refused("locate", "lab:full", few, "-o", tmp_path / "c", "--tokens", "name")
