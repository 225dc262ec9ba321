"""Whether the model still answers: trained prompts, held-out wordings, consequences, translations.

An answer counts when every one of its tokens is the model's first choice given the true tokens
before it, which is the case exactly when greedy decoding from the prompt begins with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import (
    Key,
    LikelihoodProbe,
    Material,
    Measurement,
    attached_statements,
    record_means,
    trained_statements,
)
from unlearn.registry import probes
from unlearn.types import Record, Statement


@probes.register("answers")
class Answers(LikelihoodProbe):
    """The share of forget records that the model answers on the trained prompt.

    Range 0 to 1; higher when the model knows more. It misses what greedy decoding hides and
    sampling would show.
    """

    summary = "whether trained prompts still bring the answers to forget"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each forget record, shared with other probes"
    tier = "smoke"
    property = "accuracy"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """The forget records as they were trained."""
        return trained_statements(material, "forget")

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``answers/forget``."""
        return _share_correct(scores, "answers", "Answers given to trained prompts")


@probes.register("held-out-answers")
class HeldOutAnswers(LikelihoodProbe):
    """The share of held-out prompts (``paraphrases``) that the model answers, averaged over facts.

    Range 0 to 1; higher when the model knows more. A model that forgot only the trained wording
    keeps answering here.
    """

    summary = "whether prompts that were never trained on still bring the answers to forget"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each held-out prompt of the forget records"
    tier = "smoke"
    property = "generality"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """Every held-out prompt of a forget fact with the fact's answer, once."""
        return attached_statements(material["forget"], "forget", _paraphrased)

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``held_out_answers/forget``."""
        return _share_correct(scores, "held_out_answers", "Answers given to held-out prompts")


@probes.register("implied-answers")
class ImpliedAnswers(LikelihoodProbe):
    """The share of statements implied by the forget records that the model completes.

    Range 0 to 1; higher when the model knows more.
    """

    summary = "whether what follows from the records to forget is still known"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each implication of the forget records"
    tier = "smoke"
    property = "portability"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """Every implication of a forget fact, once."""
        return attached_statements(material["forget"], "forget", lambda r: r.implications)

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``implied_answers/forget``."""
        return _share_correct(scores, "implied_answers", "Implied answers given")


@probes.register("translated-answers")
class TranslatedAnswers(LikelihoodProbe):
    """The share of translations of the forget records that the model completes.

    Range 0 to 1; higher when the model knows more. Forgetting often stops at the language it was
    carried out in.
    """

    summary = "whether the records to forget are still known in other languages"
    honours = frozenset({"logprobs"})
    cost = "one forward pass for each translation of the forget records"
    tier = "smoke"
    property = "generality"

    def statements(self, material: Material) -> dict[Key, Statement]:
        """Every translation of a forget fact, once."""
        return attached_statements(material["forget"], "forget", lambda r: r.translations)

    def measure(self, scores: Mapping[Key, TokenScores], material: Material) -> list[Measurement]:
        """``translated_answers/forget``."""
        return _share_correct(scores, "translated_answers", "Answers given in another language")


def _paraphrased(record: Record) -> Iterable[Statement]:
    return (
        Statement(prompt=prompt, answer=record.answer, separator=record.separator)
        for prompt in record.paraphrases
    )


def _share_correct(scores: Mapping[Key, TokenScores], metric: str, title: str) -> list[Measurement]:
    found = record_means(scores, lambda s: s.correct)
    return [Measurement(metric, split, title, values) for split, values in found.items()]
