"""A journal survives a killed process, and takes over nothing that belongs to other work."""

from __future__ import annotations

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
