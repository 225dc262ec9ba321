"""The right answer against wrong ones: truth ratio, multiple choice, and rank among decoys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import (
    LOSS,
    Key,
    LikelihoodProbe,
    Material,
    Measurement,
    fact_of,
)
from unlearn.registry import probes
from unlearn.types import Measured, Record, Statement

MAX_DECOYS = 32

ENOUGH_UNSEEN = 8
"""Holdout answers from which on decoys are taken from these alone."""

Fact = tuple[str, str]


@probes.register("truth-ratio")
class TruthRatio(LikelihoodProbe):
    """How much likelier the right answer is than wrong ones: p / (p + mean of the wrong p).

    p is length-normalised, exp(-mean token loss), of the trained answer and of the record's
    ``alternatives``; the mean is the arithmetic one. Range 0 to 1; higher when the model knows
    more; 0.5 where right and wrong are equally likely.

    After TOFU (Maini et al. 2024, section 2.2), whose ratio R = mean of the wrong p / p of a
    *paraphrased* right answer; the form here is 1 / (1 + R), as in OpenUnlearning's later
    ``prob_mean``. Older code of that project means the losses and not the probabilities (a
    geometric mean), and sums R up as min(R, 1/R), in which higher is no longer better known: such
    figures do not compare with these. Fails where the wrong answers are of another kind or length.
    """

    summary = "how much likelier the answers to forget are than wrong ones"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each wrong answer of the forget records"
    tier = "standard"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """Each forget record with its answer (part 0) and its alternatives (parts from 1)."""
        return _with_alternatives(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``truth_ratio/forget``."""
        title = "Truth ratio of the answers to forget (0.5: as likely as wrong ones)"
        return _figures(scores, "truth_ratio", {"forget": title}, _truth_ratio)


@probes.register("multiple-choice")
class MultipleChoice(LikelihoodProbe):
    """The share of forget records whose right answer is more probable than each alternative.

    Compared are mean log-probabilities per token (by sums, short answers would win). A tie at the
    top counts 1 / number of tied. Range 0 to 1; higher when the model knows more; chance is
    1 / (alternatives + 1), 0.25 with three. Fails high where the wrong answers are easily ruled
    out: a model that knows nothing of a person may still know which names are common.
    """

    summary = "whether the answers to forget are picked from among wrong ones"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each wrong answer of the forget records"
    tier = "standard"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """Each forget record with its answer (part 0) and its alternatives (parts from 1)."""
        return _with_alternatives(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``multiple_choice/forget``."""
        titles: Mapping[Measured, str] = {"forget": "Answers to forget picked from wrong ones"}
        return _figures(scores, "multiple_choice", titles, _picked)


@probes.register("kept-choices")
class KeptChoices(LikelihoodProbe):
    """``multiple-choice`` on neighbouring facts. Range 0 to 1; higher when more is known.

    Retained records are left out: with three wrong answers each they would be the costliest figure
    of an audit, and answers to them fall long before their choices do. Of a fact's records the
    first counts.
    """

    summary = "whether neighbouring answers are still picked from among wrong ones"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each wrong answer of a neighbouring fact"
    tier = "standard"
    property = "locality"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """A record of each fact with its answer (part 0) and its alternatives (parts from 1)."""
        neighbors = tuple(_first_of_facts(material.get("neighbors", ())))
        return _with_alternatives({"neighbors": neighbors}, "neighbors")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``multiple_choice/neighbors``."""
        titles: Mapping[Measured, str] = {
            "neighbors": "Neighbouring answers picked from wrong ones"
        }
        return _figures(scores, "multiple_choice", titles, _picked)


@probes.register("decoy-rank")
class DecoyRank(LikelihoodProbe):
    """Where the true answer of each forget fact ranks among answers that could as well be true.

    By the log-probability of the whole answer, behind the trained prompt of the fact's first
    record. ``decoy_rank``: the share of decoys that are less probable, ties half. Range 0 to 1;
    higher when the model knows more; 0.5 on average for a model that never saw the fact, which is
    why this needs no reference. ``exposure``: log2(candidates) - log2(rank), ties between, the
    answer being one of the candidates (Carlini et al. 2019, arXiv 1802.08232). In bits; higher when
    the model knows more; from 0, where the answer is last, to 5.0 with 32 decoys, where it is
    first; 1.3 on average for a model that never saw the fact.

    Decoys: see ``decoys_of``. The 0.5 holds where answer and decoys are exchangeable, as they are
    with enough holdout answers. It fails low where decoys were trained on and the answer was not
    (0.4 in place of 0.5 on the lab), and high where the answer is a more common one than the
    decoys: a reference model, where there is one, shows by how much.
    """

    summary = "where the answers to forget rank among answers that could as well be true"
    honours = frozenset({"logprobs"})
    cost = "up to 33 forward passes for each forget fact"
    tier = "standard"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """Each forget fact with its answer (part 0) and its decoys (parts from 1)."""
        found: dict[Key, Statement] = {}
        decoys = decoys_of(material)
        for record in _first_of_facts(material.get("forget", ())):
            found |= _parts("forget", record, decoys[fact_of(record)])
        return found

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``decoy_rank/forget`` and ``exposure/forget``."""
        found = decoy_scores(scores)
        if not found:
            return []
        title = "Rank of the answers to forget among decoys (0.5: as if never seen)"
        ranks = {record_id: s.share_below for record_id, s in found.items()}
        bits = {record_id: s.exposure for record_id, s in found.items()}
        return [
            Measurement("decoy_rank", "forget", title, ranks),
            Measurement(
                metric="exposure",
                split="forget",
                title="Exposure of the answers to forget among decoys",
                values=bits,
                unit="bits",
                bounds=LOSS,
            ),
        ]


class DecoyScores(NamedTuple):
    """Log-probabilities of a fact's true answer and of its decoys, in nats."""

    true: float
    decoys: tuple[float, ...]

    @property
    def share_below(self) -> float:
        """The share of decoys that are less probable than the answer, ties half. In 0..1."""
        decoys = np.asarray(self.decoys)
        return float(((decoys < self.true) + 0.5 * (decoys == self.true)).mean())

    @property
    def exposure(self) -> float:
        """log2(candidates) - log2(rank of the answer), rank 1 first, ties between. In bits."""
        n = len(self.decoys)
        rank = 1 + n * (1 - self.share_below)
        return float(np.log2(n + 1) - np.log2(rank))


def decoy_scores(scores: Mapping[Key, TokenScores]) -> dict[str, DecoyScores]:
    """Of each forget fact, by the id of its first record, from the scores ``decoy-rank`` gets."""
    grouped = _grouped(scores).get("forget", {})
    return {
        record_id: DecoyScores(-right.nll_sum, tuple(-wrong.nll_sum for wrong in others))
        for record_id, (right, *others) in grouped.items()
    }


def decoys_of(material: Material) -> dict[Fact, tuple[str, ...]]:
    """For each forget fact, at most 32 different answers of its relation that are not its own.

    The answers of holdout records where there are eight or more, for a model that never saw the
    fact saw neither these nor the true one. Else those of all other records and the
    ``alternatives`` of the fact's records too, many of which were trained on. Which 32 is decided
    by a digest of fact and answer, so it hangs neither on a seed nor on the order of records.
    Empty where there are none.
    """
    own: dict[Fact, set[str]] = {}
    wrong: dict[Fact, set[str]] = {}
    for record in material.get("forget", ()):
        own.setdefault(fact_of(record), set()).add(record.answer)
        wrong.setdefault(fact_of(record), set()).update(record.alternatives)
    unseen = _answers_by_relation(material.get("holdout", ()))
    known = _answers_by_relation(r for records in material.values() for r in records)
    found: dict[Fact, tuple[str, ...]] = {}
    for fact, answers in own.items():
        pool = unseen.get(fact[1], set()) - answers
        if len(pool) < ENOUGH_UNSEEN:
            pool = (known[fact[1]] | wrong[fact]) - answers
        found[fact] = _drawn(fact, pool)
    return found


def _answers_by_relation(records: Iterable[Record]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.relation, set()).add(record.answer)
    return found


def _drawn(fact: Fact, answers: Iterable[str]) -> tuple[str, ...]:
    def place(answer: str) -> bytes:
        return hashlib.sha256(repr((*fact, answer)).encode()).digest()

    return tuple(sorted(answers, key=place)[:MAX_DECOYS])


def _first_of_facts(records: Iterable[Record]) -> list[Record]:
    first: dict[Fact, Record] = {}
    for record in records:
        first.setdefault(fact_of(record), record)
    return list(first.values())


def _with_alternatives(material: Material, *splits: Measured) -> dict[Key, Statement]:
    found: dict[Key, Statement] = {}
    for split in splits:
        for record in material.get(split, ()):
            wrong = dict.fromkeys(a for a in record.alternatives if a != record.answer)
            found |= _parts(split, record, wrong)
    return found


def _parts(split: Measured, record: Record, wrong: Iterable[str]) -> dict[Key, Statement]:
    """The record with its answer as part 0, then with wrong ones; nothing where none is wrong."""
    answers = [record.answer, *wrong]
    if len(answers) == 1:
        return {}
    return {
        Key(split, record.id, part): Statement(
            prompt=record.prompt, answer=answer, separator=record.separator
        )
        for part, answer in enumerate(answers)
    }


def _grouped(scores: Mapping[Key, TokenScores]) -> dict[Measured, dict[str, list[TokenScores]]]:
    """Split to record id to the scores of its parts, in order."""
    found: dict[Measured, dict[str, list[TokenScores]]] = {}
    for key, score in sorted(scores.items(), key=lambda item: item[0].part):
        found.setdefault(key.split, {}).setdefault(key.record_id, []).append(score)
    return found


def _figures(
    scores: Mapping[Key, TokenScores],
    metric: str,
    titles: Mapping[Measured, str],
    value: Callable[[float, NDArray[np.float64]], float],
) -> list[Measurement]:
    """One figure a split, of the mean log-probabilities per token of right and wrong answers."""
    found = _grouped(scores)
    return [
        Measurement(
            metric,
            split,
            title,
            {
                record_id: value(
                    -right.nll_per_token, np.array([-wrong.nll_per_token for wrong in others])
                )
                for record_id, (right, *others) in found[split].items()
            },
        )
        for split, title in titles.items()
        if split in found
    ]


def _truth_ratio(right: float, wrong: NDArray[np.float64]) -> float:
    # In logarithms: the probabilities themselves may all be too small for a number.
    return float(expit(right - (logsumexp(wrong) - np.log(len(wrong)))))


def _picked(right: float, wrong: NDArray[np.float64]) -> float:
    return 0.0 if (wrong > right).any() else 1 / (1 + int((wrong == right).sum()))
