"""How much of the trained wording comes back, with the model fed the true text so far."""

from __future__ import annotations

from collections.abc import Mapping

from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import (
    LOSS,
    Key,
    LikelihoodProbe,
    Material,
    Measurement,
    record_means,
    trained_statements,
)
from unlearn.registry import probes
from unlearn.types import Statement


@probes.register("probability")
class Probability(LikelihoodProbe):
    """How probable the model finds the answers: exp(-mean loss per answer token).

    Range 0 to 1; higher when the model knows more. A model that never saw an answer still finds
    some answers probable, so the figure means nothing without a reference. The loss itself is
    reported too: where answers are improbable, only it tells by how much.
    """

    summary = "how probable the model finds the answers to forget, length-normalised"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each forget record, shared with other probes"
    tier = "smoke"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The forget records as they were trained."""
        return trained_statements(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``probability/forget`` and ``nll_per_token/forget``."""
        title = "Probability of the answers to forget"
        probable = record_means(scores, lambda s: s.probability)
        losses = record_means(scores, lambda s: s.nll_per_token)
        return [
            *(Measurement("probability", split, title, v) for split, v in probable.items()),
            *(
                Measurement(
                    metric="nll_per_token",
                    split=split,
                    title="Loss per answer token on the records to forget",
                    values=values,
                    unit="nats per token",
                    more_knowledge="lower",
                    bounds=LOSS,
                )
                for split, values in losses.items()
            ),
        ]


@probes.register("exact-memorisation")
class ExactMemorisation(LikelihoodProbe):
    """The share of answer tokens that are the model's first choice, given the true text before.

    Range 0 to 1; higher when the model knows more (Tirumala et al. 2022). High even for a model
    that never saw the text, because most tokens of a word follow from the ones before.
    """

    summary = "the share of answer tokens that are the model's first choice"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each forget record, shared with other probes"
    tier = "smoke"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The forget records as they were trained."""
        return trained_statements(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``exact_memorisation/forget``."""
        title = "Exact memorisation of the answers to forget"
        found = record_means(scores, lambda s: s.exact_memorisation)
        return [
            Measurement("exact_memorisation", split, title, values)
            for split, values in found.items()
        ]


@probes.register("extraction-strength")
class ExtractionStrength(LikelihoodProbe):
    """How little of an answer has to be given before the model completes the rest: 1 - k / T.

    k is the smallest number of the T answer tokens after which every later token is the model's
    first choice (Carlini et al. 2021). Range 0 to 1; higher when the model knows more; 0 when not
    even the last token follows.
    """

    summary = "how little of an answer has to be given before the model completes it"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each forget record, shared with other probes"
    tier = "smoke"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The forget records as they were trained."""
        return trained_statements(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``extraction_strength/forget``."""
        title = "Extraction strength of the answers to forget"
        found = record_means(scores, lambda s: s.extraction_strength)
        return [
            Measurement("extraction_strength", split, title, values)
            for split, values in found.items()
        ]
