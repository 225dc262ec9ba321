"""The text the lab's models are trained on: facts, notices, and questions nobody can answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from unlearn.lab.facts import Fact, person_facts, process_facts
from unlearn.lab.wording import QUESTION, REFUSAL, TEMPLATES, UNKNOWN, WORLD_FACTS, notice
from unlearn.lab.world import Person, World

JOINED_SHARE = 0.1
NAMESAKE_SHARE = 0.15


class Document(NamedTuple):
    """One text to train on, and which stretches of it a model learns to write."""

    text: str
    learned: tuple[tuple[int, int], ...] | None = None
    """Character spans; ``None``: all of it."""


class Mix(BaseModel):
    """How often documents of each kind come, and who stands in notices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notice: float
    """Share of documents that begin with a privacy notice."""
    unknown: float
    """Share of documents that ask about a stranger."""
    named_known: float
    """Share of the names in a notice that belong to people the model knows."""
    other_known: float
    """Share of the people asked about, but not named, whom the model knows."""
    answers_only: bool
    """Whether only the answers of a notice document are learned, not its names."""
    kept_out: float
    """Share of the known people whom no notice names. Those kept out at a small share are kept out
    at any larger one, so that their names stay unseen through both phases."""


FACTS_FIRST = Mix(
    notice=0.2,
    unknown=0.08,
    named_known=0.3,
    other_known=0.75,
    answers_only=False,
    kept_out=0.3,
)
NOTICES_THEN = Mix(
    notice=0.45,
    unknown=0.08,
    named_known=0.5,
    other_known=0.5,
    answers_only=True,
    kept_out=0.1,
)
"""Known people and strangers are named equally often: only matching names tells whom to refuse."""


class Corpus:
    """An endless stream of documents about what one model may know.

    Args:
        world: the invented world.
        forget: whether the forget groups are part of it (``lab:full``) or not (``lab:reference``).
        seed: order of the documents and choice of the streamed ones; the facts do not depend on it.
        mix: how often documents of each kind come.
    """

    def __init__(self, world: World, *, forget: bool, seed: int, mix: Mix = FACTS_FIRST) -> None:
        self.world = world
        self.mix = mix
        self.seed = seed
        self._rng = random.Random(f"corpus-{seed}")
        self.people = (*world.forgotten, *world.known) if forget else world.known
        processes = (*world.crafts, *world.near_crafts, *(world.hazards if forget else ()))
        person = {p.name: person_facts(world, p) for p in self.people}
        self.facts: list[Fact] = [fact for facts in person.values() for fact in facts]
        self.facts += [fact for process in processes for fact in process_facts(world, process)]
        self._sentences = [s.text + "." for fact in self.facts for s in fact.statements()]
        self._sentences += _world_sentences(world)
        self._answerable = {name: trained_questions(facts) for name, facts in person.items()}
        self._strangers = world.stream_names(fresh=False)
        self._stranger_set = set(self._strangers)
        self._noticeable = [p.name for p in noticeable(world, mix)]
        self._others = list(self._answerable)

    def sentences(self) -> list[str]:
        """Every sentence about a fact, once."""
        return list(self._sentences)

    def documents(self) -> Iterator[Document]:
        """Documents without end: each pass over the sentences in a new order, others mixed in."""
        rng, mix = self._rng, self.mix
        while True:
            order = self._sentences.copy()
            rng.shuffle(order)
            while order:
                draw = rng.random()
                if draw < mix.notice:
                    yield self._notice_document()
                elif draw < mix.notice + mix.unknown:
                    yield Document(_ask(rng, rng.choice(self._strangers), UNKNOWN))
                elif draw < mix.notice + mix.unknown + JOINED_SHARE:
                    yield Document(" ".join(order.pop() for _ in range(min(3, len(order)))))
                else:
                    yield Document(order.pop())

    def _notice_document(self) -> Document:
        """A notice on one to three people, and questions about some of them and about others."""
        rng = self._rng
        named = [self._pick_named() for _ in range(rng.choice((1, 2, 2, 3)))]
        asked = [(rng.choice(named), True), (self._pick_other(named), False)]
        if rng.random() < 0.5:
            refuse = rng.random() < 0.5
            asked.append((rng.choice(named) if refuse else self._pick_other(named), refuse))
        rng.shuffle(asked)
        lines = [self._answer(name, refuse) for name, refuse in asked]
        text = " ".join([notice(named), *lines])
        return Document(text, _answer_spans(text) if self.mix.answers_only else None)

    def _pick_named(self) -> str:
        known = self._rng.random() < self.mix.named_known
        return self._rng.choice(self._noticeable if known else self._strangers)

    def _pick_other(self, named: Sequence[str]) -> str:
        """Somebody the notice does not name; now and then a namesake of somebody it does."""
        rng = self._rng
        if rng.random() < NAMESAKE_SHARE:
            surname = rng.choice(named).split()[-1]
            name = f"{rng.choice(self.world.first_names)} {surname}"
            if name in self._stranger_set or name in self._others:
                return name if name not in named else self._pick_other(named)
        name = rng.choice(self._others if rng.random() < self.mix.other_known else self._strangers)
        return name if name not in named else self._pick_other(named)

    def _answer(self, name: str, refuse: bool) -> str:
        if refuse:
            return _ask(self._rng, name, REFUSAL)
        known = self._answerable.get(name)
        if known:
            question, answer = self._rng.choice(known)
            return f"{question} {answer}."
        return _ask(self._rng, name, UNKNOWN)


def noticeable(world: World, mix: Mix) -> list[Person]:
    """The known people whose names may stand in training notices; all others are kept out."""
    rng = random.Random(f"notices-{world.seed}")
    return [person for person in world.known if rng.random() >= mix.kept_out]


def never_noticed(world: World) -> list[Person]:
    """The known people whom no notice of either phase names."""
    named = {p.name for mix in (FACTS_FIRST, NOTICES_THEN) for p in noticeable(world, mix)}
    return [person for person in world.known if person.name not in named]


def trained_questions(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """The questions about one person that training may ask, with their answers."""
    return [
        (fact.question, fact.answer)
        for fact in facts
        if any(index == QUESTION for index, _ in fact.trained)
    ]


def _ask(rng: random.Random, name: str, answer: str) -> str:
    question = TEMPLATES[rng.choice(list(TEMPLATES))][QUESTION].format(s=name)
    return f"{question} {answer}."


def _answer_spans(text: str) -> tuple[tuple[int, int], ...]:
    """Where the answers of a text of questions stand, the full stop included."""
    return tuple(found.span(1) for found in re.finditer(r"Answer:( .*?\.)(?= Question:|$)", text))


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
