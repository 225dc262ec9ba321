"""Registry: requests, models in scope and the ledger, in one database, changed in transactions.

SQLite by default, PostgreSQL by URL. Whatever changes a request appends to the ledger in the same
transaction, so the two never say different things, whenever a process dies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Engine, event

from unlearn.deletion import tables
from unlearn.deletion.ledger import Detail, Entry, Head, next_entry
from unlearn.deletion.request import DeletionRequest
from unlearn.deletion.states import State
from unlearn.errors import InputError
from unlearn.signing import key_id
from unlearn.types import Noun

BUSY_SECONDS = 60
"""How long a writer waits for another one on SQLite."""


class RegisteredModel(Noun):
    """A model that requests are about, or that was made from one."""

    digest: str
    source: str
    parent: str = ""
    """The digest of the model that it was made from; empty for a base."""
    relation: str = "base"
    """What it is to its parent."""


class Registry:
    """The database of a store.

    Raises:
        InputError: it cannot be opened, or belongs to a newer version.
    """

    def __init__(self, url: str, key: Ed25519PrivateKey) -> None:
        self.key = key
        self._key_id = key_id(key.public_key())
        self.engine = _engine(url)
        try:
            tables.bring_up_to_date(self.engine)
        except BaseException as error:
            self.engine.dispose()
            if not isinstance(error, sa.exc.DBAPIError):
                raise
            raise InputError(f"the registry {_shown(url)} does not open: {error.orig}") from error

    @contextmanager
    def look(self) -> Iterator[View]:
        """A transaction that reads."""
        with self._explained(), self.engine.connect() as database:
            yield View(database)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction that writes: all of it, or nothing where the block raises.

        Raises:
            InputError: the database cannot be reached or written to, or the disk is full.
        """
        with self._explained(), self.engine.connect() as database, database.begin():
            if database.dialect.name == "sqlite":
                # Takes the one writer's place now, so that what is read first is not outdated.
                database.exec_driver_sql("UPDATE ledger_head SET id = 1 WHERE id = 1")
            yield Change(database, self.key, self._key_id)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What keeps a database from working, in one line."""
        try:
            yield
        except sa.exc.OperationalError as error:
            reason = str(error.orig).strip().partition("\n")[0]
            where = self.engine.url.render_as_string(hide_password=True)
            raise InputError(f"the registry {where}: {reason}; nothing was changed") from error

    def checkpoint(self) -> None:
        """Has what was deleted leave SQLite's write-ahead log too."""
        if self.engine.dialect.name == "sqlite":
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                raw.close()

    def close(self) -> None:
        """Lets go of the database."""
        self.engine.dispose()


class View:
    """What a registry holds, as of one transaction."""

    def __init__(self, database: Connection) -> None:
        self.database = database

    def get(self, request: str) -> DeletionRequest:
        """The request of an id.

        Raises:
            InputError: there is none.
        """
        found = self.database.execute(self._one(request)).scalar()
        if found is None:
            raise InputError(
                f"there is no request {request[:40]!r} in this store; `unlearn request list` names "
                "them"
            )
        return DeletionRequest.model_validate(found)

    def holds(self, request: str) -> bool:
        """Whether there is a request of an id."""
        return self.database.execute(self._one(request)).scalar() is not None

    def _one(self, request: str) -> sa.Select[Any]:
        return sa.select(tables.request.c.document).where(tables.request.c.id == request)

    def requests(
        self, states: Iterable[State] | None = None, due_by: date | None = None
    ) -> list[DeletionRequest]:
        """The requests in some states, due no later than a day, the most urgent first."""
        query = sa.select(tables.request.c.document).order_by(
            tables.request.c.due, tables.request.c.opened
        )
        if states is not None:
            query = query.where(tables.request.c.state.in_(list(states)))
        if due_by is not None:
            query = query.where(tables.request.c.due <= due_by)
        return [DeletionRequest.model_validate(row) for row in self.database.scalars(query)]

    def found_by(self, blind_indexes: Iterable[str]) -> list[DeletionRequest]:
        """The requests about whoever one of the blind indexes stands for, the oldest first."""
        theirs = sa.select(tables.identifier.c.request).where(
            tables.identifier.c.blind_index.in_(list(blind_indexes))
        )
        query = (
            sa.select(tables.request.c.document)
            .where(tables.request.c.id.in_(theirs))
            .order_by(tables.request.c.opened)
        )
        return [DeletionRequest.model_validate(row) for row in self.database.scalars(query)]

    def head(self) -> Head:
        """The signed head of the ledger."""
        return self._head()[0]

    def _head(self) -> tuple[Head, str]:
        row = self.database.execute(
            sa.select(tables.ledger_head.c.document, tables.ledger_head.c.at)
        ).one()
        return Head.model_validate(row.document), row.at

    def ledger(self, request: str | None = None) -> Iterator[str]:
        """The canonical texts of the ledger's entries in order, of one request or of all."""
        query = sa.select(tables.ledger.c.text).order_by(tables.ledger.c.seq)
        if request is not None:
            query = query.where(tables.ledger.c.request == request)
        yield from self.database.scalars(query)

    def models(self) -> list[RegisteredModel]:
        """All models that are known, the oldest first."""
        columns = [tables.model.c[name] for name in RegisteredModel.model_fields]
        query = sa.select(*columns).order_by(tables.model.c.registered, tables.model.c.digest)
        return [RegisteredModel(**row._mapping) for row in self.database.execute(query)]

    def lineage(self, digest: str) -> list[str]:
        """A model's digest and those of all that it was made from, as far as they are known."""
        parents = {each.digest: each.parent for each in self.models()}
        found = []
        while digest and digest not in found:
            found.append(digest)
            digest = parents.get(digest, "")
        return found

    def derived(self, digest: str) -> list[RegisteredModel]:
        """The models that were made from one, and from those, as far as they are known."""
        found: dict[str, RegisteredModel] = {}
        parents = {digest}
        while parents:
            made = [each for each in self.models() if each.parent in parents]
            made = [each for each in made if each.digest not in {*found, digest}]
            found |= {each.digest: each for each in made}
            parents = {each.digest for each in made}
        return list(found.values())

    def lease(self, request: str) -> tuple[str, float]:
        """Which worker has a request, and until when, in seconds since 1970."""
        columns = (tables.request.c.worker, tables.request.c.leased_until)
        row = self.database.execute(sa.select(*columns).where(tables.request.c.id == request)).one()
        return row.worker, row.leased_until


class Change(View):
    """A transaction that may write."""

    def __init__(self, database: Connection, key: Ed25519PrivateKey, key_id: str) -> None:
        super().__init__(database)
        self.key, self.key_id = key, key_id

    def _one(self, request: str) -> sa.Select[Any]:
        # Whoever changes a request waits for whoever else does; SQLite has one writer anyway.
        return super()._one(request).with_for_update()

    def record(
        self,
        request: str,
        event: str,
        *,
        by: str,
        reason: str = "",
        details: dict[str, Detail] | None = None,
        now: datetime | None = None,
    ) -> Entry:
        """Appends to the ledger."""
        lock = sa.select(tables.ledger_head.c.id).with_for_update()
        self.database.execute(lock)
        head, last_at = self._head()
        entry = next_entry(
            head,
            now=now or datetime.now(UTC),
            last_at=last_at,
            request=request,
            event=event,
            by=by,
            reason=reason,
            details=details,
        )
        row = {"seq": entry.seq, "request": request, "text": entry.text}
        self.database.execute(sa.insert(tables.ledger).values(row))
        newest = Head.sign(entry, self.key, self.key_id).model_dump(mode="json")
        at = max(entry.at, last_at)
        self.database.execute(sa.update(tables.ledger_head).values(document=newest, at=at))
        return entry

    def add(self, request: DeletionRequest, blind_indexes: Iterable[str]) -> None:
        """Puts a new request in, and whom it is found by."""
        opened = datetime.now(UTC).isoformat(timespec="microseconds")
        row = {"id": request.id, "opened": opened, **_columns(request)}
        self.database.execute(sa.insert(tables.request).values(row))
        self.add_identifiers(request.id, blind_indexes)

    def add_identifiers(self, request: str, blind_indexes: Iterable[str]) -> None:
        """Has a request found by more blind indexes."""
        for index in sorted(set(blind_indexes)):
            row = {"request": request, "blind_index": index}
            self.database.execute(sa.insert(tables.identifier).values(row))

    def update(self, request: DeletionRequest) -> None:
        """Writes a request over what was known of it."""
        mine = tables.request.c.id == request.id
        self.database.execute(sa.update(tables.request).where(mine).values(_columns(request)))

    def forget_identifiers(self, request: str) -> None:
        """Nobody finds the request by whom it is about any more."""
        mine = tables.identifier.c.request == request
        self.database.execute(sa.delete(tables.identifier).where(mine))

    def register(self, model: RegisteredModel) -> None:
        """Remembers a model; one that is known already keeps its parent."""
        known = sa.select(tables.model.c.digest).where(tables.model.c.digest == model.digest)
        if self.database.execute(known).scalar() is None:
            registered = datetime.now(UTC).isoformat(timespec="microseconds")
            row = {**model.model_dump(), "registered": registered}
            self.database.execute(sa.insert(tables.model).values(row))

    def take(
        self,
        worker: str,
        states: Sequence[State],
        *,
        seconds: float,
        wanted: Callable[[DeletionRequest], bool] = lambda request: True,
        most: int | None = None,
    ) -> list[DeletionRequest]:
        """Leases the most urgent request that no living worker has, and others about its models.

        Workers that ask at once get different ones; nothing where there is none.
        """
        free = (
            sa.select(tables.request.c.document)
            .where(tables.request.c.state.in_(list(states)))
            .where(tables.request.c.leased_until < time.time())
            .order_by(tables.request.c.due, tables.request.c.opened)
        )
        found = map(DeletionRequest.model_validate, self.database.scalars(free))
        waiting = [each for each in found if wanted(each)]
        alike = [each.id for each in waiting if each.models == waiting[0].models][:most]
        taken = []
        # In the order of all who hold several, so that two workers never wait for each other.
        for request in sorted(alike):
            with suppress(InputError):  # another worker was faster
                self.hold(request, worker, seconds=seconds)
                taken.append(self.get(request))
        return [each for each in taken if each.state in states]

    def hold(
        self,
        request: str,
        worker: str,
        *,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Leases one request, or renews the lease.

        Raises:
            InputError: another worker has it, and is not known to be dead.
        """
        self.get(request)
        holder, until = self.lease(request)
        if holder != worker and until >= clock():
            raise InputError(
                f"request {request} is being processed by {holder}; if that worker is dead, it can "
                f"be taken up in {until - clock():.0f} s"
            )
        self._lease(request, worker, clock() + seconds)

    def release(self, request: str, worker: str) -> None:
        """Gives a lease back; one that another worker has taken over stays."""
        if self.lease(request)[0] == worker:
            self._lease(request, "", 0.0)

    def _lease(self, request: str, worker: str, until: float) -> None:
        mine = tables.request.c.id == request
        values = {"worker": worker, "leased_until": until}
        self.database.execute(sa.update(tables.request).where(mine).values(values))


def _columns(request: DeletionRequest) -> dict[str, Any]:
    document = json.loads(request.model_dump_json())
    return {"state": request.state, "due": request.due(), "document": document}


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _engine(url: str) -> Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, connect_args=_connect_arguments(parsed))
    except sa.exc.ArgumentError:
        raise InputError(
            "the store is no folder and no database URL such as postgresql://user@host/name"
        ) from None
    except ModuleNotFoundError as error:
        raise InputError(
            f"{_shown(url)} needs the Python package {error.name}: "
            "pip install 'unlearn-toolkit[postgresql]'"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    elif engine.dialect.name != "postgresql":
        raise InputError(
            f"registries are kept in SQLite or PostgreSQL, not in {engine.dialect.name}"
        )
    return engine


def _connect_arguments(url: sa.URL) -> dict[str, Any]:
    return {"timeout": BUSY_SECONDS} if url.get_backend_name() == "sqlite" else {}


def _prepare(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where sqlite3 guesses
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # a commit is on the disk when it returns
        "foreign_keys=ON",
        "secure_delete=ON",  # what is deleted is overwritten
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _shown(url: str) -> str:
    return sa.make_url(url).render_as_string(hide_password=True)
