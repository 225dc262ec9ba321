"""Which part of an audit speaks to which duty: a reading aid, and no legal conclusion.

The rows follow what the texts themselves ask for; none says that a duty is met.
"""

from __future__ import annotations

from typing import NamedTuple

from unlearn.report.ladder import Link
from unlearn.types import AuditResult, Verdict

HEADING = "Which duty each part speaks to"
READING_AID = (
    "A reading aid, and no legal advice. The table says where in this report to look for what a "
    "rule asks about, and what has to come from elsewhere. Whether a duty is met is for those who "
    "are responsible to decide, with their own counsel."
)
COLUMNS = ("Rule", "What it asks about", "Where to look", "What is not here")


class Duty(NamedTuple):
    """One rule, and what of an audit bears on it."""

    rule: str
    asks: str
    sections: tuple[Link, ...]
    """Parts of the report, by heading and anchor."""
    claims: tuple[str, ...]
    """Beginnings of the ids of claims that bear on it."""
    missing: str
    """What this report cannot give."""


class Obligation(NamedTuple):
    """One row of the table, for one audit."""

    rule: str
    asks: str
    evidence: tuple[Link, ...]
    missing: str


PROVENANCE = Link("how the model came to be", "provenance")
CHECKING = Link("how to check this report", "checking")
LIMITS = Link("limits", "limits")
SCOPE = Link("what was audited", "scope")
FIGURES = Link("the figures", "figures")
CLAIMS = Link("the claims", "claims")

LEAKS = ("forgotten-", "survives-", "ranks-like-unseen", "latent-gone")
ATTACKS = ("survives-", "not-a-member", "ranks-like-unseen", "latent-gone")
KEPT = ("retain-kept", "neighbors-kept", "fluency-kept", "speech-kept", "benchmarks-kept")

DUTIES = (
    Duty(
        "GDPR Art. 5(2) and 24",
        "The controller can show what was done, when and by which means.",
        (PROVENANCE, CHECKING),
        (),
        "Who decided, and why: the record of the request.",
    ),
    Duty(
        "GDPR Art. 12(3) and 12(4)",
        "An answer within one month of receipt, reasons where it takes longer or is refused.",
        (),
        (),
        "Receipt, deadlines and answers: the record of the request. The letter to the person is a "
        "file of its own.",
    ),
    Duty(
        "GDPR Art. 17(1) and 17(3)",
        "Erasure of personal data, and the exceptions from it.",
        (LIMITS,),
        LEAKS,
        "Training data, back-ups and logs; whether an exception applies.",
    ),
    Duty(
        "GDPR Art. 19",
        "Recipients of the data are told.",
        (),
        (),
        "Who got the model or something made from it: adapters, merged and rounded copies.",
    ),
    Duty(
        "GDPR Art. 30 and 35",
        "The record of processing, and the impact assessment.",
        (SCOPE, LIMITS),
        (),
        "Both documents; this report can be an annex to them.",
    ),
    Duty(
        "EDPB Opinion 28/2024",
        "Whether personal data can be got out of a model by means reasonably likely to be used.",
        (LIMITS,),
        ATTACKS,
        "Other people whose data the model was trained on; attacks that were not tried.",
    ),
    Duty(
        "CCPA §\u00a01798.105, regulations §\u00a07101",
        "Requests to erase are answered, and records of them kept for 24 months.",
        (SCOPE,),
        LEAKS,
        "Dates of the request; where the records are kept.",
    ),
    Duty(
        "EU AI Act Art. 11, 12 and 53",
        "Technical documentation, logs, and results of evaluation.",
        (FIGURES, PROVENANCE),
        KEPT,
        "Everything about the model that this change did not touch.",
    ),
    Duty(
        "NIST AI 600-1",
        "Tests for leaks of training data, extraction and membership inference.",
        (FIGURES,),
        ATTACKS,
        "Periodic repetition, and the other risks of that profile.",
    ),
    Duty(
        "ISO/IEC 42001, Annex A",
        "Verification and validation, provenance of data and models, event logs.",
        (CLAIMS, PROVENANCE, CHECKING),
        (),
        "The management system around it.",
    ),
)


def obligations(result: AuditResult) -> tuple[Obligation, ...]:
    """The table for one audit: each claim that bears on a rule stands there with its verdict."""
    return tuple(
        Obligation(duty.rule, duty.asks, _evidence(duty, result), duty.missing) for duty in DUTIES
    )


def _evidence(duty: Duty, result: AuditResult) -> tuple[Link, ...]:
    judged = tuple(
        Link(f"{claim.id}: {claim.verdict}", f"claim-{place}")
        for place, claim in enumerate(result.claims, 1)
        if duty.claims and claim.id.startswith(duty.claims)
    )
    tested = any(
        claim.verdict is not Verdict.NOT_RUN
        for claim in result.claims
        if duty.claims and claim.id.startswith(duty.claims)
    )
    untested = (Link("no test in this audit", ""),) if duty.claims and not tested else ()
    return (*judged, *untested, *duty.sections) or (Link("nothing", ""),)
