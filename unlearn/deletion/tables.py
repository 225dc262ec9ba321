"""The tables of a registry, and how a database is brought up to them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Engine

from unlearn.errors import InputError

SCHEMA = "r0001"
"""The newest revision in ``unlearn.migrations``."""

metadata = sa.MetaData()

request = sa.Table(
    "request",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("due", sa.Date, nullable=False),
    sa.Column("opened", sa.String(32), nullable=False),
    # The DeletionRequest as JSON; the columns beside it are those that are searched by.
    sa.Column("document", sa.JSON, nullable=False),
    sa.Column("worker", sa.String(64), nullable=False, server_default=""),
    sa.Column("leased_until", sa.Float, nullable=False, server_default="0"),
    sa.Index("request_by_state", "state", "due"),
    sa.Index("request_by_due", "due"),
)
identifier = sa.Table(
    "identifier",
    metadata,
    sa.Column("request", sa.String(16), sa.ForeignKey("request.id"), primary_key=True),
    sa.Column("blind_index", sa.String(64), primary_key=True),
    sa.Index("identifier_by_index", "blind_index"),
)
model = sa.Table(
    "model",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("parent", sa.String(64), nullable=False, server_default=""),
    sa.Column("relation", sa.String(20), nullable=False),
    sa.Column("registered", sa.String(32), nullable=False),
    sa.Index("model_by_parent", "parent"),
)
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("request", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("ledger_by_request", "request"),
)
ledger_head = sa.Table(
    "ledger_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)

_MIGRATION_LOCK = 0x756E6C72
"""What workers that start at once on PostgreSQL wait for; any number that nobody else takes."""


def bring_up_to_date(engine: Engine) -> None:
    """Creates the tables or migrates them, one process at a time.

    Raises:
        InputError: a newer version of this package has been here.
    """
    if _revision(engine) == SCHEMA:
        return
    # Slow to import, and needed once in the life of a registry.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    from unlearn import migrations

    script = ScriptDirectory(migrations.__path__[0], version_locations=[migrations.__path__[0]])

    def steps(revision: object, context: object) -> object:
        return script._upgrade_revs("head", revision)  # type: ignore[arg-type]

    with EnvironmentContext(Config(), script, fn=steps) as environment, engine.begin() as database:
        if engine.dialect.name == "postgresql":
            database.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        environment.configure(connection=database)
        try:
            with environment.begin_transaction():
                environment.run_migrations()
        except CommandError:
            raise InputError(
                f"the registry has the tables of another version of unlearn "
                f"({_revision(engine)}); this one knows them up to {SCHEMA}, so update it"
            ) from None


def _revision(engine: Engine) -> str | None:
    with engine.connect() as database:
        if not sa.inspect(database).has_table("alembic_version"):
            return None
        found = database.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
