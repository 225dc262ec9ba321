"""What a model writes by itself: answers in its text, refusals, and whether it still writes well.

These probes need nothing but text, so they also run where log-probabilities are not to be had.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unlearn.probes.matching import Matcher, normalise, pieces
from unlearn.probes.probe import (
    LOSS,
    Drawing,
    GenerationProbe,
    Key,
    Material,
    Measurement,
)
from unlearn.registry import probes
from unlearn.types import Measured, Record

KEPT: Mapping[Measured, str] = {"retain": "retained records", "neighbors": "neighbouring records"}

GREEDY = Drawing(n_samples=1, temperature=0.0)

WEIGHTS: Mapping[int, float] = {2: 2 / 3, 3: 4 / 3}
"""Of the entropies of pairs and of triples of words, as in the code of Meng et al. (2022)."""

REPEATED = 3
"""How many words make a repetition."""

_SAY = "(?:share|say|answer|tell|help|provide|disclose|give|discuss|reveal|assist|comply|talk)"
REFUSALS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\bi (?:do not|don't|really don't) (?:know|have)\b",
        rf"\bi (?:cannot|can't|can not|could not|won't|will not|may not|must not) {_SAY}\b",
        rf"\b(?:un|not )able to {_SAY}\b",
        rf"\bnot (?:allowed|permitted|at liberty) to {_SAY}\b",
        r"\b(?:i'm|i am|we are|we're) (?:sorry|afraid|not sure)\b",
        r"\bas an? (?:ai|artificial|language model)\b",
        r"\b(?:have|is) no (?:information|record|records|knowledge|data)\b",
        r"\b(?:is|are) not (?:known|available|public|disclosed)\b",
        r"^\W*(?:sorry|unknown|redacted|no comment)\b",
    )
)
"""What counts as a refusal, in English, in the first sentence of a text."""


@probes.register("greedy-text")
class GreedyText(GenerationProbe):
    """Whether the text that greedy decoding writes contains the answer to forget, or refuses.

    The text after the trained prompt is searched by ``matching.Matcher``, which sees through other
    spellings. Range 0 to 1 each; answers are higher, refusals lower when the model knows more.
    Unlike ``answers`` it also finds an answer that comes late or in other form, and it finds short
    common answers by chance. Refusals are told by a short list of English phrases: a refusal in
    other words is missed. Refusing is not forgetting.
    """

    summary = "whether greedily written text contains the answers to forget, or refuses"
    honours = frozenset({"text"})
    cost = "one greedy text for each forget record"
    tier = "standard"
    property = "accuracy"
    drawing = GREEDY

    def prompts(self, material: Material) -> dict[Key, str]:
        """The trained prompts of the forget records."""
        return _trained_prompts(material, "forget")

    def measure(self, texts: Mapping[Key, Sequence[str]], material: Material) -> list[Measurement]:
        """``generated_answers/forget`` and ``refusal_rate/forget``."""
        return _answered(texts, material, "records to forget")


@probes.register("kept-text")
class KeptText(GenerationProbe):
    """Whether the text that greedy decoding writes still contains the answers to keep, or refuses.

    As ``greedy-text``, on retained and neighbouring records. Range 0 to 1 each. A model taught to
    refuse often refuses too much: then answers fall and refusals rise here.
    """

    summary = "whether greedily written text contains the answers to keep, or refuses"
    honours = frozenset({"text"})
    cost = "one greedy text for each retain and neighbors record"
    tier = "standard"
    property = "locality"
    drawing = GREEDY

    def prompts(self, material: Material) -> dict[Key, str]:
        """The trained prompts of the retain and neighbors records."""
        return _trained_prompts(material, *KEPT)

    def measure(self, texts: Mapping[Key, Sequence[str]], material: Material) -> list[Measurement]:
        """``generated_answers`` and ``refusal_rate`` of retain and neighbors."""
        return [
            measurement
            for split, title in KEPT.items()
            for measurement in _answered(_of_split(texts, split), material, title)
        ]


@probes.register("fluency")
class Fluency(GenerationProbe):
    """Whether a model still writes text: n-gram entropy, and how much it repeats itself.

    Entropy, in bits: (2/3 H2 + 4/3 H3) / 2, with Hn the entropy of the n-grams of prompt and
    greedy continuation, words and punctuation ("generation entropy" of Meng et al. 2022, ROME,
    as their code computes it); low where a model goes in circles. It grows with the length of the
    text, so only models on the same prompts compare, and one that never stops looks fluent.
    Repetition: the share of the continuation's word triples that it had written before, 1 minus
    distinct over all (Welleck et al. 2019), in 0 to 1; 0 where there is no triple. Neither sees
    nonsense that does not repeat.
    """

    summary = "n-gram entropy and repetition of text written on prompts to keep"
    honours = frozenset({"text"})
    cost = "one greedy text for each retain and neighbors record, shared with kept-text"
    tier = "standard"
    property = "locality"
    drawing = GREEDY

    def prompts(self, material: Material) -> dict[Key, str]:
        """The trained prompts of the retain and neighbors records."""
        return _trained_prompts(material, *KEPT)

    def measure(self, texts: Mapping[Key, Sequence[str]], material: Material) -> list[Measurement]:
        """``n_gram_entropy`` and ``repetition`` of retain and neighbors."""
        found: list[Measurement] = []
        for split, title in KEPT.items():
            here = _of_split(texts, split)
            entropy = _by_record(here, material, lambda r, text: _entropy(pieces(r.prompt + text)))
            repeated = _by_record(here, material, lambda _, text: _repetition(pieces(text)))
            if not here:
                continue
            found.append(
                Measurement(
                    metric="n_gram_entropy",
                    split=split,
                    title=f"Entropy of text written on prompts of {title}",
                    values=entropy,
                    unit="bits",
                    bounds=LOSS,
                )
            )
            found.append(
                Measurement(
                    metric="repetition",
                    split=split,
                    title=f"Repetition in text written on prompts of {title}",
                    values=repeated,
                    more_knowledge="lower",
                )
            )
        return found


def refuses(text: str) -> bool:
    """Whether the first sentence of a text is a refusal, by ``REFUSALS``."""
    first = re.split(r"[.!?。]", normalise(text).lstrip(" .!?"), maxsplit=1)[0]
    return any(pattern.search(first) for pattern in REFUSALS)


def _trained_prompts(material: Material, *splits: Measured) -> dict[Key, str]:
    return {Key(split, r.id): r.prompt for split in splits for r in material.get(split, ())}


def _of_split(texts: Mapping[Key, Sequence[str]], split: Measured) -> dict[Key, Sequence[str]]:
    return {key: written for key, written in texts.items() if key.split == split}


def _by_record(
    texts: Mapping[Key, Sequence[str]], material: Material, value: Callable[[Record, str], float]
) -> dict[str, float]:
    """Record id to the value of the one text that was written for it."""
    records = {Key(split, r.id): r for split, of_split in material.items() for r in of_split}
    return {key.record_id: float(value(records[key], texts[key][0])) for key in texts}


def _answered(
    texts: Mapping[Key, Sequence[str]], material: Material, title: str
) -> list[Measurement]:
    """Answers and refusals in texts of one split."""
    if not texts:
        return []
    split = next(iter(texts)).split
    answered = _by_record(texts, material, lambda r, text: Matcher(r.answer).leaks(text))
    refused = _by_record(texts, material, lambda _, text: refuses(text))
    return [
        Measurement(
            "generated_answers", split, f"Generated texts with the answer, {title}", answered
        ),
        Measurement(
            "refusal_rate",
            split,
            f"Generated texts that refuse, {title}",
            refused,
            more_knowledge="lower",
        ),
    ]


def _entropy(tokens: Sequence[str]) -> float:
    """(2/3 H2 + 4/3 H3) / 2, in bits."""
    return float(np.mean([weight * _bits(_counts(tokens, n)) for n, weight in WEIGHTS.items()]))


def _bits(counts: Counter[tuple[str, ...]]) -> float:
    total = counts.total()
    shares = np.array([count / total for count in counts.values()])
    return float(np.sum(shares * np.log2(1 / shares)))


def _repetition(tokens: Sequence[str]) -> float:
    counts = _counts(tokens, REPEATED)
    return 1 - len(counts) / counts.total() if counts else 0.0


def _counts(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
