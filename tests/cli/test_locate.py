"""``unlearn locate`` with evidence: the raw trace and its figure."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

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
