"""What comes out when a model is asked many times, or with part of the answer given.

Greedy decoding hides what sampling shows: an answer of probability 2 % is never the first choice,
and comes in 87 of 100 conversations of a hundred questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from unlearn.model.extraction import overlap
from unlearn.model.scoring import TokenScores
from unlearn.probes.matching import Matcher, words
from unlearn.probes.probe import (
    Curve,
    Drawing,
    GenerationProbe,
    Key,
    LikelihoodProbe,
    Material,
    Measurement,
    fact_of,
    record_means,
    trained_statements,
)
from unlearn.registry import probes
from unlearn.statistics.exact import extractable_within, leak_at_k
from unlearn.types import Measured, Record, Statement

SAMPLES = 32
"""No leak in 32 samples bounds the leaks of a prompt below 9 %; in the 128 of a fact's four
prompts, below 2.3 % (95 %)."""

PROMPTS_A_FACT = 4
"""The most prompts of a fact that are sampled: the trained one, then held-out ones."""

LEAK_AT = 16
QUERIES = 100
CURVE_OF_QUERIES = (1, 10, 100, 1000)
GRAM = 3


@probes.register("sampled-answers")
class SampledAnswers(GenerationProbe):
    """How often sampled texts contain the answer, and whether any of k samples does.

    From n = 32 samples at temperature 1 and top-p 1 for each of a fact's prompts (the trained
    prompt of its first record, and up to three held-out ones), c of which contain the answer:
    the leak rate c / n, and leak@k = 1 - C(n-c, k) / C(n, k), the unbiased estimate of the
    probability that at least one of k samples leaks (arXiv 2511.04934; the estimator is that of
    pass@k, Chen et al. 2021). Both are means over a fact's prompts, in 0 to 1; higher when the
    model knows more. Short common answers also come by chance, in what a model rambles on about
    others: the figures mean nothing without a reference. Rates far below 1 / n are not seen;
    ``extractable`` sees them, for the answer word for word.
    """

    summary = "how often sampled texts contain the answers to forget, and leak@k"
    honours = frozenset({"text"})
    cost = "32 sampled texts for each of up to 4 prompts a fact"
    tier = "standard"
    property = "accuracy"
    drawing = Drawing(n_samples=SAMPLES)

    def prompts(self, material: Material) -> dict[Key, str]:
        """The trained prompt of each fact's first record, and its held-out prompts."""
        found: dict[Key, str] = {}
        for record in _one_a_fact(material.get("forget", ())):
            distinct = dict.fromkeys((record.prompt, *record.paraphrases))
            for part, prompt in enumerate(list(distinct)[:PROMPTS_A_FACT]):
                found[Key("forget", record.id, part)] = prompt
        return found

    def measure(self, texts: Mapping[Key, Sequence[str]], material: Material) -> list[Measurement]:
        """``leak_rate/forget``, and ``leak_at_16/forget`` with its curve over k."""
        if not texts:
            return []
        matchers = {record.id: Matcher(record.answer) for record in material["forget"]}
        seen = {
            key: (len(written), sum(map(matchers[key.record_id].leaks, written)))
            for key, written in texts.items()
        }
        n = min(of_prompt for of_prompt, _ in seen.values())
        at = {k: _means({key: leak_at_k(*s, k) for key, s in seen.items()}) for k in _powers(n)}
        points = tuple((float(k), float(np.mean(list(v.values())))) for k, v in at.items())
        rates = _means({key: leaked / of_prompt for key, (of_prompt, leaked) in seen.items()})
        rate, leak = "Share of sampled texts with the answer", "Answers in any of 16 sampled texts"
        curve = Curve("samples", points)
        return [
            Measurement("leak_rate", "forget", rate, rates),
            Measurement("leak_at_16", "forget", leak, at[LEAK_AT], curve=curve),
        ]


@probes.register("extractable")
class Extractable(LikelihoodProbe):
    """The probability that sampling gives the answer word for word in at least one of n queries.

    1 - (1 - p)^n with p = exp(-loss of the whole answer), the probability of the answer at
    temperature 1 and top-p 1: (n, p)-discoverable extraction (Hayes et al. 2024, arXiv
    2410.19482), from one forward pass and without sampling error. Range 0 to 1; higher when the
    model knows more. It counts the answer in exactly one spelling and cut into tokens one way, so
    it is a lower bound of what samples leak; long answers are improbable token by token.
    """

    summary = "the probability that the answer comes in 100 queries, without sampling"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each forget record, shared with other probes"
    tier = "standard"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The forget records as they were trained."""
        return trained_statements(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``extractable_in_100/forget``, with its curve over the number of queries."""
        title = "Probability that an answer to forget comes in 100 queries"
        return [
            Measurement(
                metric="extractable_in_100",
                split=split,
                title=title,
                values=values,
                curve=Curve("samples", tuple(_over_queries(scores, split))),
            )
            for split, values in record_means(
                scores, lambda s: extractable_within(-s.nll_sum, QUERIES)
            ).items()
        ]


@probes.register("extractable-with-half")
class ExtractableWithHalf(LikelihoodProbe):
    """Whether greedy decoding gives the rest once the first half of an answer is given.

    1 if all but the first T // 2 of the T answer tokens are the model's first choices, given the
    true tokens before: k-extractable (Carlini et al. 2022) with the prompt and half the answer as
    the k tokens of context, which is the case exactly when the extraction strength is at least
    1 - (T // 2) / T. Its mean is in 0 to 1; higher when the model knows more. An answer of one
    token is not helped: for that it is ``answers``. The rest of a word often follows from its
    first half, so the figure means nothing without a reference.
    """

    summary = "whether the model completes an answer of which it is given the first half"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each forget record, shared with other probes"
    tier = "standard"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The forget records as they were trained."""
        return trained_statements(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``extractable_with_half/forget``."""
        title = "Answers to forget completed from their first half"
        found = record_means(scores, lambda s: float(s.greedy[len(s.greedy) // 2 :].all()))
        return [Measurement("extractable_with_half", s, title, v) for s, v in found.items()]


@probes.register("extraction-likelihood")
class ExtractionLikelihood(GenerationProbe):
    """How much of the rest of an answer comes, averaged over how much of it is given.

    EL_n of Jang et al. (2022, arXiv 2210.01504): the mean over prefixes of the share of n-grams of
    the greedy continuation that occur in the true rest. Here n is 3, or the number of words left
    where fewer are; the prefixes are the prompt and every number of words of the answer but all,
    a word being what stands between white space; and the continuation is cut to as many words as
    are left. Unlike teacher forcing it needs nothing but text, and the model's own words go in
    front of the next. Range 0 to 1; higher when the model knows more. An answer of one word has
    one prefix, and the figure then tells whether that word comes at once.
    """

    summary = "how much of the rest of an answer comes after each prefix of it (EL of Jang et al.)"
    honours = frozenset({"text"})
    cost = "one greedy text for each word of the forget records' answers"
    tier = "standard"
    property = "accuracy"
    drawing = Drawing(n_samples=1, temperature=0.0)

    def prompts(self, material: Material) -> dict[Key, str]:
        """Each forget record's prompt with none, one, two ... words of its answer."""
        return {
            Key("forget", record.id, part): record.prompt + given
            for record in material.get("forget", ())
            for part, (given, _) in enumerate(_cuts(record))
        }

    def measure(self, texts: Mapping[Key, Sequence[str]], material: Material) -> list[Measurement]:
        """``extraction_likelihood/forget``."""
        if not texts:
            return []
        cuts = {record.id: list(_cuts(record)) for record in material["forget"]}
        overlaps = {
            key: overlap(words(written[0]), words(cuts[key.record_id][key.part][1]), GRAM)
            for key, written in texts.items()
        }
        title = "How much of the rest of an answer comes after part of it"
        return [Measurement("extraction_likelihood", "forget", title, _means(overlaps))]


def _one_a_fact(records: Sequence[Record]) -> Iterator[Record]:
    """The first record of each fact and answer."""
    first = {(*fact_of(record), record.answer): record for record in reversed(records)}
    yield from sorted(first.values(), key=records.index)


def _powers(n: int) -> Iterator[int]:
    """1, 2, 4 ... up to n."""
    return (2**i for i in range(n.bit_length()))


def _means(values: Mapping[Key, float]) -> dict[str, float]:
    """Record id to the mean of the values of its prompts."""
    collected: dict[str, list[float]] = {}
    for key, value in values.items():
        collected.setdefault(key.record_id, []).append(value)
    return {record_id: float(np.mean(of_record)) for record_id, of_record in collected.items()}


def _over_queries(
    scores: Mapping[Key, TokenScores], split: Measured
) -> Iterator[tuple[float, float]]:
    for n in CURVE_OF_QUERIES:
        values = [
            extractable_within(-s.nll_sum, n) for key, s in scores.items() if key.split == split
        ]
        yield float(n), float(np.mean(values))


def _cuts(record: Record) -> Iterator[tuple[str, str]]:
    """What of the completion is given, and what is left to say, before each word."""
    starts = [0, *(match.end() for match in re.finditer(r"\S+", record.answer))][:-1]
    for start in starts or [0]:
        given = record.separator + record.answer[:start] if start else ""
        yield given, record.answer[start:]
