from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from unlearn.deletion.request import DeletionRequest
from unlearn.deletion.rules import Pause

DIGEST = "ab" * 32


def test_every_request_gets_its_own_random_id() -> None:
    ids = {DeletionRequest.open(ground="objection").id for _ in range(50)}
    assert len(ids) == 50


def test_a_request_is_received_today_unless_told_otherwise() -> None:
    before = datetime.now(UTC).date()
    request = DeletionRequest.open(ground="objection")
    assert before <= request.received <= datetime.now(UTC).date()
    earlier = DeletionRequest.open(ground="objection", received=date(2026, 1, 31))
    assert earlier.received == date(2026, 1, 31)


def test_a_request_survives_its_file_form() -> None:
    request = DeletionRequest.open(ground="consent-withdrawn")
    assert DeletionRequest.model_validate_json(request.model_dump_json()) == request


def test_a_request_has_no_field_for_a_person() -> None:
    with pytest.raises(ValidationError, match="subject"):
        DeletionRequest.model_validate(
            {
                "id": "0" * 16,
                "received": "2026-01-31",
                "ground": "objection",
                "forget_set": DIGEST,
                "subject": "Ada Quill",
            }
        )


@pytest.mark.parametrize(
    "wrong", [{"ground": "because"}, {"id": "Ada Quill"}, {"forget_set": "ab"}]
)
def test_a_request_refuses_what_is_not_of_its_form(wrong: dict[str, str]) -> None:
    good = DeletionRequest.open(ground="objection").model_dump()
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DeletionRequest.model_validate({**good, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "Ada Quill " + "0" * 16},
        {"id": "0" * 17},
        {"id": "0" * 16 + "\n"},
        {"forget_set": DIGEST + "0"},
        {"forget_set": "x" + DIGEST},
    ],
)
def test_an_id_and_a_digest_are_hexadecimal_from_end_to_end(wrong: dict[str, str]) -> None:
    whole = DeletionRequest.open(ground="objection").model_dump() | wrong
    with pytest.raises(ValidationError, match="should match pattern") as caught:
        DeletionRequest.model_validate(whole)
    assert "Quill" not in str(caught.value)


def test_a_request_knows_its_due_day() -> None:
    request = DeletionRequest.open(ground="objection", received=date(2026, 1, 31))
    assert request.due() == date(2026, 2, 28)
    assert request.model_copy(update={"extended": True}).due() == date(2026, 4, 30)
    noon = datetime(2026, 2, 11, 12, tzinfo=UTC)
    waiting = request.model_copy(update={"pauses": (Pause(since=date(2026, 2, 1)),)})
    assert waiting.due(noon) == date(2026, 3, 10)


def test_today_is_the_day_where_the_answer_is_given() -> None:
    late = datetime(2026, 3, 31, 23, 30, tzinfo=UTC)
    request = DeletionRequest.open(ground="objection", received=date(2026, 1, 31))
    assert request.today(late) == date(2026, 3, 31)
    berlin = request.model_copy(update={"zone": "Europe/Berlin"})
    assert berlin.today(late) == date(2026, 4, 1)
