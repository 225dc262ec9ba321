"""Texts become passages, each asking for its second half, and no word is lost or doubled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.documents import ANSWER_WORDS, PROMPT_WORDS, SHORTEST, read_documents
from unlearn.errors import ForgetSetError


def words(n, name="w"):
    return [f"{name}{i}" for i in range(n)]


@given(st.integers(SHORTEST, 300))
def test_passages_hold_every_word_in_order_but_a_short_rest(tmp_path_factory, n):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text(" \n".join(words(n)))
    made = read_documents(folder, "texts").forget
    said = " ".join(f"{record.prompt} {record.answer}" for record in made).split()
    assert said == words(n)[: len(said)] and n - len(said) < SHORTEST
    for record in made:
        assert len(record.prompt.split()) <= PROMPT_WORDS
        assert len(record.answer.split()) <= ANSWER_WORDS
        assert record.prompt.startswith(record.subject)


def test_folders_are_splits_and_other_files_are_left_out(tmp_path):
    for place, name in (("letters/a.md", "a"), ("retain/b.txt", "b"), ("neighbors/c.txt", "c")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(" ".join(words(20, name)))
    (tmp_path / "image.png").write_bytes(b"\xff" * 100)
    (tmp_path / "short.txt").write_text("too short")
    made = read_documents(tmp_path, "texts")
    assert [len(made.split(split)) for split in ("forget", "retain", "neighbors")] == [1, 1, 1]
    assert made.forget[0].prompt.startswith("a0 a1")


def test_the_same_passage_twice_counts_once_and_in_two_splits_is_refused(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(" ".join(words(20)))
    assert len(read_documents(tmp_path, "texts").forget) == 1
    (tmp_path / "retain").mkdir()
    (tmp_path / "retain" / "c.txt").write_text(" ".join(words(20)))
    with pytest.raises(ForgetSetError, match="same prompt and answer"):
        read_documents(tmp_path, "texts")


def test_what_does_not_read_is_named(tmp_path):
    with pytest.raises(ForgetSetError, match="is no folder"):
        read_documents(tmp_path / "nowhere", "x")
    with pytest.raises(ForgetSetError, match="holds no"):
        read_documents(tmp_path, "x")
    (tmp_path / "a.txt").write_bytes(b"\xff" * 50)
    with pytest.raises(ForgetSetError, match=r"a\.txt: not UTF-8"):
        read_documents(tmp_path, "x")
