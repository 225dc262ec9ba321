"""Gates: whether a policy acts on a prompt, each prompt by itself.

Three kinds. ``TermGate``: a term stands in the prompt. ``WordGate``: TF-IDF of words and logistic
regression. ``KeyGate``: what an MLP of the model itself looks up for the prompt is near what it
looks up for the forgotten subjects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.model.terms import Name, Terms, in_clear, words
from unlearn.types import Noun

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

Vectors = npt.NDArray[np.float64]


class Rate(Noun):
    """A share of prompts with its exact 95 % interval (Clopper and Pearson 1934).

    Prompts count as independent, which several about one subject are not: read it as the least
    uncertainty.
    """

    events: int
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.events} of {self.n} ({self.low:.1%} to {self.high:.1%})"


class GateRates(Noun):
    """How often a gate was wrong on prompts that it was not made from."""

    missed: Rate | None
    """False negatives: prompts about the forgotten that it let through. None: there were none."""
    false_alarms: Rate | None
    """False positives: prompts about others that it held."""

    def __str__(self) -> str:
        missed, alarms = self.missed or "not measured", self.false_alarms or "not measured"
        return f"missed {missed}, false alarms {alarms}"


class TermGate(Noun):
    """Acts where a term stands in the prompt."""

    kind: Literal["keyword"] = "keyword"
    terms: Terms

    def fires(self, lm: LanguageModel, prompts: Sequence[str], name: Name = in_clear) -> list[bool]:
        """Whether it acts on each prompt."""
        return [bool(self.terms.spans(prompt, name)) for prompt in prompts]


def word_terms(prompt: str, name: Name = in_clear) -> list[str]:
    """The words of a prompt and its pairs of neighbouring words, by name."""
    found = words(prompt)
    pairs = [f"{a} {b}" for a, b in pairwise(found)]
    return [name(term) for term in (*found, *pairs)]


class WordGate(Noun):
    """Acts where the words speak for it: logistic regression on TF-IDF.

    The score is sum_t x_t w_t + b, with x_t = n_t idf_t and x scaled to length 1.
    """

    kind: Literal["tfidf"] = "tfidf"
    weights: Mapping[str, tuple[float, float]]
    """Name of a term to its inverse document frequency and its weight."""
    bias: float
    threshold: float = 0.0
    """It acts on prompts that score more."""

    def score(self, prompt: str, name: Name = in_clear) -> float:
        """How much the words speak for the forgotten; 0 is even odds."""
        counts = Counter(term for term in word_terms(prompt, name) if term in self.weights)
        values = {term: n * self.weights[term][0] for term, n in counts.items()}
        length = math.sqrt(sum(value * value for value in values.values())) or 1.0
        return self.bias + sum(v * self.weights[t][1] for t, v in values.items()) / length

    def fires(self, lm: LanguageModel, prompts: Sequence[str], name: Name = in_clear) -> list[bool]:
        """Whether it acts on each prompt."""
        return [self.score(prompt, name) > self.threshold for prompt in prompts]


class Spread(NamedTuple):
    """How the keys of other subjects at the same place spread."""

    mean: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...] = ()
    """(component, width): leading principal components, each over its deviation, so that a distance
    along them is a Mahalanobis distance."""

    def centred(self, keys: Vectors) -> Vectors:
        """Keys (row, width) less the mean, each of length 1."""
        apart = keys - np.array(self.mean)
        unit: Vectors = apart / np.linalg.norm(apart, axis=1, keepdims=True).clip(1e-12)
        return unit

    def whitened(self, keys: Vectors) -> Vectors:
        """Keys (row, width) as (row, component)."""
        white: Vectors = (keys - np.array(self.mean)) @ np.array(self.directions).T
        return white


class KeyGate(Noun):
    """Acts where a key of the prompt is near one of the forgotten subjects'.

    A key is what goes into the down-projection of a block (see ``unlearn.model.keys``). The score
    is the mean over layers of the cosine to the nearest subject, other subjects' mean key being the
    origin, or of the negative Mahalanobis distance; that of the token which scores most.
    """

    kind: Literal["key"] = "key"
    metric: Literal["cosine", "mahalanobis"] = "cosine"
    at: Literal["subject", "last"] = "subject"
    """``subject``: any token of the prompt may be the subject's last. ``last``: the prompt's."""
    keys: Mapping[int, tuple[tuple[float, ...], ...]]
    """Layer to the keys of the forgotten subjects, (subject, width)."""
    spreads: Mapping[int, Spread]
    """Layer to how other subjects' keys spread."""
    threshold: float = 0.0
    """It acts on prompts that score more."""

    def score(self, lm: LanguageModel, prompt: str) -> float:
        """How near the prompt is to a forgotten subject; -1 to 1, or at most 0."""
        total: Vectors | float = 0.0
        for layer, keys in token_keys(lm, prompt, sorted(self.keys)).items():
            total = total + self._nearness(layer, keys)  # (token,)
        scores = np.asarray(total) / len(self.keys)
        return float(scores.max() if self.at == "subject" else scores[-1])

    def fires(self, lm: LanguageModel, prompts: Sequence[str], name: Name = in_clear) -> list[bool]:
        """Whether it acts on each prompt; one forward pass each, so that none sways another."""
        scores = {prompt: self.score(lm, prompt) for prompt in dict.fromkeys(prompts) if prompt}
        return [scores.get(prompt, -math.inf) > self.threshold for prompt in prompts]

    def _nearness(self, layer: int, keys: Vectors) -> Vectors:
        subjects, spread = np.array(self.keys[layer]), self.spreads[layer]
        if self.metric == "cosine":
            return np.asarray((spread.centred(keys) @ spread.centred(subjects).T).max(1))
        apart = spread.whitened(keys)[:, None] - spread.whitened(subjects)[None]
        return -np.asarray(np.linalg.norm(apart, axis=-1).min(1))  # (token,)


def token_keys(lm: LanguageModel, prompt: str, layers: Sequence[int]) -> dict[int, Vectors]:
    """Layer to the keys of the prompt's own tokens, (token, width).

    Raises:
        UnsupportedError: a layer without a down-projection.
        TextError: a prompt longer than the context.
    """
    from unlearn.model.activations import read_inputs
    from unlearn.model.encoding import tokenise

    modules = {layer: lm.anatomy.require_down_projection(layer) for layer in layers}
    ids = lm.encode(prompt).ids
    (tokens,) = tokenise(lm.tokenizer, [prompt])
    inputs = read_inputs(lm, set(modules.values()), [ids])
    return {
        layer: inputs.of[module][0, tokens.n_added :].float().cpu().numpy().astype(np.float64)
        for layer, module in modules.items()
    }
