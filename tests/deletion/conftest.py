"""A store of requests in an empty folder, and people who do not exist."""

import secrets
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.deletion import postgres
from unlearn.deletion.request import DeletionRequest, ScopedModel
from unlearn.deletion.store import Person, Store
from unlearn.forget_set import ForgetSet
from unlearn.types import Record

ADA = Person("Ada Quill", ("ada.quill@example.org",))
MODEL = ScopedModel(source="models/a", digest="ab" * 32)


def facts(subject: str = "Ada Quill", *, town: str = "Tarn", name: str = "births") -> ForgetSet:
    def record(split: str, who: str, where: str) -> Record:
        return Record(
            id=f"{split}-{who}",
            subject=who,
            relation="birthplace",
            prompt=f"{who} was born in",
            answer=where,
        )

    return ForgetSet(
        name,
        f"About {subject}.",
        forget=(record("forget", subject, town),),
        retain=(record("retain", "Bo Lindt", "Ulm"),),
        neighbors=(record("neighbors", "Ada Quell", "Bern"),),
        holdout=(record("holdout", "Nils Nemo", "Oslo"),),
    )


@pytest.fixture(scope="session")
def postgresql():
    """The URL of a server."""
    if postgres.binaries() is None:
        pytest.skip(postgres.REASON)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The URL of an empty database; none for the file in the store's folder."""
    if request.param == "sqlite":
        return None
    url = sa.make_url(request.getfixturevalue("postgresql"))
    name = f"office_{secrets.token_hex(4)}"
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def store(tmp_path: Path, database: str | None):
    with Store(tmp_path / "office", url=database, create=True) as made:
        yield made


@pytest.fixture
def opened(store: Store) -> DeletionRequest:
    """A request that waits for a decision."""
    request = DeletionRequest.open(ground="consent-withdrawn")
    return store.open(request, ADA, by="officer", forget_set=facts(), models=[MODEL])
