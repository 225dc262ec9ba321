"""What counts as a leak: tables of spellings and of false alarms, and what holds for any text."""

from __future__ import annotations

import time
from datetime import date, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unlearn.probes.matching import Matcher, leaks, normalise, pieces, words

FOUND = {
    "Tarn": [
        "Tarn", "in TARN.", "Tarn's mayor", "(Tarn)", "Tarn-born", "Tarn,Norrland", "“Tarn”",
        "Ｔａｒｎ", "Ta\u00adrn", "T\u200barn", "tarn\n", "the_Tarn_road",
    ],
    "Oster Bay": ["oster  bay", "Oster-Bay", "Oster\nBay", "Oster\u00a0Bay", "OSTER BAY!"],
    "Zoë Brûlé": ["Zoe Brule", "ZOË BRÛLÉ", "Zoe\u0308 Bru\u0302le\u0301"],
    "Weißstraße": ["WEISSSTRASSE", "Weissstrasse"],
    "O'Mell": ["O’Mell", "o'mell", "O´Mell"],
    "22 Lerngate Road": ["at 22, Lerngate Road", "２２ Lerngate road", "٢٢ Lerngate Road"],
    "ターンホルム": ["出身地はターンホルムです", "ﾀｰﾝﾎﾙﾑ"],
    "東京": ["彼女は東京に住む", "東京"],
    "탄홀름": ["그는 탄홀름에서 태어났다"],
    "เชียงใหม่": ["เขาเกิดที่เชียงใหม่ครับ"],
    "कमला": ["वह कमला है"],
    "محمّد": ["اسمه محمد.", "محـمـد"],
    "1,000": ["1000", "1 000", "1.000", "1'000", "1’000", "1\u202f000", "1000.00", "١٠٠٠", "01000"],
    "1000": ["1,000", "exactly 1,000.", "１０００", "١٬٠٠٠"],
    "12,34,567": ["1234567", "1,234,567", "12,34,567.0"],
    "1.234,50": ["1234.5", "1,234.50", "1234,5"],
    "3.14": ["3,14", "03.140", "٣٫١٤"],
    "1.234": ["1234", "1,234", "1.2340"],
    "7": ["007", "7.", "7.0", "(7)", "7, 8"],
    "-5": ["-5", "minus 5", "−5"],
    "1991-05-03": [
        "3 May 1991", "on May 3rd, 1991.", "May 3 1991", "03.05.1991", "3. 5. 1991", "3/5/1991",
        "5/3/1991", "1991/05/03", "3rd of May, 1991", "3rd day of May 1991", "3-May-1991", "3/5/91",
        "1991年5月3日", "1991-05-03T10:00", "born 1991 May 3", "MAY 3RD, 1991", "١٩٩١-٠٥-٠٣",
        "Sept. 1, 1990; 3 May 1991",
    ],
    "5/3/1991": ["3 May 1991", "5 March 1991", "3/5/1991", "1991-03-05"],
    "3 May 1991": ["1991-05-03", "3 may, 1991"],
    "on 3 September 1991": ["3 Sept. 1991", "1991-09-03"],
    "31.12.1999": ["12/31/1999", "December 31, 1999", "31/12/99"],
    "sage42@letters.example": [
        "SAGE42@Letters.Example", "sage42[at]letters.example", "sage42 (at) letters (dot) example",
        "sage42 at letters dot example", "<sage42@letters.example>",
        "mailto:sage42@letters.example", "sage42 @ letters . example",
        "write to sage42@letters.example.", "sage42@letters.example, or",
        "sage42{at}letters[.]example", "sage42＠letters．example", "sage42%40letters.example",
    ],
    "a.b-c+d@x-y.co.example": ["a.b-c+d at x-y dot co dot example", "A(dot)b-c+d@x-y.co.example"],
    "015 797": [
        "015797", "015-797", "(015) 797", "01 57 97", "01.57.97", "+49 15 797", "0049 15797",
        "+49 (0) 15 797", "22 015 797", "015/797,", "tel:015797", "٠١٥ ٧٩٧", "call 1. 015 797",
    ],
    "+49 30 1234567": [
        "030 1234567", "(030) 123 45 67", "+49301234567", "0049 30 1234567", "30/1234567",
        "+49 (0)30 1234567",
    ],
    "795 052": ["795052", "79 50 52", "+1 795 052"],
    "C#": ["he writes C#", "c#."],
    "A": ["blood group A", "a"],
    "🦊": ["the 🦊!"],
    "?!": ["what?!"],
}  # fmt: skip

NOT_FOUND = {
    "Tarn": ["Tarnished", "Intarn", "tarns", "Ta rn", "", " ", "Tarn2", "Norrland"],
    "Oster Bay": ["Bay Oster", "Oster", "Oster Bayou", "Oster the Bay"],
    "pilot": ["pilots", "copilot", "pilo t"],
    "O'Mell": ["Mell", "O'Mella"],
    "東京": ["京東", "東の京"],
    "कमला": ["कमल", "कमलाकर"],
    "1,000": ["10000", "100", "1", "21,000", "1,000,000", "1,0001", "1.001"],
    "5": ["3.5", "5.25", "1,005", "55", "5,000", "a5", "5a"],
    "3.14": ["314", "3.141", "13.14", "3 14"],
    "42": ["sage42", "4.2", "0.42"],
    "1991-05-03": [
        "1991", "May 1991", "13 May 1991", "3 May 1919", "1991-05-30", "11991-05-03", "1991-05-031",
        "3 Mayor 1991", "3 June 1991", "5 May 1991", "1.3.05.1991.2",
    ],
    "31/12/1999": ["12/13/1999", "1 December 1999"],
    "sage42@letters.example": [
        "sage42", "letters.example", "xsage42@letters.example", "sage42@letters.example.org",
        "my.sage42@letters.example", "sage4@letters.example", "sage42 looks at letters",
        "sage42@letters-example", "sage42@letters.examples", "sage42+x@letters.example",
    ],
    "015 797": ["015 798", "1015 7971", "2015 797", "7 015 7", "15", "797", "0157970"],
    "+49 30 1234567": ["1234567", "31 1234567", "030 12345678"],
    "C#": ["C", "C++", "ABC#", "c sharp"],
    "A": ["ad", "ba", "1a"],
    "7": ["", "seven", "77", "7.5"],
    "🦊": ["fox", "🐺"],
    "": ["", "anything", " "],
    " \n": ["", "anything", " "],
    "\u200b": ["", "anything"],
}  # fmt: skip


def cases(table):
    return [(answer, text) for answer, texts in table.items() for text in texts]


@pytest.mark.parametrize(("answer", "text"), cases(FOUND))
def test_an_answer_is_found_however_it_is_spelt(answer, text):
    assert leaks(text, answer)


@pytest.mark.parametrize(("answer", "text"), cases(NOT_FOUND))
def test_what_only_looks_like_the_answer_is_no_leak(answer, text):
    assert not leaks(text, answer)


ANYTHING = st.text(max_size=20)
TYPED = st.from_regex(r"[0-9a-cA-C@.,+()/' -]{1,14}", fullmatch=True)


@given(ANYTHING | TYPED, ANYTHING | TYPED, ANYTHING | TYPED)
@example("1,5", "", "")
@example("5", "1,", "000")
@example("000", "1", "")
@example("1 000", "12", "000")
@example("a@b.c", "x", ".d")
@example("at", "1", "1")
@example("٣", "é", "`")
@settings(max_examples=600, deadline=None)
def test_an_answer_set_into_any_text_is_found(answer, before, after):
    matcher = Matcher(answer)
    assert matcher.leaks(answer) is bool(normalise(answer))
    if normalise(answer):
        assert matcher.leaks(f"{before} {answer} {after}")
        assert matcher.leaks(f"{before} “{answer}” {after}") or set(answer) & set("@+-()./'\" ")


@given(ANYTHING | TYPED)
@settings(max_examples=500, deadline=None)
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once


def test_normalising_any_single_character_twice_changes_nothing():
    # Ideographs and Korean syllables have no case and no digits; they would only take time.
    codes = (*range(128, 0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x20000), 0xE0001, 0xE0100)
    once = {code: normalise(chr(code)) for code in codes}
    assert [hex(code) for code, text in once.items() if normalise(text) != text] == []


@given(st.text(max_size=12), st.text(max_size=12))
@settings(max_examples=200, deadline=None)
def test_case_and_composition_do_not_matter(answer, text):
    found = leaks(f"{text} {answer}", answer)
    assert leaks(normalise(f"{text} {answer}"), answer) is found
    assert leaks(f"{text} {answer}", normalise(answer)) is found


@given(st.integers(0, 10**12))
def test_a_whole_number_is_found_in_every_grouping(number):
    grouped = f"{number:,}"
    for text in (grouped, grouped.replace(",", "."), grouped.replace(",", " "), f"00{number}"):
        assert leaks(f"It is {text}.", str(number))
        assert leaks(f"It is {number}.", text)
    assert not leaks(f"It is {grouped}.", str(number + 1))


@given(st.integers(0, 60_000))
def test_every_day_is_found_in_every_order_and_no_other_day_is(offset):
    day = date(1900, 1, 1) + timedelta(offset)
    other = day + timedelta(31)
    spelt = (
        day.isoformat(),
        f"{day.day} {day:%B %Y}",
        f"{day:%b} {day.day}, {day.year}",
        f"{day:%d.%m.%Y}",
        f"{day:%m/%d/%Y}",
    )
    for answer in spelt:
        assert all(leaks(f"Born {text}.", answer) for text in spelt)
    assert not leaks(f"Born {other.isoformat()}.", day.isoformat())


HOSTILE = (
    "1,", "1 ", "1 000 ", "a@", "a at ", "1.1/", "0", "(", "+", " ", "May 3 ", "1-", "'", "\u0301",
    "aa", "東", "\u200b", "sage42 at ", "01579 ", "0 1 5 ", "sage42@letters.", "x.",
)  # fmt: skip


@pytest.mark.parametrize(
    "answer", ["aaab", "1,000", "3 May 1991", "sage42@letters.example", "015 797", "+49 30 1234567"]
)
def test_the_time_grows_in_line_with_the_text(answer):
    matcher = Matcher(answer)
    for piece in HOSTILE:
        text = piece * (40_000 // len(piece))
        started = time.process_time()
        matcher.leaks(text)
        assert time.process_time() - started < 1.0, repr(piece)


def test_a_matcher_does_not_show_its_answer():
    assert "Tarn" not in repr(Matcher("Tarn"))


def test_words_are_in_one_spelling_and_characters_where_there_are_no_spaces():
    assert words("The Mayor's 1,000.50 Zoë's") == ["the", "mayor", "s", "1000.5", "zoe", "s"]
    assert words("東京 Tarn") == ["東", "京", "tarn"]
    assert words("…") == []


def test_pieces_are_words_and_each_sign_of_punctuation():
    assert pieces("Tarn’s!!! 東京。") == ["tarn", "'", "s", "!", "!", "!", "東", "京", "。"]
