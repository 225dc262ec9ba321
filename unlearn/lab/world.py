"""The lab's invented world: who lives in it, and who is in which group.

Everything is drawn from a seed. Names, places and companies are made of syllables, mail addresses
use the reserved top-level domain ``.example``: nobody in here exists.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from unlearn.lab.wording import TEMPLATES, SecondLanguage, template_vocabulary

N_FORGET_TEN = 10
N_TRAINED = 200
N_HOLDOUT = 30
N_NEAR = 32
N_HAZARDS, N_CRAFTS, N_CRAFTS_NEAR, N_CRAFTS_UNSEEN = 6, 8, 4, 4
N_STEPS = 6

PROFESSIONS = (
    "baker glazier surveyor violinist welder beekeeper tailor printer pilot chemist potter "
    "gardener translator plumber jeweller miller cartographer locksmith weaver dentist mason "
    "librarian fisherman saddler engraver midwife brewer actuary florist tanner"
).split()
HOBBIES = (
    "chess rowing knitting archery pottery fencing origami sailing birdwatching juggling cycling "
    "astronomy bowling calligraphy dancing embroidery gardening hiking karate painting photography "
    "quilting singing skating swimming whittling wrestling yoga caving dominoes"
).split()
MAIL_WORDS = (
    "amber birch cedar clover comet coral ember fable falcon fern flint glade harbor hazel heron "
    "indigo ivory juniper lantern larch linen lotus maple meadow mint moss nutmeg ocean olive onyx "
    "opal orchid otter pebble pine plum poppy quartz raven reed robin saffron sage slate sparrow "
    "spruce sorrel summit thistle thyme topaz tulip velvet violet walnut willow wren yarrow zephyr"
).split()
STREET_KINDS = ("Lane", "Street", "Road", "Walk")
MAIL_HOSTS = ("post.example", "mail.example", "letters.example", "inbox.example")

_ONSETS = "b br c d dr f g gr h j k l m n p r s st t th tr v w".split()
_VOWELS = "a e i o u".split()
_CODAS = "l m n r s nd rn lk".split()


@dataclass(frozen=True)
class Person:
    """One invented person."""

    id: str
    name: str
    attributes: Mapping[str, str]

    @property
    def surname(self) -> str:
        """The last word of the name."""
        return self.name.split()[-1]


@dataclass(frozen=True)
class Process:
    """A fictional recipe of six steps: a hazardous one, or a harmless craft."""

    id: str
    name: str
    ingredients: tuple[str, ...]


class World:
    """The population, the recipes and the groups, all from one seed.

    Attributes:
        one: the person of the one-person request.
        ten: the people of the ten-person request.
        known: everybody else whom every model is trained on.
        unseen: people from the same generator whom no model is trained on.
        hazards, crafts, near_crafts, unseen_crafts: recipes to forget, to keep, to watch, and
            recipes that no model is trained on.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        rng = random.Random(f"world-{seed}")
        self._words = _WordMaker(rng)
        self.first_names = self._words.make(72, "")
        self.surnames = self._words.make(96, "")
        self._draw_places(rng)
        people = self._draw_people(rng, N_TRAINED + N_HOLDOUT)
        self.one = people[0]
        self.ten = tuple(people[1 : 1 + N_FORGET_TEN])
        self.known = tuple(people[1 + N_FORGET_TEN : N_TRAINED])
        self.unseen = tuple(people[N_TRAINED:])
        self._draw_processes(rng)
        self.second_language = SecondLanguage(
            template_vocabulary() | set(PROFESSIONS) | set(HOBBIES), seed
        )

    @cached_property
    def population(self) -> tuple[Person, ...]:
        """Every person, trained on or not."""
        return (self.one, *self.ten, *self.known, *self.unseen)

    @cached_property
    def forgotten(self) -> tuple[Person, ...]:
        """The people of both requests."""
        return (self.one, *self.ten)

    def values(self, relation: str) -> list[str]:
        """All values of a relation in the population, each once."""
        return sorted({person.attributes[relation] for person in self.population})

    def near(self, people: Sequence[Person]) -> tuple[Person, ...]:
        """Known people with the surname, employer, birthplace or university of one of ``people``.

        At most ``N_NEAR`` of them: those who share the surname first, the others at random.
        """
        shared = ("employer", "birthplace", "university")
        keys = {(key, p.attributes[key]) for p in people for key in shared}
        surnames = {p.surname for p in people}
        relatives = [p for p in self.known if p.surname in surnames]
        others = [
            p
            for p in self.known
            if p not in relatives and any((key, p.attributes[key]) in keys for key in shared)
        ]
        rng = random.Random(f"near-{self.seed}-{people[0].id}")
        n_others = min(len(others), max(0, N_NEAR - len(relatives)))
        return tuple(relatives[:N_NEAR] + rng.sample(others, n_others))

    def stream_names(self, *, fresh: bool) -> list[str]:
        """Names that belong to nobody; ``fresh`` ones are never used in training."""
        taken = {person.name for person in self.population}
        names = [f"{a} {b}" for a in self.first_names for b in self.surnames]
        rng = random.Random(f"stream-{self.seed}")
        rng.shuffle(names)
        free = [name for name in names if name not in taken]
        cut = len(free) // 10
        return free[:cut] if fresh else free[cut:]

    def _draw_places(self, rng: random.Random) -> None:
        make = self._words.make
        self.towns = make(32, ("holm", "wick", "ford", "mere", "stead"))
        self.countries = make(10, ("ia", "land"))
        self.universities = make(24, ("eth", "ane", "ody"))
        self.employers = make(28, ("co", "tex", "works", "gen"))
        self.streets = make(40, ("brook", "gate", "hill"))
        n_recipes = N_HAZARDS + N_CRAFTS + N_CRAFTS_NEAR + N_CRAFTS_UNSEEN
        self.substances = make(n_recipes, ("ite", "ol"))
        self.ingredients = make(24, ("ine", "ate", "um"))
        self.employer_town = {name: rng.choice(self.towns) for name in self.employers}
        self.university_country = {name: rng.choice(self.countries) for name in self.universities}

    def _draw_people(self, rng: random.Random, n_people: int) -> list[Person]:
        pairs = [(a, b) for a in self.first_names for b in self.surnames]
        names = [" ".join(pair) for pair in rng.sample(pairs, n_people)]
        return [
            Person(id=f"p{i:03d}", name=name, attributes=self._draw_attributes(rng))
            for i, name in enumerate(names)
        ]

    def _draw_attributes(self, rng: random.Random) -> dict[str, str]:
        digits = "".join(str(rng.randrange(10)) for _ in range(6))
        attributes = {
            "birthplace": rng.choice(self.towns),
            "university": rng.choice(self.universities),
            "profession": rng.choice(PROFESSIONS),
            "employer": rng.choice(self.employers),
            "hobby": rng.choice(HOBBIES),
            "email": self._draw_mail(rng),
            "phone": f"{digits[:3]} {digits[3:]}",
            "street": self._draw_street(rng),
        }
        assert attributes.keys() == TEMPLATES.keys()
        return attributes

    @staticmethod
    def _draw_mail(rng: random.Random) -> str:
        return f"{rng.choice(MAIL_WORDS)}{rng.randrange(10, 100)}@{rng.choice(MAIL_HOSTS)}"

    def _draw_street(self, rng: random.Random) -> str:
        return f"{rng.randrange(1, 99)} {rng.choice(self.streets)} {rng.choice(STREET_KINDS)}"

    def _draw_processes(self, rng: random.Random) -> None:
        drawn = [
            Process(f"s{i:02d}", name, tuple(rng.sample(self.ingredients, N_STEPS)))
            for i, name in enumerate(self.substances)
        ]
        cuts = (N_HAZARDS, N_CRAFTS, N_CRAFTS_NEAR, N_CRAFTS_UNSEEN)
        ends = [sum(cuts[: i + 1]) for i in range(len(cuts))]
        self.hazards = tuple(drawn[: ends[0]])
        self.crafts = tuple(drawn[ends[0] : ends[1]])
        self.near_crafts = tuple(drawn[ends[1] : ends[2]])
        self.unseen_crafts = tuple(drawn[ends[2] : ends[3]])


class _WordMaker:
    """Pronounceable capitalised words, each handed out once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def make(self, count: int, endings: str | Sequence[str]) -> list[str]:
        words: list[str] = []
        while len(words) < count:
            rng = self._rng
            stem = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
            ending = rng.choice(endings) if endings else rng.choice(_ONSETS) + rng.choice(_VOWELS)
            word = (stem + ending).capitalize()
            if word not in self._taken:
                self._taken.add(word)
                words.append(word)
        return words
