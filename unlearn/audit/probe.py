"""What a probe is: the statements it needs scored, and the figures it makes of their scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from unlearn.model.scoring import TokenScores
from unlearn.types import Record, Split, Statement

Material = Mapping[Split, tuple[Record, ...]]
"""The records an audit measures, by split; a split without records is absent."""

Property = Literal["accuracy", "generality", "portability", "locality", "efficiency"]

SHARE = (0.0, 1.0)
LOSS = (0.0, math.inf)


class Key(NamedTuple):
    """What a statement is asked for: a record, and which of its statements."""

    split: Split
    record_id: str
    part: int = 0


class Measurement(NamedTuple):
    """One figure of one model on one split, record by record."""

    metric: str
    split: Split
    title: str
    values: Mapping[str, float]
    """Record id to figure. Statements that records of a fact share count once, for the first."""
    unit: str = ""
    more_knowledge: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = SHARE
    """The smallest and the largest value a record can have."""


class Probe(ABC):
    """One measurement of a model on a forget set.

    A probe never calls a model. It names the statements it needs, the auditor scores the union of
    all probes' statements in one pass, and each probe turns its share into figures.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    honours: ClassVar[frozenset[str]]
    """The access to the model it needs."""
    cost: ClassVar[str]
    """What it adds to an audit, in plain words."""
    tiers: ClassVar[frozenset[str]]
    property: ClassVar[Property]

    @abstractmethod
    def statements(self, material: Material) -> dict[Key, Statement]:
        """What has to be scored; empty where the records carry nothing of this kind."""

    @abstractmethod
    def measure(self, scores: Mapping[Key, TokenScores]) -> list[Measurement]:
        """The figures, from the scores of exactly the statements that were asked for."""


def trained_statements(material: Material, *splits: Split) -> dict[Key, Statement]:
    """Prompt and answer of every record of the splits."""
    return {Key(split, r.id): r for split in splits for r in material.get(split, ())}


def attached_statements(
    records: Iterable[Record], split: Split, pick: Callable[[Record], Iterable[Statement]]
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


def record_means(
    scores: Mapping[Key, TokenScores], value: Callable[[TokenScores], float]
) -> dict[Split, dict[str, float]]:
    """Split to record id to the mean of ``value`` over the record's statements."""
    collected: dict[Split, dict[str, list[float]]] = {}
    for key, score in scores.items():
        of_record = collected.setdefault(key.split, {}).setdefault(key.record_id, [])
        of_record.append(float(value(score)))
    return {
        split: {record_id: float(np.mean(values)) for record_id, values in of_split.items()}
        for split, of_split in collected.items()
    }
