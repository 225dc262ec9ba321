"""What is audited: a model whose weights are here, or one that is only served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from unlearn.model import scoring
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import ACCESS, Access
from unlearn.types import Statement

Progress = Callable[[str, float], None]


@runtime_checkable
class Served(Protocol):
    """A model that answers for itself, as an endpoint does."""

    access: frozenset[str]

    def score(
        self, statements: Sequence[Statement], *, progress: Progress | None = None
    ) -> list[TokenScores]:
        """What ``unlearn.model.scoring.score`` gives."""

    def generate(self, prompts: Sequence[str], **options: Any) -> list[list[str]]:
        """What ``unlearn.model.generation.generate`` gives."""


Subject = LanguageModel | Served


def access_to(subjects: Iterable[object]) -> Access:
    """The most that all of the subjects give."""
    given = [s.access if isinstance(s, Served) else frozenset(ACCESS) for s in subjects]
    return [a for a in ACCESS if all(a in one for one in given)][-1]


def score(
    subject: Any, statements: Sequence[Statement], *, progress: Progress | None = None
) -> list[TokenScores]:
    """One pass of the subject over the statements."""
    if isinstance(subject, Served):
        return subject.score(statements, progress=progress)
    return scoring.score(subject, statements, progress=progress)


def generate(subject: Any, prompts: Sequence[str], **options: Any) -> list[list[str]]:
    """Texts of the subject, ``n_samples`` for each prompt."""
    if isinstance(subject, Served):
        return subject.generate(prompts, **options)
    return scoring.generate(subject, prompts, **options)
