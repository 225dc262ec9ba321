import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from unlearn.model.language_model import LanguageModel
from unlearn.types import Sites

Run = Callable[..., Result]
CONTRAST = ("--method", "gradient-contrast")
"""The default locator reads what a model knows, and these have learned nothing."""
FAST = ("--set", "variant=ascent", "--set", "stop=budget", "--set", "max_steps=2")


@pytest.fixture
def artifact(run: Run, knowing: str, births: str, tmp_path: Path) -> str:
    result = run("forget", knowing, births, "-o", tmp_path / "artifact", *FAST)
    assert result.exit_code == 0, result.stderr
    return str(tmp_path / "artifact")


def digest(folder: str | Path) -> str:
    return LanguageModel.load(str(folder)).digest


def test_locate_writes_sites_that_forget_can_read(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    sites = tmp_path / "sites.json"
    result = run("locate", knowing, births, "-o", sites, "--json", *CONTRAST)
    assert result.exit_code == 0, result.stderr
    found = Sites.model_validate_json(sites.read_text())
    assert Sites.model_validate(json.loads(result.stdout)) == found
    assert found.model_digest == digest(knowing)
    result = run("forget", knowing, births, "-o", tmp_path / "out", "--sites", sites, *FAST)
    assert result.exit_code == 0, result.stderr


def test_locate_prints_what_it_found(run: Run, knowing: str, births: str, tmp_path: Path) -> None:
    result = run("locate", knowing, births, "-o", tmp_path / "sites.json", *CONTRAST)
    assert "sites found by gradient-contrast" in result.stdout


def test_forget_leaves_the_model_as_it_was(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    before = digest(knowing)
    result = run("forget", knowing, births, "-o", tmp_path / "out", "--json", *FAST)
    document = json.loads(result.stdout)
    assert document["kind"] == "full-weights"
    assert document["provenance"]["strategy"] == "gradient-ascent"
    assert document["provenance"]["base_digest"] == before == digest(knowing)


def test_apply_writes_a_model_folder_with_the_promised_digest(
    run: Run, knowing: str, artifact: str, tmp_path: Path
) -> None:
    result = run("apply", knowing, artifact, "-o", tmp_path / "model", "--json")
    document = json.loads(result.stdout)
    note = json.loads((tmp_path / "model" / "unlearn.json").read_text())
    assert digest(tmp_path / "model") == document["digest"] == note["digest"] != digest(knowing)
    assert note["provenance"]["base_digest"] == note["base_digest"] == digest(knowing)


def test_apply_to_another_model_names_both_digests(
    other: str, knowing: str, artifact: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = refused("apply", other, artifact, "-o", tmp_path / "model")
    assert digest(other)[:12] in line
    assert digest(knowing)[:12] in line
    assert not (tmp_path / "model").exists()


def test_an_artifact_is_audited_on_the_model_it_came_from(
    run: Run, artifact: str, births: str, other: str, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    result = run("audit", artifact, births, "-o", out, "--reference", other, "--json")
    document = json.loads(result.stdout)
    assert set(document["models"]) == {"original", "unlearned", "reference"}
    assert document["provenance"]["strategy"] == "gradient-ascent"
    assert document == json.loads((out / "audit.json").read_text())
    assert {path.name for path in out.iterdir()} == {"audit.json", "audit.md", "audit.html"}


def test_an_artifact_made_for_another_forget_set_is_said_to_be(
    run: Run, artifact: str, births: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(births, other)
    (other / "neighbors.jsonl").unlink()
    words = ["--json", "--probes", "probability"]
    own = run("audit", artifact, births, "-o", tmp_path / "own", *words)
    strange = run("audit", artifact, other, "-o", tmp_path / "strange", *words)
    assert json.loads(own.stdout)["provenance"]["made for"] == "this forget set"
    assert "another forget set" in json.loads(strange.stdout)["provenance"]["made for"]
    assert "another forget set" in strange.stderr and "made for" not in own.stderr


def test_a_merged_model_remembers_how_it_came_to_be(
    run: Run, artifact: str, knowing: str, births: str, tmp_path: Path
) -> None:
    run("apply", knowing, artifact, "-o", tmp_path / "model")
    words = ["--original", knowing, "--json", "--probes", "probability"]
    result = run("audit", tmp_path / "model", births, "-o", tmp_path / "audit", *words)
    assert json.loads(result.stdout)["provenance"]["strategy"] == "gradient-ascent"


def test_an_artifact_whose_model_is_gone_asks_for_it(
    run: Run,
    knowing: str,
    births: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    moved = tmp_path / "moved"
    LanguageModel.load(knowing).save(moved)
    run("forget", moved, births, "-o", tmp_path / "artifact", *FAST)
    moved.rename(tmp_path / "elsewhere")
    line = refused("audit", tmp_path / "artifact", births, "-o", tmp_path / "audit")
    assert "--original" in line


def test_an_audit_without_a_reference_says_so(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    result = run("audit", knowing, births, "-o", tmp_path / "audit")
    assert result.exit_code in (1, 3)
    assert "reference" in result.stdout
    assert "verdict " in result.stdout


def test_report_draws_the_formats_asked_for_again(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    run("audit", knowing, births, "-o", out)
    (out / "audit.md").unlink()
    page = (out / "audit.html").read_bytes()
    (out / "audit.html").unlink()
    result = run("report", out, "--format", "html", "--json")
    assert json.loads(result.stdout) == {"html": str(out / "audit.html")}
    assert (out / "audit.html").read_bytes() == page
    assert run("report", out).exit_code == 0
    assert (out / "audit.md").exists()


def test_forget_with_force_into_a_model_folder_keeps_the_model(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    home = tmp_path / "model"
    LanguageModel.load(knowing).save(home)
    (home / "other.safetensors").write_bytes(b"mine")
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    result = run("forget", home, births, "-o", home, "--force", *FAST)
    assert result.exit_code == 0, result.stderr
    after = {path.name: path.read_bytes() for path in home.iterdir()}
    assert {**after, **before} == after
    assert set(after) - set(before) == {"artifact.json", "delta.safetensors", "forget_set.key"}


def test_every_result_is_recognised_as_ours_by_the_next_run(
    run: Run, knowing: str, births: str, artifact: str, tmp_path: Path
) -> None:
    audit = ("audit", artifact, births, "-o", tmp_path / "audit", "--probes", "probability")
    again = (
        ("forget", knowing, births, "-o", artifact, *FAST),
        ("apply", knowing, artifact, "-o", tmp_path / "model"),
        ("locate", knowing, births, "-o", tmp_path / "sites.json", *CONTRAST),
        ("lab", "export", tmp_path / "lab"),
        audit,
    )
    for words in again:
        for _ in range(2):
            result = run(*words)
            assert result.exit_code in ((1, 3) if words is audit else (0,)), result.stderr


def test_audits_of_earlier_requests_are_recognised_as_ours_too(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    words = ("audit", knowing, births, "-o", tmp_path / "audit", "--after", births)
    for _ in range(2):
        result = run(*words, "--probes", "probability")
        assert result.exit_code in (1, 3), result.stderr
    assert (tmp_path / "audit" / "after" / "1" / "audit.json").is_file()
    (tmp_path / "audit" / "after" / "1" / "thesis.tex").write_text("mine")
    assert run(*words).exit_code == 2


def test_exporting_the_lab_with_force_keeps_what_else_is_there(run: Run, tmp_path: Path) -> None:
    mine = ("full/thesis.tex", "forget_sets/mine/card.toml", "card.json")
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert run("lab", "export", tmp_path).exit_code == 2
    assert run("lab", "export", tmp_path, "--force").exit_code == 0
    assert [(tmp_path / name).read_text() for name in mine] == ["mine"] * 3
    assert (tmp_path / "full" / "config.json").is_file()


@pytest.mark.parametrize("kind", ["strategies", "locators", "probes"])
def test_list_is_an_array_of_name_summary_and_honours(kind: str, run: Run) -> None:
    rows = json.loads(run("list", kind, "--json").stdout)
    assert rows
    for row in rows:
        assert list(row)[:3] == ["name", "summary", "honours"]
        assert (len(row) > 3) is (kind == "probes")
        assert row["summary"] and "\n" not in row["summary"]
        assert row["honours"] == sorted(row["honours"])
    if kind == "probes":
        return
    text = run("list", kind).stdout
    assert [line.split()[0] for line in text.splitlines()] == [row["name"] for row in rows]


def test_the_defaults_of_the_commands_are_registered(run: Run) -> None:
    def names(kind: str) -> list[str]:
        return [row["name"] for row in json.loads(run("list", kind, "--json").stdout)]

    assert "gradient-ascent" in names("strategies")
    assert "gradient-contrast" in names("locators")


def test_probes_are_listed_by_family_with_tier_and_access(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    rows = {row["name"]: row for row in json.loads(run("list", "probes", "--json").stdout)}
    lines = run("list", "probes").stdout.splitlines()
    assert max(map(len, lines)) <= 100
    shown = [line.split()[:3] for line in lines[1:] if line.startswith("  ") and line[2] != " "]
    assert {name for name, _, _ in shown} == set(rows)
    assert len(shown) == len(rows)
    for name, tier, access in shown:
        assert (tier, access) == (rows[name]["tier"], (rows[name]["honours"] or ["none"])[0])
    families = [line for line in lines if line and not line.startswith(" ")]
    assert families == list(dict.fromkeys(families))
    assert set(families) == {row["family"] for row in rows.values()}
    tiers = [rows[name]["tier"] for name in rows]
    assert tiers == sorted(tiers, key=("smoke", "standard", "deep").index)


def test_the_cost_of_probes_is_listed_instead_of_what_they_measure(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    rows = json.loads(run("list", "probes", "--json").stdout)
    shown = " ".join(run("list", "probes", "--cost").stdout.split())
    assert all(" ".join(row["cost"].split()) in shown for row in rows)
    assert not all(row["summary"] in shown for row in rows)
