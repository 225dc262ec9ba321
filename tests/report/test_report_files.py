import json
import subprocess
import sys

import pytest

from unlearn.errors import InputError
from unlearn.report import read, report
from unlearn.report.files import as_json
from unlearn.types import Estimate


def test_report_writes_one_file_per_format_and_nothing_else(result, tmp_path):
    paths = report(result, tmp_path / "new" / "folder")
    assert {name: path.name for name, path in paths.items()} == {
        "html": "audit.html",
        "md": "audit.md",
        "json": "audit.json",
    }
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "audit.html",
        "audit.json",
        "audit.md",
    ]


def test_only_the_formats_asked_for_are_written(result, tmp_path):
    assert list(report(result, tmp_path, formats=["md", "md"])) == ["md"]
    assert [p.name for p in tmp_path.iterdir()] == ["audit.md"]


def test_what_was_written_reads_back_equal_from_folder_and_file(result, tmp_path):
    path = report(result, tmp_path)["json"]
    assert read(tmp_path) == result
    assert read(str(path)) == result


def test_drawing_again_from_what_was_read_gives_the_same_bytes(result, tmp_path):
    first = {name: path.read_bytes() for name, path in report(result, tmp_path).items()}
    again = report(read(tmp_path), tmp_path)
    assert {name: path.read_bytes() for name, path in again.items()} == first


def test_json_keeps_the_order_of_the_type_two_spaces_deep(result):
    text = as_json(result)
    assert text.startswith('{\n  "schema_version": "1",\n  "tool_version"')
    assert list(json.loads(text)) == list(type(result).model_fields)


def test_json_holds_no_character_a_terminal_would_obey(result):
    text = as_json(result)
    assert not set(text) & set("\x1b\x07\u202e\u202c\u200b")
    assert "\\u202egnp.exe" in text
    assert "اللغة" in text


def test_infinite_and_missing_numbers_survive_the_file(result, tmp_path):
    odd = Estimate(value=float("inf"), low=float("-inf"), high=float("nan"), n=1, clusters=1)
    finding = result.findings[0].model_copy(update={"models": {"unlearned": odd}})
    report(result.model_copy(update={"findings": (finding,)}), tmp_path)
    back = read(tmp_path).findings[0].models["unlearned"]
    assert (back.value, back.low) == (odd.value, odd.low)
    assert back.high != back.high


def test_an_unknown_format_is_refused_before_anything_is_written(result, tmp_path):
    with pytest.raises(InputError, match=r"no report format 'docx'; choose from html, md, json"):
        report(result, tmp_path, formats=("html", "docx"))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_files_and_no_temporary_ones(result, tmp_path, monkeypatch):
    report(result, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match="cannot be written here: No space left"):
        report(result.model_copy(update={"seed": 8}), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_directory_that_is_a_file_is_an_input_error(result, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("here")
    with pytest.raises(InputError, match=r"taken.*cannot be written"):
        report(result, taken)


def test_a_missing_audit_names_the_file_and_the_command(tmp_path):
    with pytest.raises(InputError, match=r"audit\.json: there is no such file; `unlearn audit"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema_version": "1",', r"line 1, column \d+: not valid JSON"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"[1]", "no audit: it has no schema_version"),
        (b"{}", "no audit: it has no schema_version"),
        (b'{"schema_version": "2"}', "schema_version is '2'.*reads '1'; upgrade"),
        (b'{"schema_version": "1", "seed": "x"}', r"tool_version: Field required \(and \d+ more\)"),
        (b"[" * 200_000, "nested too deep"),
    ],
)
def test_a_damaged_audit_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "audit.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_named(result, tmp_path):
    path = report(result, tmp_path, formats=["json"])["json"]
    raw = json.loads(path.read_text())
    raw["claims"][2]["colour"] = "green"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"claims\.2\.colour"):
        read(path)


def test_reports_are_drawn_without_torch():
    code = (
        "import sys, unlearn.report; assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
