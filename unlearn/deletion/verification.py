"""Whether a ledger is in order, and whether registry and vault say the same as it does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from unlearn.deletion.ledger import Entry, Flaw, Head, check
from unlearn.deletion.registry import View
from unlearn.deletion.request import DeletionRequest


def verify(
    view: View, public_key: Ed25519PublicKey, kept: Sequence[Head], in_vault: Collection[str]
) -> list[Flaw]:
    """Every flaw of a store, those of the ledger first."""
    entries, flaws = check(view.ledger(), view.head(), public_key, kept)
    requests = {request.id: request for request in view.requests()}
    return [
        *flaws,
        *_contradictions(_last_of_each(entries), requests),
        *_left_in_vault(requests, in_vault),
    ]


def _last_of_each(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The newest entry of each request that says a state."""
    return {entry.request: entry for entry in entries if entry.request and "state" in entry.details}


def _contradictions(last: dict[str, Entry], requests: dict[str, DeletionRequest]) -> Iterator[Flaw]:
    for name, entry in last.items():
        request = requests.get(name)
        if request is None:
            yield _flaw(entry.seq, f"request {name} is in the ledger and not in the registry")
        elif request.state != entry.details["state"]:
            message = f"request {name} is {entry.details['state']} here and {request.state}"
            yield _flaw(entry.seq, f"{message} in the registry, which was changed by hand")
    for name in requests.keys() - last.keys():
        yield _flaw(0, f"request {name} is in the registry and not in the ledger")


def _left_in_vault(
    requests: dict[str, DeletionRequest], in_vault: Collection[str]
) -> Iterator[Flaw]:
    held = set(in_vault)
    for name in sorted(held - requests.keys()):
        message = f"the vault holds something of {name}, which is no request: its opening was cut"
        yield _flaw(0, f"{message} off; remove the folder")
    for name, request in requests.items():
        if request.state == "closed" and name in held:
            message = f"request {name} is closed and the vault still holds something of it"
            yield _flaw(0, f"{message}; close it again")
        if request.state != "closed" and name not in held:
            yield _flaw(0, f"request {name} is {request.state} and the vault holds nothing of it")


def _flaw(seq: int, message: str) -> Flaw:
    return Flaw(kind="state", seq=seq, message=message)
