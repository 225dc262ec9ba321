"""How the tables of a request registry came to be, step by step, as Alembic revisions."""
