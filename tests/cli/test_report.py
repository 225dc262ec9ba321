"""``unlearn report``: drawing with and without the command's name, and comparing two audits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from jsonschema import Draft202012Validator

from unlearn.report import read, report
from unlearn.types import Verdict

Run = Callable[..., Result]
EXAMPLE = Path(__file__).parents[2] / "reports" / "example"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    report(read(EXAMPLE), tmp_path / "before", ("json",))
    return tmp_path / "before"


@pytest.fixture
def after(tmp_path: Path) -> Path:
    """The example with one claim that fails where it did not."""
    result = read(EXAMPLE)
    failed = result.claims[0].model_copy(update={"verdict": Verdict.FAIL})
    changed = result.model_copy(update={"claims": (failed, *result.claims[1:])})
    report(changed, tmp_path / "after", ("json",))
    return tmp_path / "after"


@pytest.mark.parametrize(
    "words",
    [
        ("DIR", "--format", "html"),
        ("--format", "html", "DIR"),
        ("draw", "DIR", "--format", "html"),
        ("--json", "--format", "html", "DIR"),
    ],
)
def test_the_name_of_the_command_may_be_left_out(
    words: tuple[str, ...], run: Run, before: Path
) -> None:
    result = run("report", *(str(before) if word == "DIR" else word for word in words))
    assert result.exit_code == 0, result.stderr
    assert str(before / "audit.html") in result.stdout
    assert {path.name for path in before.iterdir()} == {"audit.json", "audit.html"}


def test_without_a_format_all_but_junit_is_drawn(run: Run, before: Path) -> None:
    assert run("report", before).exit_code == 0
    names = {path.name for path in before.iterdir()}
    assert names == {"audit.json", "audit.html", "audit.md"}
    assert run("report", before, "--format", "junit").exit_code == 0
    assert (before / "audit.junit.xml").exists()


def test_a_folder_named_like_a_command_is_drawn_by_its_path(
    run: Run, before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(before.parent)
    before.rename("diff")
    assert run("report", "./diff", "--format", "md").exit_code == 0
    assert Path("diff/audit.md").exists()


def test_the_help_of_the_group_says_both_ways(run: Run) -> None:
    shown = run("report", "--help")
    assert shown.exit_code == 0
    assert "diff BEFORE AFTER" in shown.stdout
    assert run("report").exit_code == 2


def test_a_claim_that_got_worse_is_exit_code_1_and_named(
    run: Run, before: Path, after: Path
) -> None:
    result = run("report", "diff", before, after)
    assert result.exit_code == 1
    assert "▼ worse" in result.stdout and "1 claim got worse" in result.stdout
    back = run("report", "diff", after, before)
    assert back.exit_code == 0
    assert "▲ better" in back.stdout and "no claim got worse" in back.stdout


def test_the_json_of_a_difference_is_one_document(run: Run, before: Path, after: Path) -> None:
    result = run("report", "diff", before, after, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert [claim["change"] for claim in document["claims"]].count("worse") == 1
    assert document["figures"] == []


def test_the_difference_as_markdown(run: Run, before: Path, after: Path) -> None:
    result = run("report", "diff", before, after, "--format", "md")
    assert result.stdout.startswith("# What changed between two audits\n")


def test_other_forget_sets_need_a_word(
    run: Run, refused: Callable[..., str], before: Path, after: Path
) -> None:
    path = after / "audit.json"
    digest = read(before).forget_set.digest
    path.write_text(path.read_text("utf-8").replace(digest, "0" * 64), "utf-8")
    assert "--other-forget-set" in refused("report", "diff", before, after)
    result = run("report", "diff", before, after, "--other-forget-set")
    assert result.exit_code == 1
    assert "The forget sets differ" in result.stdout


def test_a_folder_without_an_audit_is_named(
    refused: Callable[..., str], before: Path, tmp_path: Path
) -> None:
    assert "nothing-here holds no audit.json" in refused(
        "report", "diff", before, tmp_path / "nothing-here"
    )


def test_what_an_audit_writes_and_prints_is_valid_by_the_schema(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    schema = json.loads((EXAMPLE.parents[1] / "docs" / "audit-schema.json").read_text("utf-8"))
    words = ("--original", knowing, "--reference", knowing, "--examples", 2, "--json")
    result = run("audit", knowing, births, "-o", tmp_path / "audit", *words)
    assert result.exit_code in (1, 3), result.stderr
    for text in (result.stdout, (tmp_path / "audit" / "audit.json").read_text("utf-8")):
        document = json.loads(text, parse_constant=pytest.fail)
        assert document["findings"]
        assert [str(error) for error in Draft202012Validator(schema).iter_errors(document)] == []


def test_an_overview_is_written_twice_and_only_over_its_own_kind(
    run: Run, refused: Callable[..., str], before: Path, after: Path, tmp_path: Path
) -> None:
    page = tmp_path / "index.html"
    result = run("report", "index", before, after, "-o", page)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(page), str(page.with_suffix(".md"))]
    assert "2 rows" in page.read_text("utf-8")
    assert run("report", "index", before, "-o", page, "--json").exit_code == 0
    assert "1 row," in page.with_suffix(".md").read_text("utf-8")
    page.with_suffix(".md").write_text("my notes")
    assert "not a file that this command wrote" in refused("report", "index", before, "-o", page)
    assert page.with_suffix(".md").read_text() == "my notes"
    assert "ends in .html" in refused("report", "index", before, "-o", tmp_path / "index")
    assert "nothing to list" in refused("report", "index", "-o", page)


def test_variants_and_pdf_are_drawn_beside_the_report(run: Run, before: Path) -> None:
    assert run("report", before, "--for", "regulator").exit_code == 0
    assert run("report", "--for", "subject", before).exit_code == 0
    names = {path.name for path in before.iterdir()}
    assert {"audit.regulator.html", "audit.regulator.json", "audit.subject.md"} <= names
    assert "audit.html" not in names and "audit.subject.json" not in names


def test_a_format_that_a_reader_has_not_is_refused(
    refused: Callable[..., str], before: Path
) -> None:
    line = refused("report", before, "--for", "subject", "--format", "junit")
    assert "there is no junit for the subject; choose from html, md, pdf" in line
