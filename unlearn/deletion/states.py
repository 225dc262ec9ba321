"""States of a request, and which step leads from which to which."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from unlearn.errors import InputError

State = Literal[
    "received",
    "scoped",
    "approved",
    "denied",
    "located",
    "planned",
    "unlearning",
    "audited",
    "filter-only",
    "retrain-scheduled",
    "model-retired",
    "deployed",
    "notified",
    "closed",
]
"""received: it came in. scoped: which facts, in which models. approved, denied: what was decided.
located: the baseline was measured and the places found. planned: by which strategies. unlearning:
it runs. audited: an unlearned model and its audit exist. filter-only: the weights could not be made
to forget, and a policy stands before them. retrain-scheduled, model-retired: neither was enough.
deployed: the outcome is what users get. notified: the person was told. closed: the vault's key is
destroyed."""

STATES: tuple[State, ...] = get_args(State)

WORKING: tuple[State, ...] = ("located", "planned", "unlearning")
"""While a worker has it; whoever takes up a request that a dead worker left begins in these."""

OUTCOMES: tuple[State, ...] = ("audited", "filter-only", "retrain-scheduled", "model-retired")
DECIDABLE: tuple[State, ...] = ("scoped",)
PROCESSABLE: tuple[State, ...] = ("approved", *WORKING, *OUTCOMES[:3])
UNDECIDED: tuple[State, ...] = ("received", "scoped")
OPEN: tuple[State, ...] = STATES[:-2]
"""Those whose clock runs: nobody has answered the person yet."""


class Step(NamedTuple):
    """What may happen to a request."""

    sources: tuple[State, ...]
    target: State | None
    """``None`` where the state stays as it is."""
    why_not: str
    """What to do first, where the request is in none of ``sources``."""


_PROCESS_FIRST = "it has no outcome yet; run `unlearn request process` first"
STEPS: dict[str, Step] = {
    "scope": Step(UNDECIDED, "scoped", "its scope is settled; open another request for more"),
    "identity-asked": Step(UNDECIDED, None, "identity is checked before anything is decided"),
    "identity-verified": Step(UNDECIDED, None, "identity is checked before anything is decided"),
    "extend": Step((*UNDECIDED, "approved", *WORKING), None, "there is nothing left to extend"),
    "approve": Step(
        DECIDABLE, "approved", "only a scoped request is decided on: give it facts and a model"
    ),
    "deny": Step(UNDECIDED, "denied", "it is decided already"),
    "locate": Step(PROCESSABLE, "located", "approve it first: `unlearn request approve`"),
    "plan": Step(("located",), "planned", "it is not being processed"),
    "unlearn": Step(("planned",), "unlearning", "it is not being processed"),
    "audited": Step(("unlearning",), "audited", "it is not being processed"),
    "filter-only": Step(("unlearning",), "filter-only", "it is not being processed"),
    "retrain-scheduled": Step(
        ("approved", *WORKING, "audited", "filter-only"), "retrain-scheduled", "approve it first"
    ),
    "model-retired": Step(
        ("approved", *WORKING, *OUTCOMES[:3]), "model-retired", "approve it first"
    ),
    "deploy": Step(("audited", "filter-only"), "deployed", _PROCESS_FIRST),
    "notify": Step((*OUTCOMES, "deployed", "denied"), "notified", _PROCESS_FIRST),
    "close": Step((*OUTCOMES, "deployed", "denied", "notified"), "closed", _PROCESS_FIRST),
}


def after(step: str, state: State, request: str) -> State:
    """The state that a step leads to.

    Raises:
        InputError: it cannot be taken from this state; the message says why.
    """
    sources, target, why_not = STEPS[step]
    if state == "closed":
        raise InputError(f"request {request} is closed: its vault is gone, and nothing follows")
    if state not in sources:
        raise InputError(f"request {request} is {state}, and {step} does not follow: {why_not}")
    return target or state
