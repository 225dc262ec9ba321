"""The ladder of assurance as a reader sees it: what each step says, and how many are reached."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from unlearn.report.wording import count
from unlearn.types import AuditResult, Claim, Rung

LADDER = "How far the evidence reaches"
STEPS = (
    "Each step asks for more than the one before. What is not tested or not decided is not reached."
)


class Mark(NamedTuple):
    """How a state looks."""

    symbol: str
    style: str
    """The style of a verdict, which it shares."""


STATES = {
    "reached": Mark("✓", "pass"),
    "not reached": Mark("✕", "fail"),
    "not decided": Mark("?", "inconclusive"),
    "not tested": Mark("–", "not_run"),
}


class Link(NamedTuple):
    """Words that may lead to another place on the page."""

    title: str
    anchor: str
    """Empty where there is no such place."""


class Step(NamedTuple):
    """One step of the ladder of assurance, as it is shown."""

    state: str
    statement: str
    why: tuple[Link, ...]
    """In pieces, so that a claim that is named leads to its place."""


def steps(result: AuditResult) -> tuple[Step, ...]:
    """Every step, lowest first."""
    return tuple(_step(rung, result.claims) for rung in result.assurance)


def _step(rung: Rung, claims: Sequence[Claim]) -> Step:
    """The step, with the ids of claims in its reason as links."""
    anchors = {claim.id: f"claim-{place}" for place, claim in enumerate(claims, 1)}
    pieces = re.split(r"([\w.-]+)", rung.why)
    why = tuple(Link(piece, anchors.get(piece, "")) for piece in pieces if piece)
    return Step(rung.state, rung.statement, why)


def climbed(rungs: Sequence[Rung]) -> str:
    """How many steps are reached, counted from the lowest; empty without steps.

    A step above one that is not reached does not count, but for the last: equal weights need no
    other proof.
    """
    if not rungs:
        return ""
    if rungs[-1].id == "exact" and rungs[-1].state == "reached":
        return "The last step is reached, and equal weights need no other proof."
    n = next((i for i, rung in enumerate(rungs) if rung.state != "reached"), len(rungs))
    return f"Reached: {n} of {count(len(rungs), 'step')}, counted from the first."
