"""Gates made from a forget set, and how often they err on prompts they were not made from.

Three parts that share neither a template nor, on the retain side, a subject: the gate is fitted on
the first, its threshold chosen on the second, its rates counted on the third. A template is a
prompt without its subject. Neighbours, paraphrases and implications have no part in any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.gates import (
    GateRates,
    KeyGate,
    Rate,
    Spread,
    TermGate,
    Vectors,
    WordGate,
    word_terms,
)
from unlearn.model.keys import Lookup, find_keys
from unlearn.model.language_model import LanguageModel
from unlearn.model.prompt_policy import Gate
from unlearn.model.terms import Name, Terms
from unlearn.statistics.exact import clopper_pearson
from unlearn.strategies.counterfactual import renamed
from unlearn.strategies.near_names import near_names
from unlearn.types import Record

SHARES = (0.5, 0.25, 0.25)
"""Of templates and of retain subjects: fitted on, threshold chosen on, rates counted on."""
MIN_TEMPLATES = 4
MAX_OF_A_PART = 2000
"""Negative prompts of a part, drawn at random; with a key gate each costs a forward pass."""
MAX_FOR_KEYS = 200
N_COMPONENTS = 32
STRENGTH = 100.0
"""C of the logistic regression: with few short prompts, more regularisation leaves every score near
even odds."""
NEAR_NAMES = 4
"""Names like the subject's, for each fitted forget prompt."""


class Wanted(NamedTuple):
    """What kind of gate is to be made."""

    kind: Literal["keyword", "tfidf", "key"]
    subjects: Terms
    name: Name
    layers: tuple[int, ...] = ()
    at: Literal["subject", "last"] = "subject"
    metric: Literal["cosine", "mahalanobis"] = "cosine"


class Prompts(NamedTuple):
    """Prompts of one part."""

    positive: list[Record]
    negative: list[Record]
    near: list[str]
    """Forget prompts with names in them that are like the subject's."""


class Made(NamedTuple):
    """A gate and how often it errs."""

    gate: Gate
    rates: GateRates


def make_gate(model: LanguageModel, forget_set: ForgetSet, wanted: Wanted, seed: int) -> Made:
    """The gate, and its rates on the third part.

    Raises:
        UnsupportedError: too few templates, or no retain records, to fit and to test on.
    """
    if wanted.kind == "keyword":
        term_gate = TermGate(terms=wanted.subjects)
        everything = Prompts(list(forget_set.forget), list(forget_set.retain), [])
        return Made(term_gate, _rates(term_gate, model, wanted.name, everything))
    most = MAX_FOR_KEYS if wanted.kind == "key" else MAX_OF_A_PART
    fit, choose, count = parts(forget_set, most, seed)
    fitted: WordGate | KeyGate
    if wanted.kind == "tfidf":
        words = fitted_words(fit, wanted.name)
        fitted, score = words, lambda prompt: words.score(prompt, wanted.name)
    else:
        keys = fitted_keys(model, fit, wanted)
        fitted, score = keys, lambda prompt: keys.score(model, prompt)
    gate = fitted.model_copy(update={"threshold": _threshold(score, choose)})
    return Made(gate, _rates(gate, model, wanted.name, count))


def parts(forget_set: ForgetSet, most: int, seed: int) -> list[Prompts]:
    """The three parts.

    Raises:
        UnsupportedError: fewer than four templates, or no retain records.
    """
    rng = np.random.default_rng(seed)
    own = sorted({template(record) for record in forget_set.forget})
    if len(own) < MIN_TEMPLATES or len({r.subject for r in forget_set.retain}) < MIN_TEMPLATES:
        raise UnsupportedError(
            "a gate that is fitted needs forget prompts in at least "
            f"{MIN_TEMPLATES} wordings and as many retain subjects, to be tested on other ones; "
            f"forget set {forget_set.name!r} has {len(own)} wordings; set gate=keyword"
        )
    others = sorted({template(record) for record in forget_set.retain} - set(own))
    part_of = {**_divided(own, rng), **_divided(others, rng)}
    subject_part = _divided(sorted({r.subject for r in forget_set.retain}), rng)
    found = []
    for part in range(len(SHARES)):
        positive = [r for r in forget_set.forget if part_of[template(r)] == part]
        negative = [
            r for r in forget_set.retain if part_of[template(r)] == part == subject_part[r.subject]
        ]
        drawn = sorted(rng.permutation(len(negative))[:most].tolist())
        negative = [negative[at] for at in drawn]
        mine = replace(forget_set, forget=tuple(positive), retain=tuple(negative))
        near = [
            renamed(record, name).prompt
            for record in positive
            for name in near_names(record.subject, mine, rng, NEAR_NAMES)
        ]
        found.append(Prompts(positive, negative, near))
    if len({r.subject for r in found[0].positive}) < len({r.subject for r in forget_set.forget}):
        raise UnsupportedError(
            "a gate that is fitted needs several wordings about each forget subject, and one has "
            "too few to be fitted on some and tested on others; set gate=keyword"
        )
    return found


def template(record: Record) -> str:
    """The prompt without its subject."""
    return record.prompt.replace(record.subject, "\0")


def fitted_words(fit: Prompts, name: Name) -> WordGate:
    """Logistic regression on TF-IDF; its score of 0 is even odds between balanced classes."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    positive = [record.prompt for record in fit.positive]
    negative = [record.prompt for record in fit.negative] + fit.near
    vectoriser = TfidfVectorizer(analyzer=lambda prompt: word_terms(prompt, name))
    features = vectoriser.fit_transform([*positive, *negative])
    classifier = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
    classifier.fit(features, [1] * len(positive) + [0] * len(negative))
    weights = zip(
        vectoriser.get_feature_names_out().tolist(),
        vectoriser.idf_.tolist(),
        classifier.coef_[0].tolist(),
        strict=True,
    )
    return WordGate(
        weights={term: (idf, weight) for term, idf, weight in weights},
        bias=float(classifier.intercept_[0]),
    )


def fitted_keys(model: LanguageModel, fit: Prompts, wanted: Wanted) -> KeyGate:
    """The keys of the forget prompts, and how those of the retained spread at the same place.

    Not their mean: at the head of a prompt a name has other tokens, and other keys, than within.
    """
    ours, theirs = (_keys_of(model, part, wanted) for part in (fit.positive, fit.negative))
    return KeyGate(
        metric=wanted.metric,
        at=wanted.at,
        keys={layer: _rows(vectors) for layer, vectors in ours.items()},
        spreads={layer: _spread(vectors, wanted.metric) for layer, vectors in theirs.items()},
    )


def _keys_of(model: LanguageModel, records: Sequence[Record], wanted: Wanted) -> dict[int, Vectors]:
    """Layer to the key of each record, at its subject or at its prompt's end; (record, width)."""
    at_subject = wanted.at == "subject"
    lookups = [Lookup(r.prompt, r.subject if at_subject else -1) for r in records]
    found = find_keys(model, lookups, list(wanted.layers))
    return {layer: keys.key.double().numpy() for layer, keys in found.items()}


def _spread(vectors: Vectors, metric: str) -> Spread:
    from sklearn.decomposition import PCA

    mean = tuple(vectors.mean(0).tolist())
    if metric == "cosine":
        return Spread(mean)
    # Fewer components than half the subjects: the last ones' deviations are noise.
    pca = PCA(max(1, min(N_COMPONENTS, len(vectors) // 2, vectors.shape[1])), svd_solver="full")
    pca.fit(vectors)
    directions = pca.components_ / np.sqrt(pca.explained_variance_).clip(1e-6)[:, None]
    return Spread(mean, _rows(directions))


def _rows(matrix: Vectors) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))


def _threshold(score: Callable[[str], float], choose: Prompts) -> float:
    """Between the two classes, or where the sum of both rates of error is least."""
    positive = np.array([score(record.prompt) for record in choose.positive])
    negative = np.array([score(p) for p in [*_texts(choose.negative), *choose.near]])
    every: npt.NDArray[np.float64] = np.unique(np.concatenate([positive, negative]))
    middles = (every[1:] + every[:-1]) / 2
    if not len(middles):
        return float(every[0])
    wrong = [(positive <= t).mean() + (negative > t).mean() for t in middles]
    # Of equally good thresholds the middle one.
    best = np.flatnonzero(np.isclose(wrong, min(wrong)))
    return float(middles[best[len(best) // 2]])


def _rates(gate: Gate, model: LanguageModel, name: Name, count: Prompts) -> GateRates:
    missed = [not fired for fired in gate.fires(model, _texts(count.positive), name)]
    alarms = gate.fires(model, [*_texts(count.negative), *count.near], name)
    return GateRates(missed=_rate(missed), false_alarms=_rate(alarms))


def _rate(events: Sequence[bool]) -> Rate | None:
    if not events:
        return None
    interval = clopper_pearson(sum(events), len(events))
    return Rate(events=sum(events), n=len(events), low=interval.low, high=interval.high)


def _texts(records: Sequence[Record]) -> list[str]:
    return [record.prompt for record in records]


def _divided(labels: Sequence[str], rng: np.random.Generator) -> dict[str, int]:
    """Each label's part; every part gets one where there are as many labels as parts."""
    ends = np.cumsum(SHARES) * len(labels)
    order = rng.permutation(len(labels))
    return {labels[at]: int(np.searchsorted(ends, rank + 0.5)) for rank, at in enumerate(order)}
