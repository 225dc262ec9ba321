"""What a probe is: what it needs of a model, and the figures it makes of that.

There are four kinds, by what they look at. None of them decides anything: a probe gives figures,
record by record; intervals, margins and verdicts are the auditor's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import Progress, TokenScores
from unlearn.types import Measured, Record, Role, Statement

Material = Mapping[Measured, tuple[Record, ...]]
"""The records an audit measures, by split; a split without records is absent."""

Property = Literal["accuracy", "generality", "portability", "locality", "efficiency"]
Tier = Literal["smoke", "standard", "deep"]
Access = Literal["text", "logprobs", "logits", "weights"]

TIERS: tuple[Tier, ...] = ("smoke", "standard", "deep")
"""Each tier runs the probes of those before it, and more."""

ACCESS: tuple[Access, ...] = ("text", "logprobs", "logits", "weights")
"""What one can have of a model, least first; whoever has one has those before it."""

SHARE = (0.0, 1.0)
LOSS = (0.0, math.inf)
UNBOUNDED = (-math.inf, math.inf)

Summary = Literal["mean", "auc", "tpr"]
"""What the figure of a measurement is: the mean of its values; the probability that a value lies
above one of its ``contrast`` (ties count half); or the share of values above all but 1 % of the
contrast."""


class Key(NamedTuple):
    """What a statement or prompt is asked for: a record, and which of its parts."""

    split: Measured
    record_id: str
    part: int = 0


class Curve(NamedTuple):
    """A figure along something: layers, steps of an attack, samples drawn."""

    axis: str
    """What the first number of a point counts, for example ``training steps``."""
    points: tuple[tuple[float, float], ...]


class Measurement(NamedTuple):
    """One figure of one model on one split, record by record."""

    metric: str
    split: Measured
    title: str
    values: Mapping[str, float]
    """Record id to figure. Statements that records of a fact share count once, for the first."""
    unit: str = ""
    more_knowledge: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = SHARE
    """The smallest and the largest value a record can have."""
    contrast: Mapping[str, float] | None = None
    """Holdout record id to its value, for ``auc`` and ``tpr``. Higher values must mean "more like a
    member": 0.5 tells nothing, below 0.5 the forget records look less known than unseen ones."""
    summary: Summary = "mean"
    curve: Curve | None = None


class Probe(ABC):
    """One measurement of a model on a forget set. Subclass one of the four kinds below."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for ``unlearn list probes``."""
    honours: ClassVar[frozenset[str]]
    """The access to the model it needs: one of ``ACCESS``, or ``none``."""
    cost: ClassVar[str]
    """What it adds to an audit, in plain words."""
    tier: ClassVar[Tier]
    """The first tier that runs it."""
    property: ClassVar[Property]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Roles (``original``, ``reference``) and splits without which it has nothing to measure."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Probes without whose figures its own cannot be read; whoever picks it runs them too."""


class LikelihoodProbe(Probe):
    """Reads what a model gives to the tokens of statements.

    It never calls a model. It names the statements it needs, the auditor scores the union of all
    probes' statements in one pass, and each probe turns its share into figures.
    """

    @abstractmethod
    def statements(self, material: Material) -> dict[Key, Statement]:
        """What has to be scored; empty where the records carry nothing of this kind."""

    @abstractmethod
    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """The figures, from the scores of exactly the statements that were asked for."""


class Drawing(NamedTuple):
    """How texts are drawn from a model. Probes with equal prompts and drawings share the texts."""

    n_samples: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0


class GenerationProbe(Probe):
    """Reads what a model writes. The texts of equal prompts are shared between probes."""

    drawing: ClassVar[Drawing]

    @abstractmethod
    def prompts(self, material: Material) -> dict[Key, str]:
        """What the model is to continue; empty where the records carry nothing of this kind."""

    @abstractmethod
    def measure(self, texts: Mapping[Key, Sequence[str]], material: Material) -> list[Measurement]:
        """The figures, from ``drawing.n_samples`` continuations of each prompt."""


@dataclass(frozen=True)
class Bench:
    """What a probe of models may use."""

    models: Mapping[Role, LanguageModel]
    """``unlearned`` always; the others where they were given. One model may play two roles."""
    material: Material
    seed: int = 0
    progress: Progress | None = None

    def by_digest(self) -> dict[str, tuple[LanguageModel, tuple[Role, ...]]]:
        """Each distinct model once, with its roles, so that no work is done twice."""
        found: dict[str, tuple[LanguageModel, tuple[Role, ...]]] = {}
        for role, lm in self.models.items():
            _, roles = found.get(lm.digest, (lm, ()))
            found[lm.digest] = (lm, (*roles, role))
        return found


class ModelProbe(Probe):
    """Works on the models themselves: trains copies, reads hidden states, compares two models.

    It gets their weights without the instruction that one may be served with.
    """

    bare_only: ClassVar[bool] = False
    """Whether its figures would be untrue of a model that is served with an instruction."""

    @abstractmethod
    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """The figures by role, in the same order for each role that has any.

        Every model is left as it was, also after an error.
        """


class RecordProbe(Probe):
    """Looks at the records only, at no model."""

    @abstractmethod
    def measure(self, material: Material, seed: int) -> list[Measurement]:
        """The figures; they say nothing of any model, only of what others can be worth."""


def trained_statements(material: Material, *splits: Measured) -> dict[Key, Statement]:
    """Prompt and answer of every record of the splits."""
    return {Key(split, r.id): r for split in splits for r in material.get(split, ())}


def attached_statements(
    records: Iterable[Record], split: Measured, pick: Callable[[Record], Iterable[Statement]]
) -> dict[Key, Statement]:
    """What ``pick`` finds in each record, each statement once per fact.

    The records of one fact usually repeat the same held-out prompts; counting each copy would only
    feign precision. A trained prompt with its answer is left out: it is not held out.
    """
    records = tuple(records)
    trained = {content(record) for record in records}
    seen: set[tuple[str, str, str, str]] = set()
    found: dict[Key, Statement] = {}
    for record in records:
        for part, statement in enumerate(pick(record)):
            known_as = (record.subject, record.relation, *content(statement))
            if content(statement) not in trained and known_as not in seen:
                seen.add(known_as)
                found[Key(split, record.id, part)] = statement
    return found


def content(statement: Statement) -> tuple[str, str]:
    """What a model reads of a statement: equal contents need one pass."""
    return statement.prompt, statement.completion


def fact_of(record: Record) -> tuple[str, str]:
    """What a record says something about: a subject and a relation."""
    return record.subject, record.relation


def record_means(
    scores: Mapping[Key, TokenScores], value: Callable[[TokenScores], float]
) -> dict[Measured, dict[str, float]]:
    """Split to record id to the mean of ``value`` over the record's statements."""
    collected: dict[Measured, dict[str, list[float]]] = {}
    for key, score in scores.items():
        of_record = collected.setdefault(key.split, {}).setdefault(key.record_id, [])
        of_record.append(float(value(score)))
    return {
        split: {record_id: float(np.mean(values)) for record_id, values in of_split.items()}
        for split, of_split in collected.items()
    }
