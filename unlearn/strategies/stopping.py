"""When to stop: unlearning should match ignorance, not maximise loss.

A model that never saw somebody gives the answers about them some likelihood; pushing further is a
trace of its own. So every forget record has a target: for each of its tokens what the model guesses
for names it never met, or else what it makes of records of the same relation about people whom it
was not trained on. Training ends once the worst record is there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores, score
from unlearn.strategies.counterfactual import TOLERANCE, Guess
from unlearn.strategies.extraction import Comparison, ExtractionRule
from unlearn.types import Record, Statement

FALLBACK_AGREEMENT = 0.5
"""The agreement that counts as forgotten where no holdout says what guessing achieves."""


GUESSES_OF_KNOWN_NAMES = (
    "no holdout split names anybody the model never met, so the targets are what it says of retain "
    "names, which may be off"
)


class Target(NamedTuple):
    """What a record looks like to a model that never saw it."""

    nll_per_token: float
    """At least this many nats per token of the answer."""
    agreement: float
    """At most this share of the answer's tokens is the likeliest one, those before it given."""
    guess: npt.NDArray[np.float64] | None = None
    """Per answer token: at most this log-probability, ``TOLERANCE`` allowed; None where unknown."""


class Targets(NamedTuple):
    """One target per forget record, and where they come from."""

    records: tuple[Target, ...]
    origin: str
    warning: str = ""


def find_targets(
    model: LanguageModel,
    forget_set: ForgetSet,
    agreement_quantile: float,
    min_holdout: int,
    guessed: Sequence[Guess | None] = (),
) -> Targets:
    """The target of each forget record, measured on the original model.

    A record with a guess (its own prompt about unseen names): that guess. For the others, with a
    holdout split: the mean NLL per token of the holdout records of the same relation, and
    the ``agreement_quantile`` of their agreement; of the whole split for a relation with fewer than
    ``min_holdout`` records. Without one: the mean NLL per token of the record's own wrong
    alternatives, at most ``ln(vocabulary)``, and that bound for a record without alternatives.
    """
    if guessed and all(guess is not None for guess in guessed):
        found = tuple(_target_of_guess(guess) for guess in guessed if guess)
        if forget_set.holdout:
            return Targets(found, "unseen names")
        return Targets(found, "retain names", GUESSES_OF_KNOWN_NAMES)
    targets = _targets_from_others(model, forget_set, agreement_quantile, min_holdout)
    own = [guess and _target_of_guess(guess) for guess in guessed] or [None] * len(targets.records)
    mixed = (a or b for a, b in zip(own, targets.records, strict=True))
    return targets._replace(records=tuple(mixed))


def _target_of_guess(guess: Guess) -> Target:
    return Target(-float(guess.logprobs.mean()), guess.agreement, guess.logprobs)


def _targets_from_others(
    model: LanguageModel, forget_set: ForgetSet, agreement_quantile: float, min_holdout: int
) -> Targets:
    if not forget_set.holdout:
        return _targets_from_alternatives(model, forget_set.forget)
    by_relation: dict[str, list[TokenScores]] = {}
    scores = score(model, forget_set.holdout)
    for record, scored in zip(forget_set.holdout, scores, strict=True):
        by_relation.setdefault(record.relation, []).append(scored)
    overall = _target(scores, agreement_quantile)
    of_relation = {
        relation: _target(found, agreement_quantile)
        for relation, found in by_relation.items()
        if len(found) >= min_holdout
    }
    records = tuple(of_relation.get(record.relation, overall) for record in forget_set.forget)
    return Targets(records, f"{len(scores)} holdout records")


def _target(scores: Sequence[TokenScores], agreement_quantile: float) -> Target:
    agreement = [scored.exact_memorisation for scored in scores]
    nll = float(np.mean([scored.nll_per_token for scored in scores]))
    # The next value up and not an interpolation: agreements are shares of a few tokens.
    return Target(nll, float(np.quantile(agreement, agreement_quantile, method="higher")))


def _targets_from_alternatives(model: LanguageModel, records: Sequence[Record]) -> Targets:
    uniform = math.log(model.vocabulary_size)
    owners, statements = [], []
    for index, record in enumerate(records):
        for answer in record.alternatives:
            owners.append(index)
            statements.append(
                Statement(prompt=record.prompt, answer=answer, separator=record.separator)
            )
    found: dict[int, list[float]] = {}
    for index, scored in zip(owners, score(model, statements), strict=True):
        found.setdefault(index, []).append(scored.nll_per_token)
    # Who knows the right answer finds the wrong ones less likely than who knows nothing.
    nll = {index: min(float(np.mean(values)), uniform) for index, values in found.items()}
    return Targets(
        tuple(Target(nll.get(i, uniform), FALLBACK_AGREEMENT) for i in range(len(records))),
        f"wrong alternatives of {len(found)} of {len(records)} records",
        "no holdout split says what ignorance looks like, so the targets are a guess from wrong "
        "alternatives and may be too high",
    )


@dataclass(frozen=True)
class Evaluation:
    """The forget records and a sample of the retain records at one step."""

    step: int
    targets: tuple[Target, ...]
    nll_per_token: npt.NDArray[np.float64]
    agreement: npt.NDArray[np.float64]
    retain_nll: float | None
    """Mean NLL per token over the retain sample; None without a retain split."""
    token_gaps: npt.NDArray[np.float64] | None = None
    """Per record: its gap by tokens, NaN where its target holds no guess."""
    extraction: Comparison | None = None
    """How much of the forget records comes back, where that decides."""

    @cached_property
    def gaps(self) -> npt.NDArray[np.float64]:
        """Per record: how far it is from ignorance, 0 once it is there, 1 if as good as certain.

        By tokens where the target holds a guess, because one token that has become impossible
        hides the others in a mean. Else the missing share of the target NLL plus the excess of the
        agreement.
        """
        nll = np.array([target.nll_per_token for target in self.targets])
        agreement = np.array([target.agreement for target in self.targets])
        missing = np.clip(nll - self.nll_per_token, 0, None) / np.maximum(nll, 1e-9)
        excess: npt.NDArray[np.float64] = missing + np.clip(self.agreement - agreement, 0, None)
        if self.token_gaps is None:
            return excess
        return np.where(np.isnan(self.token_gaps), excess, self.token_gaps)

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """Per record: whether nothing is left to forget."""
        matched: npt.NDArray[np.bool_] = self.gaps == 0
        return matched

    @property
    def forgotten(self) -> bool:
        """Whether training has done its work: all records match, or no more comes back."""
        return self.gap == 0 if self.extraction is not None else bool(self.matched.all())

    @property
    def left(self) -> str:
        """What there is left to forget, in a clause."""
        if self.extraction is not None:
            return str(self.extraction)
        return f"{int((~self.matched).sum())} records are left"

    @property
    def gap(self) -> float:
        """Mean gap and worst gap in equal parts: one record that is still known keeps it high.

        Under an extraction rule the excess of EL_n and MA over those of unseen records.
        """
        if self.extraction is not None:
            return self.extraction.excess
        return float(self.gaps.mean() + self.gaps.max()) / 2

    @property
    def overshoot(self) -> float:
        """Nats per token by which records lie above their target, on average: over-unlearning."""
        nll = np.array([target.nll_per_token for target in self.targets])
        return float(np.clip(self.nll_per_token - nll, 0, None).mean())

    def summary(self) -> dict[str, Any]:
        """The figures for the step log."""
        return {
            **(self.extraction.summary() if self.extraction is not None else {}),
            "forget_nll_mean": float(self.nll_per_token.mean()),
            "forget_nll_min": float(self.nll_per_token.min()),
            "matched": float(self.matched.mean()),
            "overshoot": self.overshoot,
            "gap": self.gap,
            "retain_nll": self.retain_nll,
        }


class Evaluator(NamedTuple):
    """Measures a model on the forget records and a fixed sample of the retain records."""

    forget: tuple[Record, ...]
    retain: tuple[Record, ...]
    targets: tuple[Target, ...]
    extraction: ExtractionRule | None = None

    def __call__(self, model: LanguageModel, step: int) -> Evaluation:
        """The state of ``model`` now, from one forward pass per record and what a rule adds."""
        scores = score(model, [*self.forget, *self.retain])
        forget, retain = scores[: len(self.forget)], scores[len(self.forget) :]
        return Evaluation(
            step,
            self.targets,
            np.array([scored.nll_per_token for scored in forget]),
            np.array([scored.exact_memorisation for scored in forget]),
            float(np.mean([scored.nll_per_token for scored in retain])) if retain else None,
            np.array([_token_gap(*pair) for pair in zip(forget, self.targets, strict=True)]),
            None if self.extraction is None else self.extraction(model, forget),
        )


def _token_gap(scored: TokenScores, target: Target) -> float:
    """The share of the way to ignorance that the tokens still have to go, NaN without a guess."""
    if target.guess is None or len(target.guess) != len(scored.logprobs):
        return math.nan
    excess = np.clip(scored.logprobs - target.guess - TOLERANCE, 0, None).sum()
    return float(excess / max(-target.guess.sum(), TOLERANCE))


class Budget(NamedTuple):
    """What training may cost at most."""

    max_steps: int
    max_tokens: int | None = None
    max_seconds: float | None = None

    def spent(self, steps: int, tokens: int, seconds: float) -> str | None:
        """Which budget is used up, or None."""
        if steps >= self.max_steps:
            return f"budget: {self.max_steps} steps"
        if self.max_tokens is not None and tokens >= self.max_tokens:
            return f"budget: {self.max_tokens} tokens"
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return f"budget: {self.max_seconds:g} seconds"
        return None


class Ceiling(NamedTuple):
    """How far the retain NLL may rise: ``start + rise * max(start, floor)`` nats per token.

    The floor keeps a well memorised retain split, whose NLL is near 0, from making every rise look
    large.
    """

    rise: float
    floor: float
    patience: int
    """Evaluations in a row above it that end training."""

    def limit(self, start: float | None) -> float:
        """The highest retain NLL allowed, given that of the original."""
        return math.inf if start is None else start + self.rise * max(start, self.floor)


@dataclass
class StopRule:
    """Follows a run of evaluations: says when to stop and which one was best.

    The best evaluation is the one with the lowest gap among those under the retain ceiling; the
    first of equals, because going on is over-unlearning. Without ``match`` the latest one is best.
    """

    match: bool
    """Whether training ends once everything is forgotten, and not with a budget alone."""
    budget: Budget
    ceiling: Ceiling
    can_repair: bool
    """Whether a retain term can bring the retain NLL down again."""
    best: Evaluation | None = None
    strikes: int = 0
    started: float = field(default_factory=time.monotonic)
    limit: float = math.inf

    def seconds(self) -> float:
        """Since the rule was made."""
        return time.monotonic() - self.started

    def is_best(self, evaluation: Evaluation) -> bool:
        """Whether to keep this state; the first evaluation is that of the original."""
        if self.best is None:
            self.limit = self.ceiling.limit(evaluation.retain_nll)
        elif self._above(evaluation) or (self.match and evaluation.gap >= self.best.gap):
            return False
        self.best = evaluation
        return True

    def reason(self, evaluation: Evaluation) -> str | None:
        """Why training ends at this evaluation, or None; budgets are asked separately."""
        above = self._above(evaluation)
        self.strikes = self.strikes + 1 if above else 0
        done = self.match and evaluation.forgotten
        if done and not above:
            if evaluation.extraction is not None:
                return f"extraction: {evaluation.left}"
            return "matched: every forget record looks like one that was never trained on"
        if above and (self.strikes >= self.ceiling.patience or (done and not self.can_repair)):
            return f"retain ceiling: retain NLL above {self.limit:.3g} nats per token"
        return None

    def _above(self, evaluation: Evaluation) -> bool:
        return evaluation.retain_nll is not None and evaluation.retain_nll > self.limit
