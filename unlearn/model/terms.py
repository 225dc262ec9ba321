"""Literal texts found in prompts, in clear or by their keyed hashes alone.

Case does not matter, nor how an accented letter is composed. A term that begins or ends with a
letter of a script that has capitals, or with a digit, is not found inside a longer word.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

from unlearn.model.policy import Span
from unlearn.types import Noun

Name = Callable[[str], str]
"""What a text is called in a policy: the text itself, or a keyed hash of it."""


def in_clear(text: str) -> str:
    """The text itself."""
    return text


class Keyed:
    """A hash that nobody can compute, or test a guess by, without the key.

    >>> Keyed(bytes(32))("ada")[:8]
    'cfbb8fb1'
    """

    def __init__(self, key: bytes) -> None:
        self._hash = hashlib.blake2b(key=key, digest_size=16)

    def __call__(self, text: str) -> str:
        """128 bits of keyed BLAKE2b, in hexadecimal."""
        keyed = self._hash.copy()
        keyed.update(text.encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()


class Plain(NamedTuple):
    """A text without case and composition, and where each of its characters came from."""

    text: str
    at: list[int]
    """The place of each character, and at the end the length of the original."""


def plain(text: str) -> Plain:
    """The text as terms are compared."""
    found: list[str] = []
    at: list[int] = []
    for begin, end in _clusters(text):
        letters = unicodedata.normalize("NFC", text[begin:end].casefold())
        found.append(letters)
        at += [begin] * len(letters)
    return Plain("".join(found), [*at, len(text)])


class Terms(Noun):
    """Which texts count, by name.

    >>> Terms.of(["Ada Quill"]).spans("Where was ADA QUILL born?")
    [(10, 19)]
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    """How many characters the terms have, which says where to look and little of what they are."""

    @classmethod
    def of(cls, texts: Iterable[str], name: Name = in_clear) -> Terms:
        """The terms that are called what ``name`` calls them."""
        terms = {plain(text).text for text in texts}
        return cls(
            names=tuple(sorted(map(name, terms))), lengths=tuple(sorted(set(map(len, terms))))
        )

    def spans(self, prompt: str, name: Name = in_clear) -> list[Span]:
        """The characters of the prompt that are one of the terms, from left to right."""
        known, (text, at) = set(self.names), plain(prompt)
        return [
            (at[begin], at[begin + length])
            for begin in range(len(text))
            for length in self.lengths
            if _whole(text, begin, begin + length) and name(text[begin : begin + length]) in known
        ]


def words(text: str) -> list[str]:
    """The words of a text as gates count them: runs of letters, marks and digits."""
    apart = (c if unicodedata.category(c)[0] in "LMN" else " " for c in plain(text).text)
    return "".join(apart).split()


def _clusters(text: str) -> Iterable[Span]:
    begin = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _joins(text[place]):
            yield begin, place
            begin = place


def _joins(character: str) -> bool:
    # Vowels and finals of decomposed Hangul join the letter before them as accents do.
    return unicodedata.combining(character) > 0 or "\u1160" <= character <= "\u11ff"


def _whole(text: str, begin: int, end: int) -> bool:
    if end > len(text):
        return False
    cut_before = begin > 0 and _of_word(text[begin]) and _of_word(text[begin - 1])
    cut_behind = end < len(text) and _of_word(text[end - 1]) and _of_word(text[end])
    return not (cut_before or cut_behind)


def _of_word(character: str) -> bool:
    return character.isdigit() or character.upper() != character.lower()
