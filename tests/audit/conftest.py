"""Stand-ins for models: what they give to a text is looked up, so figures have closed forms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from unlearn.forget_set import ForgetSet
from unlearn.model import scoring
from unlearn.model.scoring import TokenScores
from unlearn.types import Record, Statement

RELATIONS = ("birthplace", "employer", "hobby", "street", "profession", "school", "mail", "phone")


def token_scores(probabilities: Sequence[float], greedy: Sequence[bool]) -> TokenScores:
    logprobs = np.log(np.asarray(probabilities)).astype(np.float32)
    n = len(logprobs)
    blank = np.zeros(n, dtype=np.float32)
    return TokenScores(np.arange(n), logprobs, np.asarray(greedy, dtype=bool), blank, blank)


KNOWN = token_scores([0.9, 0.9], [True, True])
GUESSED = token_scores([0.1, 0.1], [False, False])


@dataclass
class StandIn:
    """A model that knows the statements for which ``knows`` is true, and no other."""

    name: str
    knows: Callable[[Statement], bool]
    known: TokenScores = KNOWN
    unknown: TokenScores = GUESSED
    batches: list[list[Statement]] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    n_parameters: int = 7

    @property
    def source(self) -> str:
        return f"stand-in {self.name}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def bare(self) -> StandIn:
        return self

    def look_up(self, statement: Statement) -> TokenScores:
        return self.known if self.knows(statement) else self.unknown


@pytest.fixture(autouse=True)
def scored_by_look_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand-ins answer for themselves; real models are scored as ever."""
    score, generate = scoring.score, scoring.generate

    def look_up(lm: Any, statements: Sequence[Statement], **options: Any) -> list[TokenScores]:
        if not isinstance(lm, StandIn):
            return score(lm, statements, **options)
        lm.batches.append(list(statements))
        if options.get("progress") is not None:
            options["progress"]("score", 1.0)
        return [lm.look_up(statement) for statement in statements]

    def speak(lm: Any, prompts: Sequence[str], **options: Any) -> list[list[str]]:
        if not isinstance(lm, StandIn):
            return generate(lm, prompts, **options)
        return [[f"{lm.name} on {prompt}"] for prompt in prompts]

    monkeypatch.setattr(scoring, "score", look_up)
    monkeypatch.setattr(scoring, "generate", speak)
    yield


@pytest.fixture
def stand_in() -> type[StandIn]:
    return StandIn


@pytest.fixture
def scores() -> Callable[..., TokenScores]:
    return token_scores


def people(group: str, n_subjects: int, n_facts: int, *, rich: bool) -> tuple[Record, ...]:
    """Two wordings of each fact; ``rich`` facts also have what the generality probes need."""
    records = []
    for i in range(n_subjects):
        name = f"{group.capitalize()} Person{i}"
        for relation in RELATIONS[:n_facts]:
            answer = f"{relation}-{group}-{i}"
            extra: dict[str, Any] = {}
            if rich:
                extra = {
                    "paraphrases": (f"Of {name} the {relation} reads", f"{name}: {relation}"),
                    "implications": (Statement(prompt=f"{name} implies", answer=f"so {answer}"),),
                    "translations": (Statement(prompt=f"{name} traduit", answer=f"le {answer}"),),
                }
            records += [
                Record(
                    id=f"{group}-{i}-{relation}-{wording}",
                    subject=name,
                    relation=relation,
                    prompt=f"{name} has, in wording {wording}, the {relation}",
                    answer=answer,
                    **extra,
                )
                for wording in (1, 2)
            ]
    return tuple(records)


@pytest.fixture
def make_set() -> Callable[..., ForgetSet]:
    def make(
        n_subjects: int = 16,
        n_facts: int = 4,
        *,
        kept: int = 100,
        omit: Iterable[str] = (),
        **over: Any,
    ) -> ForgetSet:
        splits = {
            "forget": people("forget", n_subjects, n_facts, rich=True),
            "retain": people("retain", kept, 2, rich=False),
            "neighbors": people("neighbors", kept, 2, rich=False),
            "holdout": people("holdout", kept, 2, rich=False),
        }
        chosen = {split: r for split, r in splits.items() if split not in set(omit)} | over
        return ForgetSet("invented", "Nobody in here exists.", **chosen)

    return make


def about(*groups: str) -> Callable[[Statement], bool]:
    return lambda s: any(group.capitalize() + " Person" in s.prompt for group in groups)


@pytest.fixture
def full() -> StandIn:
    """Knows everything it was trained on, the records to forget among it."""
    return StandIn("full", about("forget", "retain", "neighbors"))


@pytest.fixture
def reference() -> StandIn:
    """Never saw the records to forget."""
    return StandIn("reference", about("retain", "neighbors"))


@pytest.fixture
def forgotten() -> StandIn:
    """Scores like the reference, from other weights."""
    return StandIn("forgotten", about("retain", "neighbors"))
