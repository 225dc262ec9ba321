"""DeletionRequest: why a forget set has to go, without saying whom it is about."""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime
from typing import Annotated, Literal

from pydantic import Field

from unlearn.types import Noun

Ground = Literal[
    "no-longer-needed",
    "consent-withdrawn",
    "objection",
    "unlawful-processing",
    "legal-obligation",
    "collected-from-a-child",
    "dangerous-capability",
]
"""Why: the grounds of Article 17(1) GDPR, letters a to f, and one for hazardous knowledge."""


class DeletionRequest(Noun):
    """One request to make a model forget. It holds no name, no address and no record.

    >>> request = DeletionRequest.open("0" * 64, ground="consent-withdrawn")
    >>> len(request.id)
    16
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Random, so that it says nothing of who asked."""
    received: date
    ground: Ground
    forget_set_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    forget_set_name: str = ""
    """The name on the forget set's card. Leave it out where the name is a person's."""

    @classmethod
    def open(
        cls,
        forget_set_digest: str,
        *,
        ground: Ground,
        received: date | None = None,
        forget_set_name: str = "",
    ) -> DeletionRequest:
        """A new request with a random id, received today unless another day is given."""
        return cls(
            id=secrets.token_hex(8),
            received=received or datetime.now(UTC).date(),
            ground=ground,
            forget_set_digest=forget_set_digest,
            forget_set_name=forget_set_name,
        )
