"""The first tables: requests, whom they are found by, models in scope, and the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None

LEDGER_IS_APPEND_ONLY = "the ledger is append-only"


def upgrade() -> None:
    """Creates the tables, and has the database itself refuse to change the ledger."""
    _create_requests()
    _create_models()
    _create_ledger()
    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


def _create_requests() -> None:
    op.create_table(
        "request",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("due", sa.Date(), nullable=False),
        sa.Column("opened", sa.String(32), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("worker", sa.String(64), nullable=False, server_default=""),
        sa.Column("leased_until", sa.Float(), nullable=False, server_default="0"),
    )
    op.create_index("request_by_state", "request", ["state", "due"])
    op.create_index("request_by_due", "request", ["due"])
    op.create_table(
        "identifier",
        sa.Column("request", sa.String(16), sa.ForeignKey("request.id"), primary_key=True),
        sa.Column("blind_index", sa.String(64), primary_key=True),
    )
    op.create_index("identifier_by_index", "identifier", ["blind_index"])


def _create_models() -> None:
    op.create_table(
        "model",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("parent", sa.String(64), nullable=False, server_default=""),
        sa.Column("relation", sa.String(20), nullable=False),
        sa.Column("registered", sa.String(32), nullable=False),
    )
    op.create_index("model_by_parent", "model", ["parent"])


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("request", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
    )
    op.create_index("ledger_by_request", "ledger", ["request"])
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
    )
    op.execute("INSERT INTO ledger_head (id, at, document) VALUES (1, '', '{\"seq\": 0}')")


_TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER ledger_no_{verb} BEFORE {verb} ON ledger "
        f"BEGIN SELECT RAISE(ABORT, '{LEDGER_IS_APPEND_ONLY}'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{LEDGER_IS_APPEND_ONLY}'; END $$",
        "CREATE TRIGGER ledger_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()",
    ],
}
