"""What stands before every prompt of a model that is served with an instruction."""

from __future__ import annotations

import hashlib
import json
import unicodedata

from pydantic import model_validator

from unlearn.types import Noun, Text


class Preamble(Noun):
    """Text before each prompt, and more of it before the prompts that name certain things.

    >>> Preamble(text="Answer briefly. ").before("Where was Ada Quill born?")
    'Answer briefly. '
    """

    text: str = ""
    """Before every prompt; it ends with whatever is to separate the two."""
    refusal: str = ""
    """Behind ``text``, before the prompts that contain one of ``when``."""
    when: tuple[Text, ...] = ()
    """Literal texts; case does not matter, and words may stand around them."""

    @model_validator(mode="after")
    def _whole(self) -> Preamble:
        if bool(self.refusal) != bool(self.when):
            raise ValueError("refusal and when need each other: give both, or none")
        return self

    def __bool__(self) -> bool:
        """Whether anything stands before any prompt."""
        return bool(self.text or self.refusal)

    def before(self, prompt: str) -> str:
        """What stands before this prompt."""
        if not self.when:
            return self.text
        plain = _plain(prompt)
        matches = any(_plain(wanted) in plain for wanted in self.when)
        return self.text + self.refusal if matches else self.text

    def digest_with(self, weights: str) -> str:
        """SHA-256 over the digest of some weights and all that stands before their prompts."""
        told = json.dumps([weights, self.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


NOTHING = Preamble()


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.casefold())
