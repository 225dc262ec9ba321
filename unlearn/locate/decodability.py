"""Decodability: at which depth a linear probe, and the model's own unembedding, read a fact.

States are those of one token of each prompt, at every depth of the stream: what goes into each
block, and what comes out of the last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from unlearn.locate.tracing_facts import Fact
from unlearn.model.language_model import LanguageModel
from unlearn.model.lens import Lens
from unlearn.model.linear_probe import cross_validated

Floats = npt.NDArray[np.float64]

SHUFFLES = 3
"""Random labellings that the control is the mean of."""


class Profile(NamedTuple):
    """How well facts are read at each depth of the stream, from the embedding to the last block.

    All arrays have one entry a depth; higher: better decodable.
    """

    accuracy: Floats
    """Share of subjects whose answer a probe gives that was trained on other subjects."""
    control: Floats
    """The same where each subject was given the answer of another one at random."""
    lens: Floats
    """Log-probability of the answer's first token by the model's own unembedding of the state,
    minus its mean over the other answers of the same relation, in nats."""
    n: int
    """Subject and relation pairs."""
    by: Literal["probe", "lens"] = "probe"
    """What depths are compared by; without a probe, accuracy and control are 0."""

    @property
    def selectivity(self) -> Floats:
        """Accuracy minus that of the control (Hewitt and Liang 2019), in -1..1."""
        difference: Floats = self.accuracy - self.control
        return difference

    @property
    def strength(self) -> Floats:
        """Selectivity, or the lens where there is no probe."""
        return self.selectivity if self.by == "probe" else self.lens

    @property
    def plateau(self) -> int:
        """The first depth at which nine tenths of the rise in strength are reached."""
        found = self.strength
        enough = found[0] + 0.9 * (found.max() - found[0])
        return int(np.argmax(found >= enough - 1e-12))


def shared_answers(facts: Sequence[Fact], folds: int) -> dict[str, list[Fact]]:
    """Relation to one fact a subject, whose answers are shared by at least ``folds`` subjects.

    A probe cannot be tested on an answer that only one subject has, such as a telephone number;
    relations with fewer than two answers left are left out.
    """
    found = {}
    for relation, of in _one_a_subject(facts).items():
        counts = Counter(fact.record.answer for fact in of)
        kept = [fact for fact in of if counts[fact.record.answer] >= folds]
        if len({fact.record.answer for fact in kept}) >= 2:
            found[relation] = kept
    return found


def differing_answers(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    """Relation to one fact a subject, where at least two answers begin with different tokens.

    That is enough for the lens, which is trained on nothing.
    """
    return {
        relation: of
        for relation, of in _one_a_subject(facts).items()
        if len({fact.answer_ids[0] for fact in of}) >= 2
    }


def _one_a_subject(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    """Relation to the first fact of each subject."""
    by_relation: defaultdict[str, dict[str, Fact]] = defaultdict(dict)
    for fact in facts:
        by_relation[fact.record.relation].setdefault(fact.record.subject, fact)
    return {relation: [*of.values()] for relation, of in by_relation.items()}


def profile(
    model: LanguageModel,
    relations: Mapping[str, Sequence[tuple[Fact, npt.NDArray[np.float32]]]],
    folds: int | None,
    rng: np.random.Generator,
) -> Profile:
    """The profile over all relations; each fact comes with its states (depth, width).

    ``folds`` are those of the probe; None for a profile by the lens alone.
    """
    right, by_chance, lens = [], [], []
    for pairs in relations.values():
        states = np.stack([state for _, state in pairs])  # (fact, depth, width)
        lens.append(lens_contrast(model, states, [fact for fact, _ in pairs]))
        if folds is not None:
            labels = np.array([fact.record.answer for fact, _ in pairs])
            groups = np.array([fact.record.subject for fact, _ in pairs])
            shuffled = [labels[rng.permutation(len(labels))] for _ in range(SHUFFLES)]
            own, *others = cross_validated(states, [labels, *shuffled], groups, folds)
            right.append(own)
            by_chance.append(np.mean(others, axis=0))
    n = sum(len(pairs) for pairs in relations.values())
    of_lens = np.concatenate(lens).mean(0)
    if folds is None:
        nothing = np.zeros_like(of_lens)
        return Profile(nothing, nothing, of_lens, n, "lens")
    return Profile(np.concatenate(right).mean(0), np.concatenate(by_chance).mean(0), of_lens, n)


def lens_contrast(
    model: LanguageModel, states: npt.NDArray[np.float32], facts: Sequence[Fact]
) -> Floats:
    """The logit lens (nostalgebraist 2020) of each fact's own answer against the others' answers.

    In nats, (fact, depth): log-probability of the first token of its own answer, minus the mean
    over the first tokens of the other facts' answers that differ from it; 0 where none does.
    """
    firsts = np.array([fact.answer_ids[0] for fact in facts])
    tokens, which = np.unique(firsts, return_inverse=True)
    found = np.zeros(states.shape[:2])
    if len(tokens) < 2:
        return found
    lens, among = Lens(model), torch.from_numpy(tokens)
    for depth in range(states.shape[1]):
        of_depth = torch.from_numpy(states[:, depth]).to(model.device, model.dtype)
        for piece, logprobs in lens.logprobs(of_depth):
            table = logprobs[:, among.to(logprobs.device)].double().cpu().numpy()
            own = table[np.arange(len(table)), which[piece]]  # table: (fact, first token)
            others = (table.sum(1) - own) / (len(tokens) - 1)
            found[piece, depth] = own - others
    return found
