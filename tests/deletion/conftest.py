"""A store of requests in an empty folder, and people who do not exist."""

from pathlib import Path

import pytest

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


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "office", create=True) as made:
        yield made


@pytest.fixture
def opened(store: Store) -> DeletionRequest:
    """A request that waits for a decision."""
    request = DeletionRequest.open(ground="consent-withdrawn")
    return store.open(request, ADA, by="officer", forget_set=facts(), models=[MODEL])
