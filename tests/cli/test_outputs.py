import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unlearn.cli.outputs import ARTIFACT, AUDIT, DEMO, LAB, MODEL, Kind, check, file, folder
from unlearn.errors import InputError

OLD = '{"schema_version": "1", "verdict": "FAIL"}'
"""What an older ``audit.json`` says of itself."""


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
    publish(tmp_path / "out", audit_json=OLD, audit_html="old")
    publish(tmp_path / "out", audit_json="new")
    assert contents(tmp_path / "out") == {"audit.json": "new"}


def test_an_error_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    publish(tmp_path / "out", audit_json=OLD)
    with pytest.raises(KeyboardInterrupt), folder(tmp_path / "out", AUDIT, force=False) as made:
        made.mkdir()
        (made / "audit.json").write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path / "out") == {"audit.json": OLD}
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


def put(root: Path, *names: str, text: str = "mine") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def tree(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_text() for path in files}


@pytest.mark.parametrize(
    ("kind", "new", "users"),
    [
        (LAB, "card.md", ["full/thesis.tex", "forget_sets/mine/card.toml", "card.json"]),
        (DEMO, "demo.json", ["runs/mine/audit.json", "runs/2019/log.txt"]),
        (ARTIFACT, "artifact.json", ["config.json", "model.safetensors", "other.safetensors"]),
        (AUDIT, "audit.json", ["audit.md", "thesis.tex"]),
        (MODEL, "unlearn.json", ["tokenizer.py", "vocab.txt"]),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else None,
)
def test_force_removes_no_file_of_the_user(
    kind: Kind, new: str, users: list[str], tmp_path: Path
) -> None:
    put(tmp_path, *users)
    with folder(tmp_path, kind, force=True) as made:
        put(made, new, text="new")
    assert tree(tmp_path) == {**dict.fromkeys(users, "mine"), new: "new"}


def test_a_file_of_the_user_in_an_older_result_survives_force_and_stops_a_run_without(
    tmp_path: Path,
) -> None:
    put(tmp_path, "demo.json", text='{"verdict": "PASS", "runs": [{"strategy": "ascent"}]}')
    put(tmp_path, "runs/ascent/audit.json", "runs/ascent/artifact/delta.safetensors", text="old")
    put(tmp_path, "runs/mine/audit.json")
    with pytest.raises(InputError, match=r"runs/mine/audit\.json"):
        check(tmp_path, DEMO, force=False)
    with folder(tmp_path, DEMO, force=True) as made:
        put(made, "demo.json", "runs/ascent/audit.json", text="new")
    assert tree(tmp_path)["runs/mine/audit.json"] == "mine"
    assert tree(tmp_path)["runs/ascent/audit.json"] == "new"


def test_folders_of_an_older_run_go_where_everything_is_ours(tmp_path: Path) -> None:
    put(tmp_path, "demo.json", text='{"verdict": "PASS", "runs": [{"strategy": "ascent"}]}')
    put(tmp_path, "runs/ascent/audit.json", "runs/ascent/artifact/delta.safetensors", text="old")
    with folder(tmp_path, DEMO, force=False) as made:
        put(made, "demo.json", "runs/editing/audit.json", text="new")
    assert tree(tmp_path) == {"demo.json": "new", "runs/editing/audit.json": "new"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["editing"]


def test_a_marker_that_somebody_else_wrote_is_no_marker(tmp_path: Path) -> None:
    put(tmp_path, "card.md", "full/config.json")
    with pytest.raises(InputError, match=r"card\.md"):
        check(tmp_path, LAB, force=False)


def test_force_refuses_weights_that_would_be_read_in_place_of_the_new_ones(tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors")
    with (
        pytest.raises(InputError, match=r"model\.safetensors"),
        folder(tmp_path, MODEL, force=True) as made,
    ):
        put(made, "unlearn.json", "model-00001-of-00001.safetensors", text="new")
    assert tree(tmp_path) == {"model.safetensors": "mine"}


@pytest.mark.parametrize("name", ["audit.json/x", "runs"])
def test_force_does_not_replace_a_folder_by_a_file_or_the_other_way_round(
    name: str, tmp_path: Path
) -> None:
    put(tmp_path, name)
    with pytest.raises(InputError, match="choose another place"):
        check(tmp_path, AUDIT if "/" in name else DEMO, force=True)
    assert tree(tmp_path) == {name: "mine"}


@pytest.mark.parametrize("name", ["s.json", "a/s.json"])
def test_a_place_that_takes_no_file_is_an_error_of_the_user(name: str) -> None:
    target = Path("/proc/unlearn-no-such") / name
    with pytest.raises(InputError, match=r"cannot write to /proc.*No such file"):
        write(target, lambda path: False)
    with pytest.raises(InputError, match="cannot write to /proc"):
        publish(target, audit_json="{}")


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
    (tmp_path / "audit.json").write_text(OLD)
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
