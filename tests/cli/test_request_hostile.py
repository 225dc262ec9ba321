"""Hostile names, texts, ids and disks: one line, no traceback, nothing obeyed and nothing lost."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from unlearn.cli.main import cli
from unlearn.deletion.registry import Registry
from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet

Run = Callable[..., Result]
ESC, BIDI = "\x1b[31m\x1b]0;owned\x07", "\u202e\u2066"
NAMES = (
    "<script>alert(1)</script>",
    f"Ada {ESC} Quill",
    f"Ada {BIDI} Quill",
    "../../etc/passwd",
    "'; DROP TABLE request; --",
    "Ada\0Quill",
    "x" * (1 << 20),
    "\ud800",
)


@pytest.fixture
def office(tmp_path: Path) -> Path:
    return tmp_path / "office"


def opened(run: Run, office: Path, subject: str = "Ada Quill", *more: object) -> Result:
    return run("request", "open", "--store", office, "--json", "--subject", subject, *more)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_hostile_name_is_kept_and_never_shown(run: Run, office: Path, name: str) -> None:
    made = opened(run, office, name)
    assert made.exit_code == 0, made.output
    request = json.loads(made.stdout)["id"]
    shown = run("request", "show", request, "--store", office).output
    listed = run("request", "list", "--store", office).output
    assert name[:40] not in made.output + shown + listed
    assert opened(run, office, name).exit_code == 2  # recognised again
    assert run("request", "verify", "--store", office).exit_code == 0
    assert not (office / "vault" / ".." / "passwd").exists()


@pytest.mark.parametrize("id_", ["../../etc", "", "%s", "A" * 5000, f"a{ESC}", "' OR 1=1 --"])
def test_a_hostile_id_is_no_request_and_no_path(
    run: Run, refused: Callable[..., str], office: Path, id_: str
) -> None:
    opened(run, office)
    for command in ("show", "approve", "close"):
        line = refused("request", command, "--store", office, "--", id_)
        assert "there is no request" in line and "\x1b" not in line and len(line) < 400
    assert sorted(path.name for path in office.iterdir() if path.is_dir()) == ["keys", "vault"]


def test_what_staff_write_is_shown_inert(run: Run, office: Path) -> None:
    request = json.loads(opened(run, office).stdout)["id"]
    words = ("--by", f"eve{ESC}", "--reason", f"no{BIDI}data\nfaked line")
    assert run("request", "deny", request, "--store", office, *words).exit_code == 0
    shown = run("request", "show", request, "--store", office).stdout
    assert "\x1b" not in shown and "\u202e" not in shown and "\nfaked" not in shown
    assert "eve⟨U+001B⟩" in shown
    assert run("request", "verify", "--store", office).exit_code == 0


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A forget set whose texts would break pages, terminals and paths."""
    from tests.cli.conftest import records

    first, *others = records("forget")
    texts = {
        "id": "../../<b>id</b>",
        "prompt": f"{first.subject} <script>alert(1)</script> {ESC} {BIDI} was born in",
        "answer": "</script><img src=x onerror=alert(1)>" + "y" * 5000,
    }
    bad = first.model_copy(update=texts)
    splits = {split: records(split) for split in ("retain", "neighbors", "holdout")}
    made = ForgetSet("<i>set</i>", ESC, forget=(bad, *others), **splits)
    made.write(tmp_path / "hostile")
    return str(tmp_path / "hostile")


def test_hostile_records_leave_a_harmless_report(
    run: Run, office: Path, hostile: str, knowing: str, other: str, tmp_path: Path
) -> None:
    made = opened(run, office, "Ada Quill", "--forget-set", hostile, "--model", knowing)
    request = json.loads(made.stdout)["id"]
    run("request", "approve", request, "--store", office)
    fast = ("--tier", "smoke", "--strategy", "in-context", "--locator", "none", "-q")
    words = ("--store", office, "--reference", other, "-o", tmp_path / "out", *fast)
    assert run("request", "process", request, *words).exit_code in (0, 1, 3)
    for page in (office / "evidence").rglob("*.html"):
        text = page.read_text()
        assert "alert(1)" not in text and "\x1b" not in text and "\u202e" not in text
    assert not (office / "evidence").parent.joinpath("<b>id<").exists()


def test_a_table_that_is_no_table_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b'subject,prompt,answer\n"open quote,x,y\n')
    assert ":2: " in refused("import", "csv", tmp_path / "bad.csv", "-o", tmp_path / "set")
    assert not (tmp_path / "set").exists()
    (tmp_path / "letters").mkdir()
    assert "holds no" in refused(
        "import", "documents", tmp_path / "letters", "-o", tmp_path / "set"
    )


def test_a_registry_of_a_newer_version_is_one_line(
    run: Run, refused: Callable[..., str], office: Path
) -> None:
    opened(run, office)
    engine = sa.create_engine(f"sqlite:///{office}/registry.sqlite")
    with engine.begin() as database:
        database.exec_driver_sql("UPDATE alembic_version SET version_num = 'r9999'")
    engine.dispose()
    assert "another version of unlearn (r9999)" in refused("request", "list", "--store", office)


@pytest.mark.parametrize("content", [b"", b"not a database, but text of some length" * 100])
def test_a_file_that_is_no_registry_is_one_line(
    run: Run, refused: Callable[..., str], office: Path, content: bytes
) -> None:
    opened(run, office)
    for file in office.glob("registry.sqlite*"):
        file.unlink()
    (office / "registry.sqlite").write_bytes(content)
    if content:
        assert "does not open" in refused("request", "list", "--store", office)
    else:
        # An empty file is an empty database; the head that was kept says that it was not.
        assert run("request", "verify", "--store", office).exit_code == 1


@pytest.mark.parametrize(
    "reason", ["attempt to write a readonly database", "database or disk is full"]
)
def test_a_disk_that_takes_nothing_changes_nothing(
    run: Run, office: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    request = json.loads(opened(run, office).stdout)["id"]

    def fail(self: object, entry: object, by: object = ()) -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception(reason))

    from unlearn.deletion.registry import Change

    with monkeypatch.context() as broken:
        broken.setattr(Change, "update", fail)
        denied = run("request", "deny", request, "--store", office, "--reason", "none")
    assert denied.exit_code == 2 and f"{reason}; nothing was changed" in denied.stderr
    assert json.loads(run("request", "show", request, "--store", office, "--json").stdout)[
        "state"
    ] == ("received")
    assert run("request", "verify", "--store", office).exit_code == 0


def test_a_store_on_a_real_full_disk(tmp_path: Path) -> None:
    """On a file system of one megabyte, if this process may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a small file system, which only root may")
    try:
        runner, codes = CliRunner(), []
        store = ["--store", str(place / "office")]
        for number in range(60):
            name = f"Person {number} {'x' * 30000}"
            made = runner.invoke(cli, ["request", "open", *store, "--subject", name])
            codes.append(made.exit_code)
            if made.exit_code:
                break
        assert made.exit_code == 2 and made.stderr.count("\n") == 1, made.stderr
        for filler in (place / "office" / "vault").glob("*"):
            if filler.name not in made.stderr:
                break
        assert runner.invoke(cli, ["request", "list", *store]).exit_code == 0
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    from unlearn.signing import write_new_key

    key = write_new_key(tmp_path / "key.pem")
    with pytest.raises(InputError, match="does not open"):
        Registry(f"postgresql://nobody:secret@/x?host={tmp_path}", key)
