"""DeletionRequest: what is known of a request without saying whom it is about."""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import Field

from unlearn.deletion.rules import GDPR, Pause, RuleSet
from unlearn.deletion.states import State
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

GROUNDS: tuple[Ground, ...] = get_args(Ground)

Identity = Literal["unchecked", "asked", "verified"]
"""Whether it is known that whoever asks is the person, or acts for them."""


class ScopedModel(Noun):
    """A model that a request is about."""

    source: str
    """Where it is loaded from: a folder, a hub name or ``lab:NAME``."""
    digest: str
    """Of its weights, see ``LanguageModel.digest``."""


class DeletionRequest(Noun):
    """One request to make models forget. It holds no name, no address and no record.

    >>> request = DeletionRequest.open(ground="consent-withdrawn")
    >>> len(request.id), request.state
    (16, 'received')
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Random, so that it says nothing of who asked."""
    state: State = "received"
    received: date
    """In the time zone of whoever answers."""
    zone: str = "UTC"
    ground: Ground
    rules: RuleSet = GDPR
    identity: Identity = "unchecked"
    pauses: tuple[Pause, ...] = ()
    """When the person was asked who they are, and until when they did not say."""
    extended: bool = False
    models: tuple[ScopedModel, ...] = ()
    records: int = Field(default=0, ge=0)
    """How many facts have to go."""
    forget_set: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """An HMAC of the forget set's digest under the request's key; empty while there is none."""
    verdict: str = ""
    """Of the audit of what it was answered with."""
    model_out: str = ""
    """Where the unlearned model, or the policy, was written to."""

    @classmethod
    def open(
        cls,
        *,
        ground: Ground,
        received: date | None = None,
        rules: RuleSet = GDPR,
        zone: str = "UTC",
    ) -> DeletionRequest:
        """A new request with a random id, received today unless another day is given."""
        return cls(
            id=secrets.token_hex(8),
            received=received or datetime.now(ZoneInfo(zone)).date(),
            ground=ground,
            rules=rules,
            zone=zone,
        )

    def today(self, now: datetime | None = None) -> date:
        """The day that it is in the request's time zone."""
        return (now or datetime.now(UTC)).astimezone(ZoneInfo(self.zone)).date()

    def due(self, now: datetime | None = None) -> date:
        """The last day for the answer; of a clock that stands still, if it went on today."""
        return self.rules.due(
            self.received, extended=self.extended, pauses=self.pauses, today=self.today(now)
        )
