"""Blind baseline: how far forget records can be told from holdout records without any model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from unlearn.probes.probe import Material, Measurement, RecordProbe
from unlearn.registry import probes
from unlearn.types import Record

FOLDS = 5
MASK = "someone"
"""What stands for the subject's name."""

SHORTEST_NAME = 3
"""Characters of a part of a name that is masked by itself too, in an e-mail address for example."""

Array = NDArray[np.int64]


@probes.register("blind-baseline")
class BlindBaseline(RecordProbe):
    """AUC of a text classifier that tells forget from holdout records without seeing any model.

    Out-of-fold probability of "forget" by logistic regression on TF-IDF of words (1 to 2) and
    characters (2 to 4), names masked. Figures 0 to 1. AUC about 0.5: by their text the two sides
    are alike, and an attack that gets more learns it from the model. Far from 0.5, above or below:
    the attacks' figures are confounded, for they may only find what is found here (Meeus et al.
    2024, arXiv 2406.17975).

    All records of a subject are held out together, so a subject is never recognised by what else
    was said of it. Where one side has a single subject that leaves nothing to learn from; then all
    records of a relation are held out together, forget and holdout alike. (Facts would not do: of
    the relation held out only holdout records would be left, and the AUC would fall far below
    0.5.) There a relation that one side alone has tells the side at once, and its records score 1
    or 0; a wording that goes with one relation alone, or another mix of the same relations, is
    missed. With few subjects the figure is uncertain: intervals must resample subjects.

    Nothing is measured where one side has one subject and the two share a single relation.
    """

    summary = "whether forget and holdout records differ by themselves, without any model"
    honours = frozenset({"none"})
    cost = "a few seconds, no model"
    tier = "standard"
    property = "accuracy"
    needs = frozenset({"holdout"})

    def measure(self, material: Material, seed: int) -> list[Measurement]:
        """``blind_membership/forget``."""
        forget, holdout = material.get("forget", ()), material.get("holdout", ())
        records = (*forget, *holdout)
        is_forget = np.repeat([1, 0], [len(forget), len(holdout)])
        found = _out_of_fold(records, is_forget, np.random.default_rng(seed))
        if found is None:
            return []
        ids = [record.id for record in records]
        scores = found.tolist()
        title = (
            "Forget records told from unseen ones by their text alone (AUC; 0.5: they are alike)"
        )
        figure = Measurement(
            metric="blind_membership",
            split="forget",
            title=title,
            values=dict(zip(ids[: len(forget)], scores[: len(forget)], strict=True)),
            contrast=dict(zip(ids[len(forget) :], scores[len(forget) :], strict=True)),
            summary="auc",
        )
        return [figure]


def masked(record: Record) -> str:
    """The record's text without its subject's name, nor longer parts of the name."""
    parts = [part for part in record.subject.split() if len(part) >= SHORTEST_NAME]
    pattern = "|".join(re.escape(name) for name in (record.subject, *parts))
    return re.sub(pattern, MASK, record.text, flags=re.IGNORECASE)


def _out_of_fold(
    records: Sequence[Record], is_forget: Array, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """The probability of "forget" of each record, by classifiers that did not see its group."""
    found = is_forget.astype(np.float64)
    if len(set(is_forget.tolist())) < 2:
        return None
    folds = _folds_by_subject(records, is_forget, rng)
    if folds is None:
        folds = _folds_by_relation(records, is_forget, rng)
    if folds is None:
        return None
    told = folds >= 0
    if told.any():
        texts = [masked(record) for record, use in zip(records, told, strict=True) if use]
        found[told] = cross_val_predict(
            _classifier(),
            texts,
            is_forget[told],
            cv=PredefinedSplit(folds[told]),
            method="predict_proba",
        )[:, 1]
    return found


def _folds_by_subject(
    records: Sequence[Record], is_forget: Array, rng: np.random.Generator
) -> Array | None:
    """A fold for each subject, both sides in every fold; None where one side has one subject."""
    subjects = [record.subject for record in records]
    forget = {s for s, side in zip(subjects, is_forget, strict=True) if side}
    return _dealt(subjects, [forget, set(subjects) - forget], rng)


def _folds_by_relation(
    records: Sequence[Record], is_forget: Array, rng: np.random.Generator
) -> Array | None:
    """A fold for each relation that both sides have, -1 for others; None where they share one."""
    relations = [record.relation for record in records]
    sides = [{r for r, f in zip(relations, is_forget, strict=True) if f == s} for s in (0, 1)]
    shared = sides[0] & sides[1]
    return _dealt(relations, [shared], rng) if shared else np.full(len(records), -1)


def _dealt(
    groups: Sequence[str], decks: Sequence[set[str]], rng: np.random.Generator
) -> Array | None:
    """The fold of each record, the groups of each deck dealt out evenly; -1 for those in none."""
    n_folds = min(FOLDS, *(len(deck) for deck in decks))
    if n_folds < 2:
        return None
    fold_of: dict[str, int] = {}
    for deck in decks:
        order = rng.permutation(sorted(deck)).tolist()
        fold_of |= {group: place % n_folds for place, group in enumerate(order)}
    return np.array([fold_of.get(group, -1) for group in groups])


def _classifier() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    # Balanced: folds differ in how many records of each side are left, and scores are pooled.
    return make_pipeline(
        make_union(words, characters), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
