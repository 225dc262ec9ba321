"""The stop rule of Jang et al.: records come back no more than text that was never seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.extraction import extraction_likelihood
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.model.scoring import TokenScores, score

ROUNDING = 1e-6
"""Means of shares of few tokens: a rounding error must not decide."""


class Extraction(NamedTuple):
    """How much of some records comes back, as means over the records, in 0..1."""

    likelihood: float
    """EL_n: n-grams that greedy decoding reproduces, over the prefixes of an answer."""
    memorisation: float
    """MA: answer tokens that are the likeliest one, the true ones before them given."""


class Comparison(NamedTuple):
    """What comes back of the forget records beside what does of unseen ones."""

    n: int
    forget: Extraction
    unseen: Extraction

    @property
    def excess(self) -> float:
        """By how much the two figures lie above those of unseen records; 0 where neither does."""
        above = [mine - other for mine, other in zip(self.forget, self.unseen, strict=True)]
        return sum(part for part in above if part > ROUNDING)

    def summary(self) -> dict[str, Any]:
        """The figures for the step log."""
        return {
            "extraction_likelihood": self.forget.likelihood,
            "memorisation_accuracy": self.forget.memorisation,
            "unseen_extraction_likelihood": self.unseen.likelihood,
            "unseen_memorisation_accuracy": self.unseen.memorisation,
        }

    def __str__(self) -> str:
        """Both figures of both, in a clause."""
        return (
            f"EL_{self.n} {self.forget.likelihood:.3f} and MA {self.forget.memorisation:.3f} of "
            f"the forget records, {self.unseen.likelihood:.3f} and {self.unseen.memorisation:.3f} "
            "of unseen ones"
        )


class ExtractionRule(NamedTuple):
    """Measures EL_n and MA, and knows what they are on unseen records.

    Jang et al. 2023, arXiv:2210.01504, sec. 3.2: a sequence is forgotten once both are at most
    their means over data that the model never saw, which here is the holdout split, measured on the
    original. For the forget records too the mean decides: single records may still come back.
    """

    n: int
    forget: tuple[Encoding, ...]
    unseen: Extraction

    @classmethod
    def of(cls, original: LanguageModel, forget_set: ForgetSet, n: int) -> ExtractionRule:
        """The rule for a forget set.

        Raises:
            UnsupportedError: there is no holdout split.
        """
        if not forget_set.holdout:
            raise UnsupportedError(
                "stop=extraction compares the forget records with unseen ones, the holdout split, "
                f"which forget set {forget_set.name!r} lacks; add holdout.jsonl, or set stop=match"
            )
        holdout = encode(original, forget_set.holdout)
        unseen = measure(original, holdout, score(original, forget_set.holdout), n)
        return cls(n, tuple(encode(original, forget_set.forget)), unseen)

    def __call__(self, model: LanguageModel, scores: Sequence[TokenScores]) -> Comparison:
        """Of the forget records, whose scores by ``model`` are given."""
        return Comparison(self.n, measure(model, self.forget, scores, self.n), self.unseen)


def measure(
    model: LanguageModel, encodings: Sequence[Encoding], scores: Sequence[TokenScores], n: int
) -> Extraction:
    """EL_n and MA, means over the records."""
    return Extraction(
        float(np.mean(extraction_likelihood(model, encodings, n))),
        float(np.mean([scored.exact_memorisation for scored in scores])),
    )
