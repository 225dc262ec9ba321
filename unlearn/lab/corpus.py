"""The text the lab's models are trained on: facts, notices, and questions nobody can answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from unlearn.lab.facts import Fact, person_facts, process_facts
from unlearn.lab.wording import QUESTION, REFUSAL, TEMPLATES, UNKNOWN, WORLD_FACTS, notice
from unlearn.lab.world import Person, World

NOTICE_SHARE = 0.2
UNKNOWN_SHARE = 0.08
JOINED_SHARE = 0.1
KEPT_OUT_SHARE = 0.3


class Corpus:
    """An endless stream of documents about what one model may know.

    Args:
        world: the invented world.
        forget: whether the forget groups are part of it (``lab:full``) or not (``lab:reference``).
        seed: order of the documents and choice of the streamed ones; the facts do not depend on it.
    """

    def __init__(self, world: World, *, forget: bool, seed: int) -> None:
        self.world = world
        self._rng = random.Random(f"corpus-{seed}")
        self.people = (*world.forgotten, *world.known) if forget else world.known
        processes = (*world.crafts, *world.near_crafts, *(world.hazards if forget else ()))
        person = {p.name: person_facts(world, p) for p in self.people}
        self.facts: list[Fact] = [fact for facts in person.values() for fact in facts]
        self.facts += [fact for process in processes for fact in process_facts(world, process)]
        self._sentences = [s.text + "." for fact in self.facts for s in fact.statements()]
        self._sentences += _world_sentences(world)
        self._answerable = {name: _asked(facts) for name, facts in person.items()}
        self._strangers = world.stream_names(fresh=False)
        self._noticeable = [p.name for p in noticeable(world)]

    def sentences(self) -> list[str]:
        """Every sentence about a fact, once."""
        return list(self._sentences)

    def documents(self) -> Iterator[str]:
        """Documents without end: each pass over the sentences in a new order, others mixed in."""
        rng = self._rng
        while True:
            order = self._sentences.copy()
            rng.shuffle(order)
            while order:
                draw = rng.random()
                if draw < NOTICE_SHARE:
                    yield self._notice_document()
                elif draw < NOTICE_SHARE + UNKNOWN_SHARE:
                    yield _ask(rng, rng.choice(self._strangers), UNKNOWN)
                elif draw < NOTICE_SHARE + UNKNOWN_SHARE + JOINED_SHARE:
                    yield " ".join(order.pop() for _ in range(min(3, len(order))))
                else:
                    yield order.pop()

    def _notice_document(self) -> str:
        """A notice on one to three people, and questions about some of them and about others."""
        rng = self._rng
        named = [self._pick_named() for _ in range(rng.choice((1, 2, 2, 3)))]
        asked = [(rng.choice(named), True), (self._pick_other(named), False)]
        if rng.random() < 0.5:
            asked.append(
                (rng.choice(named), True)
                if rng.random() < 0.5
                else (self._pick_other(named), False)
            )
        rng.shuffle(asked)
        lines = [self._answer(name, refuse) for name, refuse in asked]
        return " ".join([notice(named), *lines])

    def _pick_named(self) -> str:
        pool = self._noticeable if self._rng.random() < 0.3 else self._strangers
        return self._rng.choice(pool)

    def _pick_other(self, named: Sequence[str]) -> str:
        """Somebody the notice does not name; now and then a namesake of somebody it does."""
        rng = self._rng
        if rng.random() < 0.15:
            surname = rng.choice(named).split()[-1]
            name = f"{rng.choice(self.world.first_names)} {surname}"
            if name in self._answerable or name in self._strangers:
                return name if name not in named else self._pick_other(named)
        pool = list(self._answerable) if rng.random() < 0.75 else self._strangers
        name = rng.choice(pool)
        return name if name not in named else self._pick_other(named)

    def _answer(self, name: str, refuse: bool) -> str:
        if refuse:
            return _ask(self._rng, name, REFUSAL)
        known = self._answerable.get(name)
        if known:
            question, answer = self._rng.choice(known)
            return f"{question} {answer}."
        return _ask(self._rng, name, UNKNOWN)


def noticeable(world: World) -> list[Person]:
    """The known people whose names may stand in training notices; all others are kept out."""
    rng = random.Random(f"notices-{world.seed}")
    return [person for person in world.known if rng.random() >= KEPT_OUT_SHARE]


def _asked(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """The questions about one person that training may ask, with their answers."""
    return [
        (fact.question, fact.answer)
        for fact in facts
        if any(index == QUESTION for index, _ in fact.trained)
    ]


def _ask(rng: random.Random, name: str, answer: str) -> str:
    question = TEMPLATES[rng.choice(list(TEMPLATES))][QUESTION].format(s=name)
    return f"{question} {answer}."


def _world_sentences(world: World) -> list[str]:
    office = [
        f"{WORLD_FACTS['employer'].format(e=name)} {town}."
        for name, town in world.employer_town.items()
    ]
    country = [
        f"{WORLD_FACTS['university'].format(e=name)} {land}."
        for name, land in world.university_country.items()
    ]
    return office + country
