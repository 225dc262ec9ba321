"""The letter to the person who asked: one page of plain words that names nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unlearn.report import wording
from unlearn.report.checking import summary
from unlearn.report.readers import request_of
from unlearn.report.signature import Signature
from unlearn.types import AuditResult, Verdict

ASKED = (
    "You asked that a language model, a computer program that writes text, no longer gives out "
    "what it learned about you."
)
MEASURED = (
    "“A stranger” here is a model that had never seen your information. It guesses some things "
    "right, too."
)
ALONE = (
    "There was no model to compare with that had never seen your information, so most of the "
    "questions below could not be answered."
)
COLUMNS = ("What was tested", "What was found")


class Question(NamedTuple):
    """Something a person wants to know, and the claims that answer it."""

    asks: str
    claims: tuple[str, ...]
    """Beginnings of the ids of claims."""


QUESTIONS = (
    Question("Asked directly", ("forgotten-verbatim", "forgotten-answers")),
    Question("Asked in other words or another language", ("forgotten-generality",)),
    Question("Asked for what follows from it", ("forgotten-portability",)),
    Question("Asked many times, or pressed", ("survives-sampling", "survives-elicitation")),
    Question(
        "Whether one can tell that the model once learned about you",
        ("not-a-member", "ranks-like-unseen", "not-over-forgotten"),
    ),
    Question("After the model is made smaller", ("survives-precision",)),
    Question("After the model is taught a little more", ("survives-relearning",)),
    Question("Looking inside the model instead of asking it", ("latent-gone",)),
)

ANSWERS = {
    Verdict.PASS: "No more than a stranger would know.",
    Verdict.FAIL: "More than a stranger would know.",
    Verdict.INCONCLUSIVE: "Could not be decided: there is too little to measure.",
    Verdict.CONFOUNDED: "Could not be decided: it may have another reason.",
    Verdict.NOT_RUN: "Not tested.",
}
WORST_FIRST = (
    Verdict.FAIL,
    Verdict.CONFOUNDED,
    Verdict.INCONCLUSIVE,
    Verdict.NOT_RUN,
    Verdict.PASS,
)

OUTCOMES = {
    Verdict.PASS: "In every test that was made, the model gave away no more about you than a "
    "stranger would know.",
    Verdict.FAIL: "In at least one test the model still gave away more about you than a stranger "
    "would know. The work on your request is not finished by this.",
}
UNDECIDED = (
    "The tests could not decide whether the model still gives away more about you than a stranger "
    "would know. That is not a yes, and not a no."
)
OPEN = (
    "A test can only find what it looks for: another way of asking may still bring something out.",
    "This letter is about one model only. The texts it learned from, copies of it, back-ups and "
    "records of its use are separate, and you can ask about them too.",
    "If the model is changed again, it has to be tested again.",
)
RIGHTS = (
    "You can ask whoever is responsible for the model what they hold about you, what they did, and "
    "why.",
    "If you are not content with the answer, you can complain to a data protection authority. In "
    "the European Union that is the one where you live, where you work, or where you think the "
    "rule was broken; in the United Kingdom it is the Information Commissioner. You can also go to "
    "court. In California you can turn to the California Privacy Protection Agency or the Attorney "
    "General.",
    "A complaint costs nothing, and you need no lawyer for it.",
)
UNSENT = "To be read, completed and sent by whoever is responsible for the model."


@dataclass(frozen=True)
class Letter:
    """The whole letter. Texts are raw: each format escapes them its own way."""

    title: str
    request: str
    """Its id, in words; empty where the audit knows of none."""
    day: str
    asked: str
    done: tuple[str, ...]
    outcome: str
    measured: str
    answers: tuple[tuple[str, str], ...]
    still_open: tuple[str, ...]
    rights: tuple[str, ...]
    small_print: str


def letter(result: AuditResult, signature: Signature | None = None) -> Letter:
    """The letter that an audit gives."""
    request = request_of(result)
    if request is None and signature is not None and signature.fits:
        request = signature.statement.predicate.request
    return Letter(
        title="About your request",
        request=f"request {request}" if request else "",
        day=wording.day(result.created).split(",")[0],
        asked=ASKED,
        done=tuple(_done(result)),
        outcome=OUTCOMES.get(_overall(result), UNDECIDED),
        measured=MEASURED if "reference" in result.models else ALONE,
        answers=tuple((one.asks, ANSWERS[_answer(one, result)]) for one in QUESTIONS),
        still_open=OPEN,
        rights=RIGHTS,
        small_print=_small_print(result, signature),
    )


def _done(result: AuditResult) -> Iterator[str]:
    recorded = result.provenance
    if "served-only" in recorded.get("artifact", ""):
        yield (
            "The model itself was not changed. Something was put in front of it that keeps it from "
            "answering with your information. Whoever gets the model without that is not kept from "
            "anything."
        )
    elif "strategy" in recorded:
        yield (
            "The model was changed so that it should no longer give out this information. The "
            "change was made to the numbers the model consists of. It was not built anew without "
            "your information."
        )
    else:
        yield "How the model was changed is not in the record that this letter is made from."
    if result.label == "suppressed":
        yield "It no longer says it when asked. Traces may remain inside it."


def _answer(question: Question, result: AuditResult) -> Verdict:
    """The worst that was found; where part of it was not tested, it is at best not tested."""
    found = [c.verdict for c in result.claims if c.id.startswith(question.claims)]
    return _worst(found)


def _overall(result: AuditResult) -> Verdict:
    """Over all questions; damage to other knowledge is no matter of this letter."""
    found = [_answer(one, result) for one in QUESTIONS]
    tested = [verdict for verdict in found if verdict is not Verdict.NOT_RUN]
    return _worst(tested)


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return min(verdicts, key=WORST_FIRST.index, default=Verdict.NOT_RUN)


def _small_print(result: AuditResult, signature: Signature | None) -> str:
    audited = result.models.get("unlearned")
    which = f"the model with the fingerprint {audited.digest[:12]}" if audited else "the model"
    return (
        f"Made from the test of {which} on {wording.day(result.created)} with unlearn "
        f"{result.tool_version} ({summary(signature)}). The full report, and how to check it, can "
        "be asked for."
    )
