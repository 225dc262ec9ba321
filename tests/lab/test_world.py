"""The invented world: groups that do not overlap, values drawn at random, names nobody has."""

from collections import Counter

import pytest

from unlearn.lab.facts import FORGET_SETS, forget_set, person_facts, process_facts
from unlearn.lab.wording import QUESTION, TEMPLATES, SecondLanguage
from unlearn.lab.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


def test_the_same_seed_draws_the_same_world(world: World) -> None:
    again = World(0)
    assert again.population == world.population
    assert World(1).population != world.population


def test_everybody_has_a_name_of_their_own(world: World) -> None:
    names = [person.name for person in world.population]
    assert len(set(names)) == len(names)
    assert len(world.forgotten) + len(world.known) == 200


def test_streamed_names_belong_to_nobody_and_fresh_ones_are_apart(world: World) -> None:
    names = {person.name for person in world.population}
    trained, fresh = set(world.stream_names(fresh=False)), set(world.stream_names(fresh=True))
    assert not names & trained
    assert not names & fresh
    assert not trained & fresh


def test_no_value_is_common_enough_to_be_guessed(world: World) -> None:
    for relation in TEMPLATES:
        counts = Counter(person.attributes[relation] for person in world.population)
        assert counts.most_common(1)[0][1] / len(world.population) < 0.1, relation


def test_each_template_is_trained_on_for_some_and_held_out_for_others(world: World) -> None:
    facts = [fact for person in world.known for fact in person_facts(world, person)]
    for relation, forms in TEMPLATES.items():
        of_relation = [fact for fact in facts if fact.relation == relation]
        for index in range(len(forms)):
            trained = sum(any(i == index for i, _ in fact.trained) for fact in of_relation)
            held_out = sum(any(i == index for i, _ in fact.held_out) for fact in of_relation)
            assert trained + held_out == len(of_relation)
            assert min(trained, held_out) > 20, (relation, index)


def test_held_out_wordings_are_never_among_the_statements(world: World) -> None:
    for person in world.population:
        for fact in person_facts(world, person):
            told = {statement.prompt for statement in fact.statements()}
            assert not told & {prompt for _, prompt in fact.held_out}
            assert not told & {s.prompt for s in (*fact.held_out_implied, *fact.untranslated)}


def test_what_is_implied_is_true_in_the_world(world: World) -> None:
    for person in world.forgotten:
        for fact in person_facts(world, person):
            for statement in fact.implied:
                table = (
                    world.employer_town if fact.relation == "employer" else world.university_country
                )
                assert statement.answer == table[fact.answer]


def test_relation_words_follow_the_subject_or_the_form_is_a_question() -> None:
    for forms in TEMPLATES.values():
        for index, text in enumerate(forms):
            assert index == QUESTION or text.split("{s}")[1].strip(), text


def test_recipe_steps_have_six_different_ingredients(world: World) -> None:
    for process in (*world.hazards, *world.crafts, *world.near_crafts, *world.unseen_crafts):
        assert len(set(process.ingredients)) == 6
        assert len(process_facts(world, process)) == 6


def test_the_second_language_is_one_to_one_and_leaves_names_alone() -> None:
    language = SecondLanguage({"works", "for", "the", "company", "baker"}, seed=0)
    text = language.translate("Ada Quill works for the company")
    assert text.startswith("Ada Quill ")
    words = text.split()[2:]
    assert len(set(words)) == 4
    assert not set(words) & {"works", "for", "the", "company"}


@pytest.mark.parametrize("name", FORGET_SETS)
def test_the_splits_of_a_forget_set_are_about_different_subjects(world: World, name: str) -> None:
    made = forget_set(world, name)
    splits = [made.forget, made.retain, made.neighbors, made.holdout]
    subjects = [{record.subject for record in split} for split in splits]
    assert all(subjects)
    for i, first in enumerate(subjects):
        for second in subjects[i + 1 :]:
            assert not first & second


def test_nobody_to_be_forgotten_in_one_set_is_retained_in_another(world: World) -> None:
    made = [forget_set(world, name) for name in FORGET_SETS]
    forgotten = {record.subject for one in made for record in one.forget}
    for one in made:
        assert not forgotten & {record.subject for record in (*one.retain, *one.neighbors)}


def test_neighbors_share_something_with_a_forgotten_person(world: World) -> None:
    for people in ((world.one,), world.ten):
        near = world.near(people)
        # A share of answers kept cannot pass with fewer subjects than this.
        assert len(near) >= 19
        for person in near:
            assert any(
                person.surname == other.surname
                or any(
                    person.attributes[key] == other.attributes[key]
                    for key in ("employer", "birthplace", "university")
                )
                for other in people
            )
