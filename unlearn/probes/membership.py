"""Membership attacks that read the answers' token probabilities: which records look trained on?

Every attack gives each record a member score, and the score of a forget record is set against those
of holdout records, which no model was trained on. One sign everywhere: a higher score looks more
like a training member. The figure is

    AUC = P(score of a forget record > score of a holdout record), ties count half.

0.5 tells nothing: the forget records look like unseen ones. Above: they still look trained on.
Below: they look conspicuously unlike unseen text, which gives them away as well (forgetting went
too far). Some have a second figure, the share of forget records that score above all but 1 % of the
holdout records; by chance 1 %, and coarse where there are fewer than 100 holdout records.

Known failure of all: where forget and holdout records differ by themselves, in wording or topic, an
attack measures that (Meeus et al. 2024, arXiv 2406.17975). ``blind-baseline`` shows it, so every
attack requires it. Scores are of the answer given its prompt, not of the prompt: strategies forget
answers. Short answers are few tokens, on which the attacks hardly differ.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from unlearn.model.prefixes import LINK
from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import (
    UNBOUNDED,
    Key,
    LikelihoodProbe,
    Material,
    Measurement,
    trained_statements,
)
from unlearn.registry import probes
from unlearn.types import Measured, Record, Statement

SIDES: tuple[Measured, ...] = ("forget", "holdout")

LOWEST_SHARE = 0.4
"""The share of tokens that Min-K% and Min-K%++ look at, as in MUSE and OpenUnlearning."""

STD_FLOOR = 1e-6
"""Least standard deviation of log p: below it float32 leaves only rounding of it."""

LOSS_FLOOR = 1e-6
"""Least loss of a ratio, in nats per token: below it float32 leaves only rounding of it."""

PREFIX_RECORDS = 3
PREFIX_CHARACTERS = 200
"""What a ReCaLL prefix may add to a text, so that texts of usual length stay within the context."""

MemberScores = Mapping[Measured, Mapping[str, float]]
"""Split (``forget`` and ``holdout``) to record id to member score."""


def membership_figures(
    attack: str, title: str, scores: MemberScores, *, tpr: bool = False
) -> list[Measurement]:
    """``membership_<attack>/forget``, and ``membership_<attack>_tpr/forget`` if asked for.

    Nothing where either side has no scores.
    """
    forget, holdout = scores.get("forget"), scores.get("holdout")
    if not forget or not holdout:
        return []
    auc = Measurement(
        metric=f"membership_{attack}",
        split="forget",
        title=f"Membership by {title} (AUC; 0.5 tells nothing, above: looks trained on)",
        values=forget,
        bounds=UNBOUNDED,
        contrast=holdout,
        summary="auc",
    )
    if not tpr:
        return [auc]
    at_1_percent = auc._replace(
        metric=f"membership_{attack}_tpr",
        title=f"Membership by {title} (share above 99 % of unseen records; 1 % tells nothing)",
        summary="tpr",
    )
    return [auc, at_1_percent]


class MembershipAttack(LikelihoodProbe):
    """An attack whose member score of a record comes from the record's own token scores."""

    attack: ClassVar[str]
    """What the figures are called: ``membership_<attack>``."""
    title: ClassVar[str]
    tpr: ClassVar[bool] = False
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each forget and holdout record, shared with other probes"
    tier = "standard"
    property = "accuracy"
    needs = frozenset({"holdout"})
    requires = frozenset({"blind-baseline"})

    @abstractmethod
    def member_score(self, score: TokenScores, record: Record) -> float:
        """Higher: looks more like a training member."""

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The forget records as they were trained, and the holdout records."""
        return trained_statements(material, *SIDES)

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``membership_<attack>/forget``, of some also ``membership_<attack>_tpr/forget``."""
        found: dict[Measured, dict[str, float]] = {}
        for split in SIDES:
            found[split] = {
                record.id: float(self.member_score(scores[Key(split, record.id)], record))
                for record in material.get(split, ())
            }
        return membership_figures(self.attack, self.title, found, tpr=self.tpr)


@probes.register("membership-loss")
class LossAttack(MembershipAttack):
    """AUC of ``- mean token loss`` of the answer. Above 0.5: looks trained on; two-sided.

    Yeom et al. 2018 (arXiv 1709.01604). Fails where records differ in how easy they are to guess.
    """

    summary = "whether the answers to forget have a lower loss than those of unseen records"
    attack = "loss"
    title = "loss"
    tpr = True

    def member_score(self, score: TokenScores, record: Record) -> float:
        """Minus nats per token."""
        return -score.nll_per_token


@probes.register("membership-zlib")
class ZlibAttack(MembershipAttack):
    """AUC of ``- mean token loss / zlib size of the answer in bytes``. Above 0.5: looks trained on.

    Carlini et al. 2021 (arXiv 2012.07805), section 5.2: a loss that is low only because the text
    is repetitive counts less. Fails on short answers, where zlib's header of eight bytes is most of
    the size and the attack favours long answers.
    """

    summary = "the same, with the loss set against how far the answer can be compressed"
    attack = "zlib"
    title = "loss per compressed byte"

    def member_score(self, score: TokenScores, record: Record) -> float:
        """Minus nats per token and compressed byte."""
        return -score.nll_per_token / len(zlib.compress(record.answer.encode()))


@probes.register("membership-min-k")
class MinKAttack(MembershipAttack):
    """AUC of the mean of the lowest 40 % of token log-probabilities. Above 0.5: looks trained on.

    Shi et al. 2024 (arXiv 2310.16789), Min-K% Prob, at the 40 % of MUSE. floor(0.4 T) tokens, but
    at least one: on answers of up to four tokens it is the lowest log-probability.
    """

    summary = "whether the least probable tokens of the answers to forget are less surprising"
    attack = "min_k"
    title = "Min-40 %"
    tpr = True

    def member_score(self, score: TokenScores, record: Record) -> float:
        """Mean of the lowest log-probabilities, in nats."""
        return lowest_mean(score.logprobs.astype(np.float64))


@probes.register("membership-min-k-plus-plus")
class MinKPlusPlusAttack(MembershipAttack):
    """AUC of the mean of the lowest 40 % of standardised log-probabilities. Above 0.5: trained on.

    z = (log p(token) - mean) / standard deviation, both of log p under the model's own prediction:
    Zhang et al. 2025 (arXiv 2404.02936), Min-K%++. Where the model is all but certain the
    deviation is taken as 1e-6 at least. Fails on memorised answers of one token: certain tokens
    have z near 0, and a merely likely first choice has more.
    """

    summary = "Min-K with each token set against what the model expected there"
    honours = frozenset({"logits"})
    attack = "min_k_plus_plus"
    title = "Min-40 %++"

    def member_score(self, score: TokenScores, record: Record) -> float:
        """Mean of the lowest z."""
        centred = score.logprobs.astype(np.float64) - score.mean_logprob
        return lowest_mean(centred / np.maximum(score.std_logprob, STD_FLOOR))


def lowest_mean(values: np.ndarray) -> float:
    """The mean of the lowest 40 % of the values, rounded down, but of one at least."""
    n = max(1, int(LOWEST_SHARE * len(values)))
    return float(np.partition(values, n - 1)[:n].mean())


@probes.register("membership-recall")
class RecallAttack(LikelihoodProbe):
    """AUC of ``LL(answer | unseen records, prompt) / LL(answer | prompt)``. Above 0.5: trained on.

    ReCaLL, Xie et al. 2024 (arXiv 2406.15968): unseen text in front lowers the log-likelihood of
    members more than that of other texts, and both are negative, so the ratio of a member is the
    higher. The prefix is up to three short holdout records, of different subjects and at most 200
    characters in all; all records of those subjects leave the contrast. A loss is taken as 1e-6
    nats per token at least. Nothing is measured where holdout has one subject.

    Fails where texts about other subjects do not disturb the model, or where they show it the
    form of the answer. A record within 200 characters of the model's context is too long for it.
    """

    summary = "whether unseen records in front make the answers to forget less probable"
    honours = frozenset({"logprobs"})
    cost = "two forward passes for each forget and holdout record, one of them shared"
    tier = "standard"
    property = "accuracy"
    needs = frozenset({"holdout"})
    requires = frozenset({"blind-baseline"})

    def statements(self, material: Material) -> dict[Key, Statement]:
        """Each record as it was trained (part 0), and behind the prefix (part 1)."""
        shown = prefix_records(material.get("holdout", ()))
        if not shown:
            return {}
        prefix = prefix_text(shown)
        found: dict[Key, Statement] = {}
        for key, record in _targets(material, shown).items():
            found[key] = record
            found[key._replace(part=1)] = Statement(
                prompt=prefix + record.prompt, answer=record.answer, separator=record.separator
            )
        return found

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``membership_recall/forget``."""
        found: dict[Measured, dict[str, float]] = {}
        for key, score in scores.items():
            if key.part == 0:
                behind = scores[key._replace(part=1)]
                ratio = behind.nll_per_token / max(score.nll_per_token, LOSS_FLOOR)
                found.setdefault(key.split, {})[key.record_id] = ratio
        return membership_figures("recall", "ReCaLL", found)


def prefix_records(holdout: tuple[Record, ...]) -> tuple[Record, ...]:
    """The records of a ReCaLL prefix: the shortest of each subject, then the shortest of those.

    At most three, of at most half the subjects, as many as fit; none where there is one subject.
    """
    shortest: dict[str, Record] = {}
    for record in sorted(holdout, key=lambda r: (len(r.text), r.id)):
        shortest.setdefault(record.subject, record)
    candidates = list(shortest.values())[: min(PREFIX_RECORDS, len(shortest) // 2)]
    n = len(candidates)
    while n > 1 and len(prefix_text(candidates[:n])) > PREFIX_CHARACTERS:
        n -= 1
    return tuple(candidates[:n])


def prefix_text(records: tuple[Record, ...] | list[Record]) -> str:
    """The records' texts one after another, ready to put before a prompt; the end, if too long."""
    text = "".join(record.text.rstrip().rstrip(".") + LINK for record in records)
    return text if len(records) > 1 else text[-PREFIX_CHARACTERS:]


def _targets(material: Material, shown: tuple[Record, ...]) -> dict[Key, Record]:
    used = {record.subject for record in shown}
    found: dict[Key, Record] = {}
    for split in SIDES:
        for record in material.get(split, ()):
            if split == "forget" or record.subject not in used:
                found[Key(split, record.id)] = record
    return found
