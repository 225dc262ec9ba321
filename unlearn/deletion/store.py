"""Store: the folder of a request office, and what may be done to a request in it.

registry.sqlite     requests, models, ledger (or a PostgreSQL database)
head.json           the newest signed head of the ledger
keys/               the ledger's signing key; the master key, unless it is kept elsewhere
vault/ID/           what is personal, encrypted under the request's key
evidence/ID/        audits, reports, signed statements
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from unlearn.atomic_folder import write_whole
from unlearn.deletion import records
from unlearn.deletion.ledger import Detail, Flaw, Head
from unlearn.deletion.master_key import MasterKey
from unlearn.deletion.registry import Change, RegisteredModel, Registry, sqlite_url
from unlearn.deletion.request import DeletionRequest, ScopedModel
from unlearn.deletion.rules import Pause
from unlearn.deletion.states import OPEN, after
from unlearn.deletion.vault import Vault
from unlearn.deletion.verification import verify
from unlearn.errors import InputError
from unlearn.signing import public_path, read_private_key, read_public_key, write_new_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from unlearn.forget_set import ForgetSet

FORGET_SET, IDENTITY, PERSONAL = "forget-set", "identity", "personal"
"""What the vault calls the records, who asked, and the texts of both that no reason may repeat."""


class Person(NamedTuple):
    """Who asks. Everything here goes into the vault and nowhere else."""

    subject: str
    identifiers: tuple[str, ...] = ()
    """What else they are known by: an address, a customer number."""


class Store:
    """A request office.

    >>> with Store(Path("office"), create=True) as store:                        # doctest: +SKIP
    ...     store.open(request, Person("Ada Quill"), by="officer")

    Raises:
        InputError: there is no store, its master key is missing, or it is of a newer version.
    """

    def __init__(
        self,
        folder: Path,
        *,
        url: str | None = None,
        master_key: str | None = None,
        create: bool = False,
    ) -> None:
        self.folder = folder
        signing, default = folder / "keys" / "ledger.pem", folder / "keys" / "master.key"
        if not signing.exists():
            self._make(signing, create)
        key = MasterKey.make if create else MasterKey.read
        self.vault = Vault(folder / "vault", key(master_key, default))
        self.registry = Registry(self._database(url), read_private_key(signing))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.registry.close()

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What the ledger's head is signed by."""
        return read_public_key(public_path(self.folder / "keys" / "ledger.pem"))

    def evidence(self, request: str) -> Path:
        """Where the evidence of a request is."""
        return self.folder / "evidence" / request

    def open(
        self,
        request: DeletionRequest,
        person: Person,
        *,
        by: str,
        forget_set: ForgetSet | None = None,
        models: Sequence[ScopedModel] = (),
        again: bool = False,
    ) -> DeletionRequest:
        """Takes a request in; with records and models it is scoped too.

        Raises:
            InputError: it was received in the future, or another one about the same person is open
                and this is not meant to be one ``again``.
        """
        if request.received > request.today():
            raise InputError(
                f"the request was received on {request.received}, which is after today; give the "
                "day on which it came in"
            )
        found_by = [self.vault.blind_index(name) for name in _names(person)]
        with self._nothing_left_of(request.id), self.change() as change:
            self._refuse_twice(change, found_by, again)
            self.vault.create(request.id)
            self.vault.put(request.id, IDENTITY, json.dumps(person._asdict()).encode())
            self.vault.put(request.id, PERSONAL, json.dumps(_names(person)).encode())
            change.add(request, found_by)
            details: dict[str, Detail] = {
                "state": request.state,
                "received": str(request.received),
                "ground": request.ground,
                "rules": request.rules.name,
                "due": str(request.due()),
            }
            change.record(request.id, "received", by=by, details=details)
            if forget_set is not None and models:
                request = self._scope(change, request, forget_set, models, by)
        return request

    def scope(
        self, request: str, forget_set: ForgetSet, models: Sequence[ScopedModel], *, by: str
    ) -> DeletionRequest:
        """Says which facts have to go, and from which models."""
        with self.change() as change:
            return self._scope(change, change.get(request), forget_set, models, by)

    def ask_identity(self, request: str, *, by: str, reason: str = "") -> DeletionRequest:
        """The person is asked to prove who they are; under some rules the clock stands still."""
        with self.change() as change:
            found = change.get(request)
            if found.identity == "asked":
                raise InputError(f"request {request}: the person was asked already")
            pauses = (*found.pauses, Pause(since=found.today()))
            return self._step(
                change, found, "identity-asked", by, reason, identity="asked", pauses=pauses
            )

    def verify_identity(self, request: str, *, by: str, reason: str = "") -> DeletionRequest:
        """The person is who they say they are; the clock goes on."""
        with self.change() as change:
            found = change.get(request)
            pauses = tuple(
                p if p.until else Pause(since=p.since, until=found.today()) for p in found.pauses
            )
            return self._step(
                change, found, "identity-verified", by, reason, identity="verified", pauses=pauses
            )

    def extend(self, request: str, *, by: str, reason: str) -> DeletionRequest:
        """More time, as far as the rules give it; the person has to be told why, in time."""
        with self.change() as change:
            found = change.get(request)
            rules = found.rules
            if rules.extension is None or found.extended:
                why = f"{rules.name} gives none" if rules.extension is None else "it is extended"
                raise InputError(f"request {request} cannot be extended: {why}")
            if found.today() > found.due():
                raise InputError(
                    f"request {request} was due on {found.due()}; an extension has to be told "
                    "before that"
                )
            return self._step(change, found, "extend", by, reason, extended=True)

    def approve(self, request: str, *, by: str, reason: str = "") -> DeletionRequest:
        """The person has a right to it: it may be processed."""
        with self.change() as change:
            found = change.get(request)
            if found.identity == "asked":
                raise InputError(
                    f"request {request} waits for the person to prove who they are; say that they "
                    "did with `unlearn request identity ID --verified`"
                )
            return self._step(change, found, "approve", by, reason)

    def take_step(
        self,
        request: str,
        step: str,
        *,
        by: str,
        reason: str = "",
        details: dict[str, Detail] | None = None,
        within: Change | None = None,
        **changed: Any,
    ) -> DeletionRequest:
        """Any other step of ``unlearn.deletion.states``, with fields of the request it changes.

        Several are taken together, or none, ``within`` one transaction.
        """
        with nullcontext(within) if within else self.change() as change:
            return self._step(change, change.get(request), step, by, reason, details, **changed)

    def close_request(self, request: str, *, by: str, reason: str = "") -> DeletionRequest:
        """Destroys the request's key: nothing of the vault can be read or linked any more.

        The ledger still verifies. To close a request whose closing was interrupted is no error.
        """
        with self.change() as change:
            found = change.get(request)
            if found.state != "closed":
                found = self._step(change, found, "close", by, reason, forget_set="")
            change.forget_identifiers(request)
        # After the commit: a request that is closed and still has a key is found by `verify`, and
        # closed for good by closing it again; one that had lost its key and is open is not.
        self.vault.destroy(request)
        self.registry.checkpoint()
        return found

    def requests(self, due_by: date | None = None) -> list[DeletionRequest]:
        """All requests, the most urgent first; or those whose answer is due by a day."""
        with self.registry.look() as view:
            found = view.requests(OPEN if due_by else None, due_by)
        # A clock that stands still has moved the due day since it was written down.
        return [each for each in found if due_by is None or each.due() <= due_by]

    def get(self, request: str) -> DeletionRequest:
        """The request of an id; see ``View.get``."""
        with self.registry.look() as view:
            return view.get(request)

    def forget_set(self, request: str) -> ForgetSet:
        """The records of a request, under ids that say nothing of whom they are about."""
        content = records.from_bytes(self.vault.get(request, FORGET_SET))
        return records.unnamed(content, request, lambda text: self.vault.digest(request, text))

    def verify(
        self, public_key: Ed25519PublicKey | None = None, kept: Sequence[Head] = ()
    ) -> list[Flaw]:
        """Everything that is wrong with the ledger, or that the registry says differently."""
        heads = [*kept, *([self._head()] if self._head_file.exists() else [])]
        with self.registry.look() as view:
            return verify(view, public_key or self.public_key, heads, self.vault.requests())

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction that writes; the ledger's new head is kept beside the registry."""
        with self.registry.change() as change:
            yield change
            head = change.head()
        self._keep(head)

    @contextmanager
    def _nothing_left_of(self, request: str) -> Iterator[None]:
        """A block that takes a new request in; where it fails, the vault forgets it too."""
        try:
            yield
        except BaseException:
            # Only what the registry surely does not hold; anything else is for `verify` to name.
            with suppress(InputError), self.registry.look() as view:
                if not view.holds(request):
                    self.vault.destroy(request)
            raise

    def _step(
        self,
        change: Change,
        found: DeletionRequest,
        step: str,
        by: str,
        reason: str = "",
        details: dict[str, Detail] | None = None,
        **changed: Any,
    ) -> DeletionRequest:
        state = after(step, found.state, found.id)
        self._refuse_names(found.id, reason)
        request = found.model_copy(update={**changed, "state": state})
        change.update(request)
        all_details = {"state": state, "due": str(request.due()), **(details or {})}
        change.record(found.id, step, by=by, reason=reason, details=all_details)
        return request

    def _scope(
        self,
        change: Change,
        found: DeletionRequest,
        forget_set: ForgetSet,
        models: Sequence[ScopedModel],
        by: str,
    ) -> DeletionRequest:
        self.vault.put(found.id, FORGET_SET, records.to_bytes(forget_set))
        named = json.loads(self.vault.get(found.id, PERSONAL))
        personal = sorted({*named, *records.texts(forget_set)})
        self.vault.put(found.id, PERSONAL, json.dumps(personal).encode())
        named = self.vault.digest(found.id, forget_set.digest)
        for model in models:
            change.register(RegisteredModel(digest=model.digest, source=model.source))
        details: dict[str, Detail] = {"forget_set": named, "records": len(forget_set.forget)}
        details |= {f"model {i}": model.digest for i, model in enumerate(models, start=1)}
        return self._step(
            change,
            found,
            "scope",
            by,
            details=details,
            models=tuple(models),
            records=len(forget_set.forget),
            forget_set=named,
        )

    def _refuse_twice(self, change: Change, found_by: Iterable[str], again: bool) -> None:
        others = [each for each in change.found_by(found_by) if each.state != "closed"]
        if others and not again:
            other = others[0]
            raise InputError(
                f"request {other.id}, received on {other.received} and now {other.state}, is about "
                "the same person; go on with it, or open another with --again"
            )

    def _refuse_names(self, request: str, reason: str) -> None:
        """Keeps what is personal out of a ledger that is kept for ever."""
        if not reason or not self.vault.holds(request, PERSONAL):
            return
        if any(_says(reason, name) for name in json.loads(self.vault.get(request, PERSONAL))):
            raise InputError(
                "the reason names the person or repeats a fact that has to go; the ledger is "
                "kept when the request is closed, so say it without"
            )

    @property
    def _head_file(self) -> Path:
        return self.folder / "head.json"

    def _head(self) -> Head:
        try:
            return Head.model_validate_json(self._head_file.read_bytes())
        except ValueError:
            raise InputError(
                f"{self._head_file} is no head of a ledger; put back the one from a backup, or "
                "remove it, and look why it was changed"
            ) from None

    def _keep(self, head: Head) -> None:
        # Of two workers the later one may have been here already; any head that was is a good one.
        if not self._head_file.exists() or self._head().seq < head.seq:
            # The step is done, whatever becomes of its head; the next step keeps a newer one.
            with suppress(OSError):
                write_whole(self._head_file, head.model_dump_json().encode())

    def _make(self, signing: Path, create: bool) -> None:
        if not create:
            raise InputError(
                f"{self.folder} holds no store of requests; `unlearn request open --store "
                f"{self.folder} …` begins one"
            )
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} holds other files; give a new folder for the store")
        self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        write_new_key(signing)

    def _database(self, url: str | None) -> str:
        """Where the registry is: always where it was at first, lest somebody goes on without it."""
        file = self.folder / "registry.sqlite"
        if url is not None and file.exists():
            raise InputError(
                f"the registry of this store is {file}; leave the database's URL out, or give a "
                "new folder for a store that is kept there"
            )
        if url is None and not file.exists() and self._head_file.exists():
            raise InputError(
                f"{file} is gone, or the registry of this store is kept in a database; give that "
                "one's URL as --store, and the folder as --folder"
            )
        return url or sqlite_url(file)


def _names(person: Person) -> list[str]:
    return [name for name in (person.subject, *person.identifiers) if name.strip()]


def _says(text: str, name: str) -> bool:
    """Whether a text has a name in it as words of its own, whatever the case."""
    pattern = rf"(?<!\w){re.escape(' '.join(name.split()))}(?!\w)"
    return re.search(pattern, " ".join(text.split()), re.IGNORECASE) is not None
