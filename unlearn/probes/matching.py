"""Whether a text contains an answer, however it is spelt: what counts as a leak of generated text.

An answer is found by its words. An answer that is a number, a date, an e-mail address or a
telephone number is also found in the other ways of writing it. Where a spelling can be read in two
ways, either reading counts: a false alarm can be looked at, a missed leak cannot.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property

_NO_SPACES = (
    r"\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30fa\u30fc-\u318f"
    r"\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, kana, Han: written without spaces. Korean hangs particles on nouns."""

_LETTER = rf"(?:[^\W_{_NO_SPACES}]|[\u0900-\u0963\u0966-\u0dff])"
"""What words are made of. The vowel signs of Indic scripts are marks and no letters to ``re``."""

_GROUP_BY_SPACE = rf"(?<![^\W_{_NO_SPACES}])[1-9]\d{{0,2}}(?: \d{{3}})+(?:[.,]\d+)?(?!{_LETTER})"
_NUMBER = rf"(?<![^\W_{_NO_SPACES}])\d+(?:[.,']\d+)*(?!{_LETTER})"
_WORD = rf"{_LETTER}+|[{_NO_SPACES}]"
_TOKENS = {
    "grouped": re.compile(f"(?P<number>{_GROUP_BY_SPACE}|{_NUMBER})|{_WORD}"),
    "decimal": re.compile(f"(?P<number>{_NUMBER})|{_WORD}"),
}
"""Two readings: 1,234 and 1 234 as one thousand and more, or as a decimal and as two numbers."""

_PIECES = re.compile(rf"{_WORD}|[^\w\s]")

_GROUPED = re.compile(
    r"([1-9]\d{0,2}(?:([., '])\d{3})(?:\2\d{3})*|[1-9]\d?(?:,\d\d)+,\d{3})([.,]\d+)?"
)
"""Three digits a group, or three and then twos as in India; then perhaps decimals."""

_DECIMAL = re.compile(r"(\d+)[.,](\d+)")

_IGNORED_MARKS = frozenset({1, *range(10, 36), 202, *range(214, 235), 240})
"""Combining classes of accents and of Arabic and Hebrew vowels. Others are part of the letter."""

_SPELLINGS = {
    ord(old): new
    for new, olds in {"'": "‘’‛ʼ′", '"': "“”„″", "-": "‐‑‒–—―−﹘﹣", ".": "٫", ",": "٬،"}.items()
    for old in olds
} | dict.fromkeys([0x0640, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
"""Quotation marks, dashes and separators in one spelling; Arabic stretching and variants are left
out."""

_MONTHS = "january february march april may june july august september october november december"
_MONTH = {name[:n]: i for i, name in enumerate(_MONTHS.split(), 1) for n in (3, 4, len(name))}
_NAME = r"(?P<month>[a-z]{3,9})\.?"
_DAY = r"(?P<day>\d{1,2})"
_YEAR = r"(?P<year>\d{4})"
_DATES = tuple(
    re.compile(rf"(?<!\d)(?<!\d[./-]){pattern}(?![./-]?\d)")
    for pattern in (
        rf"{_YEAR}(?P<sep>[-/.])(?P<month>\d{{1,2}})(?P=sep){_DAY}",
        rf"{_YEAR} ?年 ?(?P<month>\d{{1,2}}) ?月 ?{_DAY}",
        r"(?P<first>\d{1,2})(?P<sep>[-/.]) ?(?P<second>\d{1,2})(?P=sep) ?(?P<year>\d{4}|\d\d)",
        rf"{_DAY}(?:st|nd|rd|th|\.)?[ -]?(?:day )?(?:of )?{_NAME},?[ -]?{_YEAR}",
        rf"(?<![a-z]){_NAME}[ -]?{_DAY}(?:st|nd|rd|th)?,?[ -]{_YEAR}",
        rf"{_YEAR},?[ -]{_NAME}[ -]{_DAY}(?:st|nd|rd|th)?",
    )
)

_EMAIL = re.compile(r"(?:mailto:)?([\w.+%'-]+)@([\w-]+(?:\.[\w-]+)+)")
_AT = r" ?(?:@|%40|[\[({<] ?(?:at|@) ?[\])}>]|(?<= )at(?= )) ?"
_DOT = r" ?(?:\.|[\[({<] ?(?:dot|\.) ?[\])}>]|(?<= )dot(?= )) ?"

_PHONE = re.compile(r"\+?[\d ()./-]+")
_PHONE_DIGITS = 6
_BETWEEN_DIGITS = r"[ ()./-]{0,3}"
_COUNTRY = re.compile(r"[17]|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|\d{3}")
"""The countries' prefixes of one and of two digits (ITU-T E.164); the others have three."""


def normalise(text: str) -> str:
    """The text in one spelling: compatibility forms, case, accents, digits, dashes, white space.

    NFKC and case folding as in Unicode, accents and invisible characters left out, every decimal
    digit as 0 to 9, runs of white space as one space. Normalising twice changes nothing.
    """
    if not text.isascii():
        text = _fold(_fold(text))
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """The words of a text in one spelling; a character where a script has no spaces."""
    return _tokens(normalise(text), "decimal")


def pieces(text: str) -> list[str]:
    """The words and the punctuation of a text in one spelling, each sign on its own."""
    return _PIECES.findall(normalise(text))


def leaks(text: str, answer: str) -> bool:
    """Whether the text contains the answer; see ``Matcher``.

    >>> leaks("She was born on May 3rd, 1991.", "1991-05-03"), leaks("Tarnished", "Tarn")
    (True, False)
    """
    return Matcher(answer).leaks(text)


@dataclass(frozen=True, repr=False)
class Matcher:
    """Looks for one answer in many texts.

    The words of the answer have to occur in a row, whatever case, accents or punctuation; Tarn is
    not in Tarnished. In scripts without spaces, and in Korean, any place in the text counts.
    Numbers match by value (1,000 and 1.000 and 1 000), dates by day, e-mail addresses also where
    "at" and "dot" are spelt out, telephone numbers by digits, with or without a country's prefix.
    An answer without a letter or digit, or with a single letter, has to occur as it stands; an
    empty one never leaks. The time is linear in the length of the text.

    Known failures: it misses what is said in other words, numbers in words, words spelt letter by
    letter, and inflected words (Finnish, Arabic with a particle in front). It ignores the signs of
    numbers, and it finds short common answers by chance: only a model that never saw the answers
    tells how often.
    """

    answer: str

    def leaks(self, text: str) -> bool:
        """Whether the text contains the answer."""
        folded = normalise(text)
        if self._literal is not None:
            return self._literal.search(folded) is not None
        if self._contact is not None and self._contact.search(folded):
            return True
        if _EMAIL.fullmatch(self._folded):
            return False
        if self._dates and any(self._dates & found for found in _dates_in(folded)):
            return True
        haystacks = {_row(_tokens(folded, reading)) for reading in _TOKENS}
        return any(needle in haystack for needle in self._needles for haystack in haystacks)

    @cached_property
    def _folded(self) -> str:
        return normalise(self.answer)

    @cached_property
    def _needles(self) -> frozenset[str]:
        return frozenset(_row(_tokens(self._folded, reading)) for reading in _TOKENS)

    @cached_property
    def _literal(self) -> re.Pattern[str] | None:
        """Set where there are too few letters and digits to go by."""
        if not self._folded:
            return re.compile(r"(?!)")
        signs = re.findall(r"[^\W_]", self._folded)
        if len(signs) > 1 or "".join(signs).isdecimal():
            return None
        before = rf"(?<!{_LETTER})" if re.match(r"\w", self._folded) else ""
        after = rf"(?!{_LETTER})" if re.search(r"\w\Z", self._folded) else ""
        return re.compile(before + re.escape(self._folded) + after)

    @cached_property
    def _dates(self) -> frozenset[date]:
        found = list(_dates_in(self._folded, whole=True))
        return frozenset().union(*found)

    @cached_property
    def _contact(self) -> re.Pattern[str] | None:
        """Finds the other spellings of an address or number."""
        email = _EMAIL.fullmatch(self._folded)
        if email:
            return _email_pattern(email[1], email[2])
        if self._dates or not _PHONE.fullmatch(self._folded):
            return None
        digits = re.sub(r"\D", "", self._folded)
        return _phone_pattern(digits, self._folded) if len(digits) >= _PHONE_DIGITS else None


def _fold(text: str) -> str:
    split = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = (
        str(unicodedata.decimal(c)) if c.isdecimal() else c
        for c in split.translate(_SPELLINGS)
        if unicodedata.category(c) != "Cf" and unicodedata.combining(c) not in _IGNORED_MARKS
    )
    return unicodedata.normalize("NFKC", "".join(kept))


def _row(tokens: list[str]) -> str:
    return f" {' '.join(tokens)} "


def _tokens(folded: str, reading: str) -> list[str]:
    """The words and numbers of a normalised text, numbers by value."""
    found: list[str] = []
    for match in _TOKENS[reading].finditer(folded):
        if match["number"] is None:
            found.append(match[0])
        else:
            found += _values(match[0], reading)
    return found


def _values(number: str, reading: str) -> Iterator[str]:
    """The value of a number, in one spelling; of a list or version number, that of each part."""
    decimal, grouped = _DECIMAL.fullmatch(number), _GROUPED.fullmatch(number)
    if grouped and (reading == "grouped" or not decimal):
        yield _value(re.sub(r"\D", "", grouped[1]), (grouped[3] or "")[1:])
    elif decimal:
        # 5,000 may be a decimal, but nobody means 5 by it.
        yield ".".join((_value(decimal[1]), decimal[2])) if grouped else _value(*decimal.groups())
    else:
        yield from (_value(part) for part in re.findall(r"\d+", number))


def _value(whole: str, fraction: str = "") -> str:
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _dates_in(folded: str, *, whole: bool = False) -> Iterator[frozenset[date]]:
    """What each date in a normalised text can mean; ``whole``: only a date that is all of it."""
    for pattern in _DATES:
        for match in pattern.finditer(folded):
            if not whole or match[0] == folded.removeprefix("on ").removeprefix("the ").rstrip("."):
                yield frozenset(_readings(match.groupdict()))


def _readings(parts: dict[str, str]) -> Iterator[date]:
    if "first" in parts:
        orders = [(parts["first"], parts["second"]), (parts["second"], parts["first"])]
    else:
        orders = [(parts["day"], parts["month"])]
    year = int(parts["year"])
    years = [1900 + year, 2000 + year] if len(parts["year"]) == 2 else [year]
    for day, month in orders:
        number = int(month) if month.isdecimal() else _MONTH.get(month, 0)
        for y in years:
            try:
                yield date(y, number, int(day))
            except ValueError:  # no such day
                continue


def _email_pattern(local: str, domain: str) -> re.Pattern[str]:
    def spelt(part: str) -> str:
        return _DOT.join(re.escape(piece) for piece in part.split("."))

    # An address that only begins or ends with the answer is another one.
    before, after = r"(?<![\w+%])(?<!\w[.-])", r"(?![\w-])(?!\.\w)"
    return re.compile(f"(?:(?<=%40)|{before}){spelt(local)}{_AT}{spelt(domain)}{after}")


def _phone_pattern(digits: str, folded: str) -> re.Pattern[str]:
    """The digits with anything usual between them, with or without the prefix of a country."""

    def spelt(number: str) -> str:
        return _BETWEEN_DIGITS.join(number)

    between, number = _BETWEEN_DIGITS, digits.lstrip("0")
    abroad = folded.startswith("+") or digits.startswith("00")
    country = _COUNTRY.match(number) if abroad else None
    local = number[country.end() :].lstrip("0") if country else number
    if not local or (country and len(local) < _PHONE_DIGITS):
        form = spelt(digits)
    else:
        code = spelt(country[0]) if country else r"\d{1,3}"
        plus = r"(?:\+|00)?" if country else r"(?:\+|00)"
        form = rf"(?:{plus} ?{code}{between}(?:0{between})?|0{between})?{spelt(local)}"
    return re.compile(rf"(?<!\d)(?<!\d[.,]){form}(?![.,]?\d)")
