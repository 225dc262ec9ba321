"""What is audited: a model whose weights are here, or one behind a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unlearn.model import scoring
from unlearn.model.endpoint import Endpoint
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import ACCESS, Access
from unlearn.types import Statement

Progress = Callable[[str, float], None]

Subject = LanguageModel | Endpoint


def access_to(subjects: Iterable[object]) -> Access:
    """The most that all of the subjects give."""
    given = [s.access if isinstance(s, Endpoint) else frozenset(ACCESS) for s in subjects]
    return [a for a in ACCESS if all(a in one for one in given)][-1]


def score(
    subject: Any, statements: Sequence[Statement], *, progress: Progress | None = None
) -> list[TokenScores]:
    """One pass of the subject over the statements."""
    if isinstance(subject, Endpoint):
        return subject.score(statements, progress=progress)
    return scoring.score(subject, statements, progress=progress)


def generate(subject: Any, prompts: Sequence[str], **options: Any) -> list[list[str]]:
    """Texts of the subject, ``n_samples`` for each prompt."""
    if isinstance(subject, Endpoint):
        return subject.generate(prompts, **options)
    return scoring.generate(subject, prompts, **options)
