"""What forgetting broke: answers and perplexity on what should have stayed as it was."""

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
from unlearn.types import Measured, Statement

KEPT: Mapping[Measured, str] = {
    "retain": "retained records",
    "neighbors": "neighbouring records",
    "holdout": "records no model was trained on",
    "general": "general text",
}


@probes.register("kept-answers")
class KeptAnswers(LikelihoodProbe):
    """The share of records outside the forget split that the model answers.

    Range 0 to 1; higher when the model knows more. On ``holdout`` it is the rate of lucky guesses.
    """

    summary = "whether records that are not to be forgotten are still answered"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each retain, neighbors and holdout record"
    tier = "smoke"
    property = "locality"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The records of every split but forget."""
        return trained_statements(material, *KEPT)

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``answers/retain``, ``answers/neighbors`` and ``answers/holdout``."""
        found = record_means(scores, lambda s: s.correct)
        return [
            Measurement("answers", split, f"Answers given on {KEPT[split]}", values)
            for split, values in found.items()
        ]


@probes.register("perplexity")
class Perplexity(LikelihoodProbe):
    """Loss per answer token, averaged over records; its exponential is the perplexity.

    In nats, from 0 up; lower when the model knows more. It is the perplexity of the answers only:
    text of other kinds may have suffered unseen.
    """

    summary = "loss per token on answers that are not to be forgotten"
    honours = frozenset({"logprobs"})
    cost = (
        "one forward pass for each retain, neighbors and holdout record, shared with other probes"
    )
    tier = "smoke"
    property = "locality"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The records of every split but forget."""
        return trained_statements(material, *KEPT)

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``nll_per_token/retain``, ``nll_per_token/neighbors`` and ``nll_per_token/holdout``."""
        found = record_means(scores, lambda s: s.nll_per_token)
        return [
            Measurement(
                metric="nll_per_token",
                split=split,
                title=f"Loss per answer token on {KEPT[split]} (perplexity is its exponential)",
                values=values,
                unit="nats per token",
                more_knowledge="lower",
                bounds=LOSS,
            )
            for split, values in found.items()
        ]
