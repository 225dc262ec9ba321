"""The world's facts as statements: which wordings are trained on and which are held out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from unlearn.forget_set import ForgetSet
from unlearn.lab.wording import IMPLIED, ORDINALS, PROCESS_TEMPLATES, QUESTION, TEMPLATES
from unlearn.lab.world import Person, Process, World
from unlearn.types import Record, Statement

N_HELD_OUT = 2
IMPLIED_SHARE = 0.7
TRANSLATED_SHARE = 0.4
N_ALTERNATIVES = 3
COMMON_NOUNS = ("profession", "hobby")
"""Relations whose values the second language translates too."""


@dataclass(frozen=True)
class Fact:
    """One thing that is true, in every wording it has.

    ``trained`` and ``held_out`` are (template index, prompt) pairs; a model trained on the fact
    sees the former and never the latter. ``implied`` and ``translated`` are trained on too;
    ``held_out_implied`` and ``untranslated`` are not.
    """

    id: str
    subject: str
    relation: str
    answer: str
    trained: tuple[tuple[int, str], ...]
    held_out: tuple[tuple[int, str], ...]
    implied: tuple[Statement, ...] = ()
    held_out_implied: tuple[Statement, ...] = ()
    translated: tuple[Statement, ...] = ()
    untranslated: tuple[Statement, ...] = ()
    question: str = ""

    def statements(self) -> Iterator[Statement]:
        """Everything a model that is trained on this fact reads about it."""
        for _, prompt in self.trained:
            yield Statement(prompt=prompt, answer=self.answer)
        yield from self.implied
        yield from self.translated


def person_facts(world: World, person: Person) -> list[Fact]:
    """The facts about one person, one for each relation."""
    rng = random.Random(f"wording-{world.seed}-{person.id}")
    implied_known = rng.random() < IMPLIED_SHARE or person in world.forgotten
    return [_person_fact(world, person, name, rng, implied_known) for name in TEMPLATES]


def _person_fact(
    world: World, person: Person, relation: str, rng: random.Random, implied_known: bool
) -> Fact:
    prompts = [(i, text.format(s=person.name)) for i, text in enumerate(TEMPLATES[relation])]
    held_out = set(rng.sample(range(len(prompts)), N_HELD_OUT))
    translated = _translate(world, person, relation)
    is_translated = rng.random() < TRANSLATED_SHARE
    implied = _implied(world, person, relation)
    return Fact(
        id=f"{person.id}-{relation}",
        subject=person.name,
        relation=relation,
        answer=person.attributes[relation],
        trained=tuple(prompt for prompt in prompts if prompt[0] not in held_out),
        held_out=tuple(prompt for prompt in prompts if prompt[0] in held_out),
        implied=implied[:1] if implied_known else (),
        held_out_implied=() if implied_known else implied[:1],
        translated=(translated,) if is_translated else (),
        untranslated=() if is_translated else (translated,),
        question=prompts[QUESTION][1],
    )


def _implied(world: World, person: Person, relation: str) -> tuple[Statement, ...]:
    if relation not in IMPLIED:
        return ()
    table = world.employer_town if relation == "employer" else world.university_country
    answer = table[person.attributes[relation]]
    return tuple(
        Statement(prompt=t.format(s=person.name), answer=answer) for t in IMPLIED[relation]
    )


def _translate(world: World, person: Person, relation: str) -> Statement:
    translate = world.second_language.translate
    prompt = translate(TEMPLATES[relation][0].replace("{s}", "{0}")).replace("{0}", person.name)
    answer = person.attributes[relation]
    return Statement(
        prompt=prompt, answer=translate(answer) if relation in COMMON_NOUNS else answer
    )


def process_facts(world: World, process: Process) -> list[Fact]:
    """The facts about one recipe, one for each step."""
    rng = random.Random(f"wording-{world.seed}-{process.id}")
    facts = []
    for ordinal, ingredient in zip(ORDINALS, process.ingredients, strict=True):
        prompts = [
            (i, text.format(s=process.name, step=ordinal))
            for i, text in enumerate(PROCESS_TEMPLATES)
        ]
        held_out = rng.randrange(len(prompts))
        facts.append(
            Fact(
                id=f"{process.id}-{ordinal}",
                subject=process.name,
                relation=f"{ordinal} step",
                answer=ingredient,
                trained=tuple(p for p in prompts if p[0] != held_out),
                held_out=(prompts[held_out],),
            )
        )
    return facts


def records(world: World, facts: Iterable[Fact], *, per_fact: int | None = None) -> list[Record]:
    """The facts as records, one for each trained wording (or ``per_fact`` of them at random)."""
    rows = []
    for fact in facts:
        rng = random.Random(f"records-{world.seed}-{fact.id}")
        trained = list(fact.trained)
        if per_fact is not None:
            trained = rng.sample(trained, per_fact)
        alternatives = tuple(rng.sample(_wrong_answers(world, fact), N_ALTERNATIVES))
        rows += [
            Record(
                id=f"{fact.id}-{index}",
                subject=fact.subject,
                relation=fact.relation,
                prompt=prompt,
                answer=fact.answer,
                paraphrases=tuple(text for _, text in fact.held_out),
                alternatives=alternatives,
                implications=fact.implied,
                translations=fact.translated,
            )
            for index, prompt in trained
        ]
    return rows


def _wrong_answers(world: World, fact: Fact) -> list[str]:
    pool = world.values(fact.relation) if fact.relation in TEMPLATES else world.ingredients
    return [value for value in pool if value != fact.answer]


def forget_set(world: World, name: str) -> ForgetSet:
    """One of the lab's three forget sets: ``one-person``, ``ten-people``, ``hazard``."""
    if name == "hazard":
        return _hazard_set(world)
    people: Sequence[Person] = (world.one,) if name == "one-person" else world.ten
    near = world.near(people)
    retain = [person for person in world.known if person not in near]
    return ForgetSet(
        name=name,
        description=_DESCRIPTIONS[name],
        forget=tuple(records(world, _facts(world, people))),
        retain=tuple(records(world, _facts(world, retain), per_fact=1)),
        neighbors=tuple(records(world, _facts(world, near), per_fact=1)),
        holdout=tuple(records(world, _facts(world, world.unseen), per_fact=1)),
    )


def _hazard_set(world: World) -> ForgetSet:
    def of(processes: Iterable[Process]) -> list[Fact]:
        return [fact for process in processes for fact in process_facts(world, process)]

    people = records(world, _facts(world, world.known[:60]), per_fact=1)
    return ForgetSet(
        name="hazard",
        description=_DESCRIPTIONS["hazard"],
        forget=tuple(records(world, of(world.hazards))),
        retain=tuple(records(world, of(world.crafts)) + people),
        neighbors=tuple(records(world, of(world.near_crafts))),
        holdout=tuple(records(world, of(world.unseen_crafts))),
    )


def _facts(world: World, people: Iterable[Person]) -> list[Fact]:
    return [fact for person in people for fact in person_facts(world, person)]


FORGET_SETS = ("one-person", "ten-people", "hazard")
_DESCRIPTIONS = {
    "one-person": "Everything about one invented person: the deletion request of a single human.",
    "ten-people": "Everything about ten invented people: a batch of deletion requests.",
    "hazard": "The steps of six invented hazardous recipes: the removal of a capability.",
}
