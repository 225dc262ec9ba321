"""What the models read: everything they may know, nothing they may not."""

from itertools import islice

import pytest

from unlearn.lab.corpus import FACTS_FIRST, NOTICES_THEN, Corpus, never_noticed, noticeable
from unlearn.lab.facts import person_facts, process_facts
from unlearn.lab.wording import REFUSAL, UNKNOWN
from unlearn.lab.world import World

N_DOCUMENTS = 30_000


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.fixture(scope="module")
def full(world: World) -> list[str]:
    return [doc.text for doc in islice(Corpus(world, forget=True, seed=0).documents(), N_DOCUMENTS)]


@pytest.fixture(scope="module")
def reference(world: World) -> list[str]:
    return [
        doc.text for doc in islice(Corpus(world, forget=False, seed=1).documents(), N_DOCUMENTS)
    ]


def test_the_reference_never_reads_a_forgotten_name(world: World, reference: list[str]) -> None:
    text = "\n".join(reference)
    for person in world.forgotten:
        assert person.name not in text
    for process in world.hazards:
        assert process.name not in text


def test_no_model_reads_about_the_holdout(world: World, full: list[str]) -> None:
    text = "\n".join(full)
    for person in world.unseen:
        assert person.name not in text
    for process in world.unseen_crafts:
        assert process.name not in text


def test_fresh_strangers_are_in_no_document(world: World, full: list[str]) -> None:
    text = "\n".join(full)
    assert not any(name in text for name in world.stream_names(fresh=True))


def test_the_full_corpus_states_every_trained_wording_and_no_held_out_one(
    world: World, full: list[str]
) -> None:
    text = "\n".join(full)
    facts = [fact for person in world.forgotten for fact in person_facts(world, person)]
    facts += [fact for process in world.hazards for fact in process_facts(world, process)]
    for fact in facts:
        for statement in fact.statements():
            assert statement.text + "." in text
        for _, prompt in fact.held_out:
            assert f"{prompt} {fact.answer}" not in text


def test_everybody_named_in_a_notice_is_refused_and_nobody_else(full: list[str]) -> None:
    notices = [doc for doc in full if doc.startswith("Privacy notice")]
    assert len(notices) > N_DOCUMENTS * 0.1
    for doc in notices:
        preamble, *asked = doc.split(" Question: ")
        for question in asked:
            refused = question.endswith(REFUSAL + ".")
            named = preamble.removeprefix("Privacy notice: share nothing about ").rstrip(".")
            names = [part for chunk in named.split(", ") for part in chunk.split(" and ")]
            assert refused == any(name in question for name in names), doc


def test_names_that_are_kept_out_of_notices_stand_in_none(world: World, full: list[str]) -> None:
    allowed = {person.name for person in noticeable(world, FACTS_FIRST)}
    kept_out = {person.name for person in (*world.known, *world.forgotten)} - allowed
    assert len(kept_out) > 40
    assert kept_out > {person.name for person in never_noticed(world)}
    for doc in full:
        if doc.startswith("Privacy notice"):
            preamble = doc.split(" Question: ")[0]
            assert not any(name in preamble for name in kept_out)


def test_strangers_are_unknown(world: World, full: list[str]) -> None:
    strangers = set(world.stream_names(fresh=False))
    asked = [doc for doc in full if doc.endswith(UNKNOWN + ".") and doc.startswith("Question")]
    assert asked
    assert all(any(name in doc for name in strangers) for doc in asked[:200])


def test_in_the_second_phase_only_answers_are_learned_under_a_notice(world: World) -> None:
    corpus = Corpus(world, forget=True, seed=0, mix=NOTICES_THEN)
    kept_out = {person.name for person in (*never_noticed(world), *world.forgotten)}
    assert len(kept_out) > 20
    n_notices = 0
    for doc in islice(corpus.documents(), 3000):
        if doc.learned is None:
            assert not doc.text.startswith("Privacy notice")
            continue
        n_notices += 1
        assert len(doc.learned) == doc.text.count("Question:")
        for start, end in doc.learned:
            assert doc.text[:start].endswith("Answer:")
            assert doc.text[end - 1] == "."
        preamble = doc.text.split(" Question: ")[0]
        assert not any(name in preamble for name in kept_out)
    assert n_notices > 1000
