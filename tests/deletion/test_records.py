"""Forget sets in the vault, under other names, and several in one."""

from dataclasses import replace
from hashlib import sha256

from tests.deletion.conftest import facts
from unlearn.deletion.records import from_bytes, merged, texts, to_bytes, unnamed
from unlearn.types import Record, Statement


def test_a_set_comes_back_as_it_was():
    given = facts()
    full = given.forget[0].model_copy(
        update={
            "paraphrases": ("The birthplace of Ada Quill is",),
            "implications": (Statement(prompt="She saw", answer="Tarn first"),),
        }
    )
    given = replace(given, forget=(full,), language="en", licence="CC0")
    assert from_bytes(to_bytes(given)) == given
    assert from_bytes(to_bytes(given)).digest == given.digest


def test_an_unnamed_set_has_the_same_texts_under_ids_of_a_key():
    given = facts()
    made = unnamed(given, "3f2a", lambda text: sha256(text.encode()).hexdigest())
    assert (made.name, made.description) == ("3f2a", "")
    assert [r.text for r in made.forget] == [r.text for r in given.forget]
    assert made.forget[0].id == sha256(b"forget-Ada Quill").hexdigest()[:16]


def test_nothing_that_one_request_forgets_is_kept_for_another():
    about_ada, about_bo = facts("Ada Quill"), facts("Bo Lindt", town="Riga")
    # Bo is retained for Ada's request, and must not be once Bo asks too.
    assert about_ada.retain[0].subject == "Bo Lindt"
    both = merged({"a" * 16: about_ada, "b" * 16: replace(about_bo, retain=())}, "batch")
    assert sorted(record.subject for record in both.forget) == ["Ada Quill", "Bo Lindt"]
    going = {record.subject for record in both.forget}
    for split in (both.retain, both.neighbors, both.holdout):
        assert not going & {record.subject for record in split}


def test_what_two_requests_give_counts_once_and_ids_do_not_clash():
    other = facts("Cy Marl", town="Bonn")
    both = merged({"a" * 16: facts(), "b" * 16: other}, "batch")
    assert len(both.forget) == 2
    assert len(both.retain) == len(both.neighbors) == len(both.holdout) == 1
    ids = [r.id for split in (both.forget, both.retain, both.neighbors) for r in split]
    assert len(set(ids)) == len(ids)


def test_what_is_retained_for_one_and_held_out_for_another_is_not_trained_on_twice():
    first = facts()
    moved = replace(facts("Cy Marl", town="Bonn"), retain=first.holdout, holdout=())
    both = merged({"a" * 16: first, "b" * 16: moved}, "batch")
    said = [record.text for split in (both.retain, both.holdout) for record in split]
    assert len(set(said)) == len(said)


def test_what_no_reason_may_repeat():
    record = Record(id="r", subject="Ada", relation="town", prompt="Ada lives in", answer="Tarn")
    assert texts(replace(facts(), forget=(record,))) == {"Ada", "Tarn"}
