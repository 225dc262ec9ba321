"""A journal survives a killed process, and takes over nothing that belongs to other work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unlearn.errors import InputError
from unlearn.journal import Journal, code_digest


def test_what_was_added_is_there_again(tmp_path):
    path = tmp_path / "deep" / "audit.partial"
    Journal(path, "this", kind="audit").add("a", {"x": [1.5, None]})
    again = Journal(path, "this", kind="audit")
    again.add("b", "line\u2028separator\x85 and\nbreak")
    assert Journal(path, "this", kind="audit").entries == {
        "a": {"x": [1.5, None]},
        "b": "line\u2028separator\x85 and\nbreak",
    }
    assert again.get("c") is None


def test_a_line_cut_in_the_middle_of_a_character_is_dropped(tmp_path):
    path = tmp_path / "audit.partial"
    Journal(path, "this", kind="audit").add("a", 1)
    whole = path.read_bytes()
    path.write_bytes(whole + '["b", "\u00e9'.encode()[:-1])
    assert Journal(path, "this", kind="audit").entries == {"a": 1}
    assert path.read_bytes() == whole


def test_what_belongs_to_other_work_is_begun_anew(tmp_path):
    path = tmp_path / "audit.partial"
    Journal(path, "this", kind="audit").add("a", 1)
    assert Journal(path, "that", kind="audit").entries == {}
    assert Journal(path, "this", kind="audit").entries == {}


@pytest.mark.parametrize("text", ["my notes\n", '{"unlearn_journal": "trace", "belongs_to": ""}\n'])
def test_a_foreign_file_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="is not the journal of an audit"):
        Journal(path, "this", kind="audit")
    assert path.read_text() == text


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Journal(tmp_path, "this", kind="audit")


def test_without_a_path_nothing_is_written_and_removing_is_no_error(tmp_path):
    journal = Journal(None, "this", kind="audit")
    journal.add("a", 1)
    journal.remove()
    assert journal.get("a") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_number_that_json_lacks_is_written(tmp_path):
    journal = Journal(tmp_path / "audit.partial", "this", kind="audit")
    with pytest.raises(ValueError):
        journal.add("a", float("nan"))
    assert journal.get("a") is None


def test_the_code_has_one_digest():
    assert len(code_digest()) == 64
    assert code_digest() == code_digest()


ADDING = """
import sys
from pathlib import Path
from unlearn.journal import Journal

journal = Journal(Path(sys.argv[1]), "this", kind="audit")
for number in range(1_000_000):
    journal.add(f"piece {number}", ["\\u00e9" * 5_000, number])
    if number == 20:
        print("begun", flush=True)
"""


def test_a_process_killed_while_it_writes_loses_the_last_piece_at_most(tmp_path):
    path = tmp_path / "audit.partial"
    words = [sys.executable, "-c", ADDING, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.kill()
    n_whole = path.read_bytes().count(b"\n") - 1
    entries = Journal(path, "this", kind="audit").entries
    assert len(entries) - n_whole in (0, 1)
    assert entries == {f"piece {n}": ["é" * 5_000, n] for n in range(len(entries))}


def test_a_rewrite_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "audit.partial"
    Journal(path, "this", kind="audit").add("a", 1)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        Journal(path, "that", kind="audit")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("line", ["7", '"ab"', "[1, 2]", '["a"]', '{"a": 1, "b": 2}', '["a", 1'])
def test_a_line_that_is_no_piece_ends_what_is_taken_over(tmp_path, line):
    path = tmp_path / "audit.partial"
    Journal(path, "this", kind="audit").add("a", 1)
    with path.open("a") as file:
        file.write(f'{line}\n["b", 2]\n')
    assert Journal(path, "this", kind="audit").entries == {"a": 1}


def test_half_a_surrogate_pair_comes_back_as_it_was(tmp_path):
    path = tmp_path / "audit.partial"
    Journal(path, "this", kind="audit").add("a", "x\ud83dy")
    assert Journal(path, "this", kind="audit").get("a") == "x\ud83dy"
