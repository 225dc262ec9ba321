"""``unlearn report keygen``, ``sign`` and ``verify`` as a user calls them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from unlearn.report import report
from unlearn.types import AuditedModel, AuditedSet, AuditResult, Verdict

Run = Callable[..., Result]


@pytest.fixture
def model(knowing: str, tmp_path: Path) -> Path:
    shutil.copytree(knowing, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def audit(model: Path, tmp_path: Path) -> Path:
    """An audit of the model, without figures."""
    from unlearn.model.language_model import LanguageModel

    loaded = LanguageModel.load(str(model))
    audited = AuditedModel(source="m", digest=loaded.digest, dtype="float32", parameters=1)
    result = AuditResult(
        tool_version="0.1.0",
        created="2026-03-14T09:12:44Z",
        tier="smoke",
        seed=0,
        seconds=1,
        models={"unlearned": audited},
        forget_set=AuditedSet(name="births", digest="0" * 64, records={}, subjects={}),
        findings=(),
        claims=(),
        verdict=Verdict.INCONCLUSIVE,
        label="none",
        limits=(),
    )
    report(result, tmp_path / "audit")
    return tmp_path / "audit"


@pytest.fixture
def key(run: Run, tmp_path: Path) -> Path:
    assert run("report", "keygen", tmp_path / "key.pem").exit_code == 0
    return tmp_path / "key.pem"


def test_the_whole_way_from_a_key_to_a_good_check(
    run: Run, audit: Path, model: Path, key: Path
) -> None:
    made = run("report", "sign", audit, "--key", key, "--model", model, "--request", "3f9c")
    assert made.exit_code == 0, made.stderr
    assert str(audit / "statement.dsse.json") in made.stdout
    for words in (("--model", model), ()):
        checked = run("report", "verify", audit, "--key", f"{key}.pub", *words)
        assert checked.exit_code == 0, checked.stderr
        assert "the signature holds; verdict INCONCLUSIVE as signed" in checked.stdout
        assert ("not checked" in checked.stdout) is (not words)


def test_keys_are_the_owners_alone_and_never_written_over(
    run: Run, refused: Callable[..., str], key: Path, tmp_path: Path
) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert "never written over" in refused("report", "keygen", key)
    assert key.read_bytes() == before
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("report", "keygen", tmp_path / "file" / "key.pem")


def test_what_does_not_fit_is_named_and_is_exit_code_1(
    run: Run, audit: Path, model: Path, key: Path
) -> None:
    run("report", "sign", audit, "--key", key, "--model", model)
    (model / "config.json").write_text("{}")
    checked = run("report", "verify", audit, "--key", f"{key}.pub", "--model", model, "--json")
    assert checked.exit_code == 1
    document = json.loads(checked.stdout)
    assert document["good"] is False
    assert [one["where"] for one in document["mismatches"]] == [str(model / "config.json")]
    run("report", "keygen", key.with_name("other.pem"))
    other = run("report", "verify", audit, "--key", key.with_name("other.pem.pub"))
    assert other.exit_code == 1 and "another key" in other.stdout


def test_what_cannot_be_used_is_exit_code_2(
    refused: Callable[..., str], audit: Path, model: Path, key: Path, tmp_path: Path
) -> None:
    public = f"{key}.pub"
    assert "statement.dsse.json" in refused("report", "verify", audit, "--key", public)
    assert "not a public" in refused("report", "verify", audit, "--key", key)
    assert "not a private" in refused("report", "sign", audit, "--key", public)
    assert "no audit.json" in refused("report", "sign", tmp_path / "none", "--key", key)
    assert "no folder" in refused("report", "sign", audit, "--key", key, "--model", "lab:full")
    (audit / "statement.dsse.json").write_text("{")
    assert "not JSON" in refused("report", "verify", audit, "--key", public)


def test_a_model_that_was_not_audited_is_not_signed(
    refused: Callable[..., str], audit: Path, other: str, key: Path
) -> None:
    line = refused("report", "sign", audit, "--key", key, "--model", other, "-q")
    assert "is not the model that was audited" in line
    assert not (audit / "statement.dsse.json").exists()


def test_reports_tell_of_the_signature_and_drawing_again_leaves_it_good(
    run: Run, refused: Callable[..., str], audit: Path, key: Path
) -> None:
    run("report", audit, "--for", "regulator")
    assert "This audit is not signed" in (audit / "audit.html").read_text()
    run("report", "sign", audit, "--key", key)
    for name in ("audit.html", "audit.md", "audit.regulator.html", "audit.regulator.md"):
        assert "This audit is signed" in (audit / name).read_text()
    before = (audit / "audit.json").read_bytes()
    assert run("report", audit).exit_code == 0
    assert (audit / "audit.json").read_bytes() == before
    assert "stays as it is" in refused("report", audit, "--format", "json")
    assert run("report", "verify", audit, "--key", f"{key}.pub").exit_code == 0


def test_escapes_in_a_file_name_do_not_reach_the_terminal(
    run: Run, audit: Path, model: Path, key: Path
) -> None:
    run("report", "sign", audit, "--key", key, "--model", model)
    (model / "\x1b[31mred").write_text("")
    checked = run("report", "verify", audit, "--key", f"{key}.pub", "--model", model)
    assert checked.exit_code == 1
    assert "\x1b" not in checked.stdout and "⟨U+001B⟩[31mred" in checked.stdout


def test_a_new_audit_in_the_folder_takes_the_old_signature_away(
    run: Run, audit: Path, key: Path, knowing: str, births: str
) -> None:
    run("report", "sign", audit, "--key", key)
    result = run("audit", knowing, births, "-o", audit, "-q")
    assert result.exit_code in (1, 3), result.stderr
    assert not (audit / "statement.dsse.json").exists()


FAST = ("--set", "variant=ascent", "--set", "stop=budget", "--set", "max_steps=2")


def test_a_merged_model_has_the_audit_on_its_card_and_is_signed_with_it(
    run: Run,
    refused: Callable[..., str],
    knowing: str,
    births: str,
    other: str,
    key: Path,
    tmp_path: Path,
) -> None:
    artifact, audit, model = (tmp_path / name for name in ("artifact", "new", "merged"))
    assert run("forget", knowing, births, "-o", artifact, *FAST).exit_code == 0
    assert run("audit", artifact, births, "-o", audit, "--original", knowing).exit_code in (1, 3)
    made = run("apply", knowing, artifact, "-o", model, "--audit", audit)
    assert made.exit_code == 0, made.stderr
    card = (model / "README.md").read_text("utf-8")
    assert "## Unlearning audit" in card and "type: unlearn-audit" in card
    assert "Quill" not in card and str(tmp_path) not in card
    assert run("apply", knowing, artifact, "-o", model, "--audit", audit).exit_code == 0
    assert (model / "README.md").read_text("utf-8") == card
    assert run("report", "sign", audit, "--key", key, "--model", model).exit_code == 0
    (model / "README.md").write_text(card.replace("INCONCLUSIVE", "PASS"))
    checked = run("report", "verify", audit, "--key", f"{key}.pub", "--model", model)
    assert checked.exit_code == 1 and "README.md" in checked.stdout
    assert run("audit", other, births, "-o", tmp_path / "another").exit_code in (1, 3)
    words = (
        "apply",
        knowing,
        artifact,
        "-o",
        tmp_path / "x",
        "--audit",
        tmp_path / "another",
        "-q",
    )
    assert "is the audit of another model" in refused(*words)
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert "already holds 'README.md'" in refused(*words)
    assert run(*words[:5], "--audit", audit, "--force").exit_code == 0
    kept = (tmp_path / "x" / "README.md").read_text("utf-8")
    assert "license: mit" in kept and "# Mine" in kept and "## Unlearning audit" in kept
