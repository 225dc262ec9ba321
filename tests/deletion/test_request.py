from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from unlearn.deletion.request import DeletionRequest

DIGEST = "ab" * 32


def test_every_request_gets_its_own_random_id() -> None:
    ids = {DeletionRequest.open(DIGEST, ground="objection").id for _ in range(50)}
    assert len(ids) == 50


def test_a_request_is_received_today_unless_told_otherwise() -> None:
    before = datetime.now(UTC).date()
    request = DeletionRequest.open(DIGEST, ground="objection")
    assert before <= request.received <= datetime.now(UTC).date()
    earlier = DeletionRequest.open(DIGEST, ground="objection", received=date(2026, 1, 31))
    assert earlier.received == date(2026, 1, 31)


def test_a_request_survives_its_file_form() -> None:
    request = DeletionRequest.open(DIGEST, ground="consent-withdrawn", forget_set_name="births")
    assert DeletionRequest.model_validate_json(request.model_dump_json()) == request


def test_a_request_has_no_field_for_a_person() -> None:
    with pytest.raises(ValidationError, match="subject"):
        DeletionRequest.model_validate(
            {
                "id": "0" * 16,
                "received": "2026-01-31",
                "ground": "objection",
                "forget_set_digest": DIGEST,
                "subject": "Ada Quill",
            }
        )


@pytest.mark.parametrize(
    "wrong", [{"ground": "because"}, {"id": "Ada Quill"}, {"forget_set_digest": "ab"}]
)
def test_a_request_refuses_what_is_not_of_its_form(wrong: dict[str, str]) -> None:
    good = DeletionRequest.open(DIGEST, ground="objection").model_dump()
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DeletionRequest.model_validate({**good, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "Ada Quill " + "0" * 16},
        {"id": "0" * 17},
        {"id": "0" * 16 + "\n"},
        {"forget_set_digest": DIGEST + "0"},
        {"forget_set_digest": "x" + DIGEST},
    ],
)
def test_an_id_and_a_digest_are_hexadecimal_from_end_to_end(wrong: dict[str, str]) -> None:
    whole = DeletionRequest.open(DIGEST, ground="objection").model_dump() | wrong
    with pytest.raises(ValidationError, match="should match pattern") as caught:
        DeletionRequest.model_validate(whole)
    assert "Quill" not in str(caught.value)
