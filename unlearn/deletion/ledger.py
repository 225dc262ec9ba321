"""Ledger: what happened to which request, when and by whom, each entry chained to the one before.

Every entry holds the SHA-256 of the one before it, and the newest hash is signed with Ed25519. So
an entry that was changed, dropped or moved shows, and so does a ledger that ends too early, as long
as somebody kept a later head. Entries hold no personal data: request ids are random, and forget
sets are named by an HMAC under a key that ``close`` destroys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from unlearn.types import Noun

NOTHING = "0" * 64
"""What the first entry is chained to."""

SKEW = timedelta(seconds=2)
"""How far the clocks of two workers may be apart before the ledger calls it running backwards."""

_SIGNED_AS = b"unlearn ledger head 1\n"

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Detail = str | int | float | bool | None


class Entry(Noun):
    """One thing that happened."""

    seq: int = Field(ge=1)
    """Counted from 1 without a gap."""
    at: str
    """UTC, ISO 8601 with microseconds."""
    request: str
    """The request's random id; empty for what concerns the ledger itself."""
    event: str
    by: str
    """The member of staff, or the process, that did it."""
    reason: str = ""
    details: dict[str, Detail] = Field(default_factory=dict)
    """Digests, counts and states."""
    previous: Hash
    """The hash of the entry before."""

    @property
    def text(self) -> str:
        """The canonical JSON: sorted keys, no spaces, ASCII, so that every reader hashes alike."""
        return canonical(self.model_dump(mode="json"))

    @property
    def hash(self) -> str:
        """SHA-256 of ``text``, in hexadecimal."""
        return hash_of(self.text)


class Head(Noun):
    """The newest entry of a ledger, signed: whoever keeps one notices if the ledger loses it."""

    seq: int = Field(ge=0)
    hash: Hash = NOTHING
    key: str = ""
    """The id of the key that signed, see ``unlearn.signing.key_id``."""
    signature: str = ""
    """Ed25519, in hexadecimal."""

    @classmethod
    def sign(cls, entry: Entry, key: Ed25519PrivateKey, key_id: str) -> Head:
        """The head whose newest entry is this one."""
        signature = key.sign(_signed(entry.seq, entry.hash)).hex()
        return cls(seq=entry.seq, hash=entry.hash, key=key_id, signature=signature)

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether this key signed it."""
        try:
            key.verify(bytes.fromhex(self.signature), _signed(self.seq, self.hash))
        except (InvalidSignature, ValueError):
            return False
        return True


FlawKind = Literal["unreadable", "changed", "order", "chain", "clock", "end", "signature", "state"]


class Flaw(Noun):
    """Something that a ledger in order would not have."""

    kind: FlawKind
    seq: int
    """The first entry that it concerns; 0 for the ledger as a whole."""
    message: str

    def __str__(self) -> str:
        return f"entry {self.seq}: {self.message}" if self.seq else self.message


def canonical(value: Any) -> str:
    """A value as the one JSON text that stands for it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def next_entry(
    head: Head,
    *,
    now: datetime,
    last_at: str,
    request: str,
    event: str,
    by: str,
    reason: str = "",
    details: dict[str, Detail] | None = None,
) -> Entry:
    """The entry that follows a head.

    A clock that is behind the last entry by no more than ``SKEW`` counts as standing still; one
    that is further behind is written down as it is, and ``check`` finds it.
    """
    at = now.astimezone(UTC)
    if last_at:
        last = datetime.fromisoformat(last_at)
        at = last if last - SKEW <= at < last else at
    return Entry(
        seq=head.seq + 1,
        at=at.isoformat(timespec="microseconds"),
        request=request,
        event=event,
        by=by,
        reason=reason,
        details=details or {},
        previous=head.hash,
    )


def check(
    lines: Iterable[str],
    head: Head,
    key: Ed25519PublicKey,
    kept: Sequence[Head] = (),
) -> tuple[list[Entry], list[Flaw]]:
    """The entries of a ledger, and everything that is wrong with them or with its head.

    ``lines`` are the entries' canonical texts in order; ``kept`` are heads that were written down
    earlier, each of which the ledger must still hold.
    """
    entries: list[Entry] = []
    flaws: list[Flaw] = []
    previous, last_at = NOTHING, ""
    hashes = {0: NOTHING}
    for position, line in enumerate(lines, start=1):
        entry = _parse(line)
        if entry is None:
            flaws.append(_flaw("unreadable", position, "is no entry of a ledger"))
            previous = hash_of(line)
            continue
        flaws += _flaws_of(entry, line, position, previous, last_at)
        entries.append(entry)
        previous, last_at = hash_of(line), max(last_at, entry.at)
        hashes[position] = previous
    flaws += _flaws_of_heads([head, *kept], hashes, key)
    return entries, flaws


def _parse(line: str) -> Entry | None:
    try:
        return Entry.model_validate_json(line)
    except ValueError:
        return None


def _flaws_of(entry: Entry, line: str, position: int, previous: str, last: str) -> list[Flaw]:
    flaws = []
    if entry.text != line:
        flaws.append(_flaw("changed", position, "is not written canonically: it was edited"))
    if entry.seq != position:
        flaws.append(_flaw("order", position, f"says it is number {entry.seq}: one was moved"))
    if entry.previous != previous:
        message = "does not follow the entry before it: one of the two was changed, or one between"
        flaws.append(_flaw("chain", position, f"{message} them is gone"))
    if last and not _runs_on(last, entry.at):
        flaws.append(_flaw("clock", position, f"is of {entry.at}, before an earlier one of {last}"))
    return flaws


def _runs_on(last: str, at: str) -> bool:
    try:
        return datetime.fromisoformat(at) >= datetime.fromisoformat(last)
    except (ValueError, TypeError):
        return False


def _flaws_of_heads(
    heads: Sequence[Head], hashes: dict[int, str], key: Ed25519PublicKey
) -> list[Flaw]:
    flaws = []
    newest = max(hashes)
    if heads[0].seq != newest:
        message = f"the signed head is entry {heads[0].seq}, and the ledger ends with {newest}"
        flaws.append(_flaw("end", 0, f"{message}: entries were cut off or added"))
    for head in heads:
        if head.seq and not head.signed_by(key):
            message = "the head is not signed by the key given: another key signed it, or it was"
            flaws.append(_flaw("signature", head.seq, f"{message} changed"))
        if head.seq > newest:
            message = f"a head of entry {head.seq} was kept, and the ledger ends with {newest}"
            flaws.append(_flaw("end", 0, f"{message}: it was cut off"))
        elif hashes.get(head.seq, head.hash) != head.hash:
            flaws.append(_flaw("chain", head.seq, "is not what the signed head says it is"))
    return list(dict.fromkeys(flaws))


def _flaw(kind: FlawKind, seq: int, message: str) -> Flaw:
    return Flaw(kind=kind, seq=seq, message=message)


def _signed(seq: int, newest: str) -> bytes:
    return _SIGNED_AS + f"{seq} {newest}".encode("ascii")
