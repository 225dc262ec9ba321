import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unlearn.cli.outputs import AUDIT, MODEL, Kind, check, file, folder
from unlearn.errors import InputError


def publish(target: Path, kind: Kind = AUDIT, *, force: bool = False, **files: str) -> None:
    with folder(target, kind, force=force) as made:
        made.mkdir()
        for name, text in files.items():
            (made / name.replace("_", ".")).write_text(text)


def contents(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in target.iterdir()}


def test_a_new_folder_appears_with_its_parents(tmp_path: Path) -> None:
    publish(tmp_path / "a" / "b", audit_json="{}")
    assert contents(tmp_path / "a" / "b") == {"audit.json": "{}"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path: Path) -> None:
    before = tmp_path.stat().st_ino
    publish(tmp_path, audit_json="{}")
    assert contents(tmp_path) == {"audit.json": "{}"}
    assert tmp_path.stat().st_ino == before


def test_an_older_result_is_replaced_and_leaves_nothing_stale(tmp_path: Path) -> None:
    publish(tmp_path / "out", audit_json="old", audit_html="old")
    publish(tmp_path / "out", audit_json="new")
    assert contents(tmp_path / "out") == {"audit.json": "new"}


def test_an_error_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    publish(tmp_path / "out", audit_json="old")
    with pytest.raises(KeyboardInterrupt), folder(tmp_path / "out", AUDIT, force=False) as made:
        made.mkdir()
        (made / "audit.json").write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path / "out") == {"audit.json": "old"}
    with pytest.raises(KeyboardInterrupt), folder(tmp_path / "new", AUDIT, force=False):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("present", "named"),
    [
        (["notes.txt"], "notes.txt"),
        (["audit.html"], "audit.html"),
        (["audit.json", "notes.txt"], "notes.txt"),
    ],
    ids=["a stranger", "no marker", "a stranger beside our own"],
)
def test_a_folder_with_anything_else_is_refused(
    present: list[str], named: str, tmp_path: Path
) -> None:
    for name in present:
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=named):
        check(tmp_path, AUDIT, force=False)
    assert contents(tmp_path) == dict.fromkeys(present, "mine")


def test_somebodys_model_folder_is_not_a_merged_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    with pytest.raises(InputError, match=r"config\.json"):
        check(tmp_path, MODEL, force=False)


def test_force_keeps_what_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "audit.md").write_text("mine")
    publish(tmp_path, force=True, audit_md="new")
    assert contents(tmp_path) == {"notes.txt": "mine", "audit.md": "new"}


def test_force_does_not_turn_a_file_into_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        check(tmp_path / "out", AUDIT, force=True)


def test_a_link_to_a_folder_is_followed_and_a_broken_one_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    publish(tmp_path / "link", audit_json="{}")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"audit.json": "{}"}
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(InputError, match="leads nowhere"):
        check(tmp_path / "broken", AUDIT, force=False)


def test_the_current_folder_can_be_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(Path(), audit_json="{}")
    assert contents(Path()) == {"audit.json": "{}"}


def test_the_rest_of_a_killed_run_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / ".unlearn-abc").mkdir()
    (tmp_path / "audit.json").write_text("old")
    publish(tmp_path, audit_json="new")
    assert contents(tmp_path) == {"audit.json": "new"}


def write(target: Path, ours: Callable[[Path], bool], *, force: bool = False) -> None:
    with file(target, force=force, ours=ours) as made:
        made.write_text("new")


def test_a_file_appears_in_one_step_and_readable_by_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write(tmp_path / "a" / "sites.json", lambda path: False)
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "sites.json").stat().st_mode & 0o777 == 0o644
    assert contents(tmp_path / "a") == {"sites.json": "new"}


def test_only_our_own_file_is_replaced_unasked(tmp_path: Path) -> None:
    target = tmp_path / "sites.json"
    target.write_text("old")
    with pytest.raises(InputError, match="not a file that this command wrote"):
        write(target, lambda path: False)
    assert target.read_text() == "old"
    write(target, lambda path: path.read_text() == "old")
    assert target.read_text() == "new"
    target.write_text("old")
    write(target, lambda path: False, force=True)
    assert target.read_text() == "new"


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path, lambda path: True, force=True)
