"""How a reader checks a report: the signature, the commands, and what a signature leaves open."""

from __future__ import annotations

from typing import NamedTuple

from unlearn.report import wording
from unlearn.report.signature import STATEMENT, Signature
from unlearn.report.statement import LIMITS, MODEL

NOT_SIGNED = (
    "This audit is not signed. Whoever has the files can have changed them; the command below "
    "signs them."
)
SIGNED = (
    "This audit is signed. That the signature holds cannot be seen here: a page can print "
    "anything. The command below checks it, without a network."
)
OUTDATED = (
    "The signature beside this audit belongs to another version of it, so this one counts as not "
    "signed."
)
AGAIN = (
    "The audit can be run again from the models with the digests above, the forget set, the tier "
    "and the seed. On other hardware the last digits may differ."
)
SIGN = "unlearn report sign DIR --key KEY --model MODEL_DIR"
VERIFY = "unlearn report verify DIR --key KEY.pub --model MODEL_DIR"
WITHOUT_MODEL = "unlearn report verify DIR --key KEY.pub"


class Checking(NamedTuple):
    """What a report says of its own signature."""

    state: str
    command: str
    facts: tuple[tuple[str, str], ...]
    """What is signed, by name; empty without a signature."""
    limits: tuple[str, ...]
    """What the signature does not prove; empty without one."""


def checking(signature: Signature | None) -> Checking:
    """What to say of a signature, or of there being none."""
    if signature is None or not signature.fits:
        return Checking(NOT_SIGNED if signature is None else OUTDATED, SIGN, (), ())
    said = signature.statement.predicate
    models = [one for one in signature.statement.subject if one.name.startswith(MODEL)]
    facts = (
        ("Signed in", STATEMENT),
        ("Key", ", ".join(signature.key_ids)),
        ("Request", said.request or "none named"),
        ("Files of the model named", f"{len(models):,}" if models else "none"),
        ("Signed with", f"unlearn {said.signed_with.version}, code {said.signed_with.code}"),
    )
    command = VERIFY if models else WITHOUT_MODEL
    return Checking(SIGNED, command, facts, said.limits or LIMITS)


def summary(signature: Signature | None) -> str:
    """The state of the signature in a few words, for the top of a page."""
    if signature is None or not signature.fits:
        return "not signed"
    (first, *_) = signature.key_ids or (wording.NOT_MEASURED,)
    return f"signed, key {first[:12]}"
