"""Hostile text in every field: no page breaks, grows without bound, or reaches a terminal."""

import json
import re
from datetime import date
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from huggingface_hub import ModelCard

from unlearn.report import FORMATS, READERS, read, report, sign_audit, verify_audit
from unlearn.report.model_card import model_card
from unlearn.report.overview import render_overview_html, render_overview_markdown, rows_of
from unlearn.types import AuditResult, Noun

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
NASTY = {
    "html": "</script></style></title><img src=x onerror=alert(1)><b onclick='x'>\"'&lt;",
    "template": "{{ 7 * 7 }}{% raw %}{# x #}{{ self.__class__ }}",
    "markdown": "\n# heading\n| a | b |\n```\n[l](javascript:x) <http://x> ![i](//x)\n---\n1. x",
    "terminal": "\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J\r\x08",
    "bidi": "\u202egnp.exe\u202c \u2066a\u2069 \u200e\u200f\u061c",
    "invisible": "\ufeff\u200b\u2060\u00ad\U000e0041\ufff9",
    "noncharacters": "\ufffe\uffff\x00\ud7ff\U0010ffff",
    "yaml": "- a: [b, *c]\n---\n!!python/object:os.system x\n\t: 'x\"",
    "combining": "a" + "\u0301" * 500,
    "long word": "x" * 20_000,
    "a megabyte": "Ada <Quill> & co. " * 60_000,
}
FIXED = {"schema_version", "tier", "verdict", "label", "split", "property", "more_knowledge"}
FIXED |= {"summary", "state", "role"}


def filled(value, text, name=""):
    """The same audit with ``text`` in every field that takes any text, and in every key."""
    if isinstance(value, Noun):
        names = set(type(value).model_fields) - FIXED
        # A key of a figure is unique, and so is the id of a claim.
        update = {one: filled(getattr(value, one), text, one) for one in names}
        return value.model_copy(update=update)
    if isinstance(value, str) and name != "condition":
        return text
    if isinstance(value, tuple):
        return tuple(filled(one, text, name) for one in value)
    if isinstance(value, dict) and name == "provenance":
        return {text: text}
    if isinstance(value, dict):
        return {key: filled(one, text, name) for key, one in value.items()}
    return value


@pytest.fixture(params=NASTY, scope="module")
def hostile(request, result, deep):
    text = NASTY[request.param]
    some = deep.model_copy(update={"examples": result.examples[:1], "claims": deep.claims[:3]})
    return filled(some, text)


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.names = set(), set()
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def usual(result, deep):
    """Elements and attributes of pages with honest text."""
    pages = [FORMATS["html"](one, reader, None) for one in (result, deep) for reader in READERS]
    return Tags("".join(pages))


@pytest.mark.parametrize("reader", READERS)
def test_a_page_keeps_its_elements_its_bounds_and_its_signs(hostile, usual, reader):
    page = FORMATS["html"](hostile, reader, None)
    assert len(page.encode()) < 1_000_000
    shown = Tags(page)
    assert shown.tags <= usual.tags and shown.names <= usual.names
    assert page.count("<script") == 1 == page.count("</script>")
    assert not HIDDEN.search(page)
    if hostile.forget_set.name == NASTY["template"] and reader == "officer":
        assert f"<h1><bdi>{NASTY['template']}</bdi></h1>" in page
    json.loads(re.search(r'json" id="\w+">(.*?)</script>', page)[1])


@pytest.mark.parametrize("reader", READERS)
def test_markdown_stays_bounded_and_inert(hostile, reader):
    shown = FORMATS["md"](hostile, reader, None)
    assert len(shown.encode()) < 1_000_000
    assert not HIDDEN.search(shown)
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?\n\1$", "", shown)
    assert not re.search(r"<(?!br>)", outside)
    assert not re.search(r"(?<!\\)\]\(", outside)


def test_junit_stays_xml_and_bounded(hostile):
    shown = FORMATS["junit"](hostile, "officer", None)
    assert len(list(ET.fromstring(shown).iter("testcase"))) == len(hostile.claims)
    assert len(shown.encode()) < 1_000_000 and not HIDDEN.search(shown)


def test_json_comes_back_as_it_was_and_is_safe_to_look_at(hostile):
    shown = FORMATS["json"](hostile, "officer", None)
    assert AuditResult.model_validate_json(shown) == hostile
    assert not HIDDEN.search(shown)


def test_a_card_and_an_overview_stay_what_they_are(hostile, tmp_path):
    card = ModelCard(model_card(hostile))
    assert card.data.tags == ["machine-unlearning"] and len(str(card)) < 1_000_000
    assert not HIDDEN.search(str(card))
    report(hostile, tmp_path / "audit", ("json", "html"))
    rows = rows_of([tmp_path], tmp_path / "index.html")
    for draw in (render_overview_html, render_overview_markdown):
        page = draw(rows, date(2028, 1, 1))
        assert len(page.encode()) < 1_000_000 and not HIDDEN.search(page)


def test_it_can_be_signed_unless_its_request_is_no_id(hostile, tmp_path):
    report(hostile, tmp_path, ("json",))
    key = Ed25519PrivateKey.generate()
    sign_audit(tmp_path, key)
    assert verify_audit(tmp_path, key.public_key()) == []
    for reader in READERS:
        page = report(read(tmp_path), tmp_path, ("html",), reader)["html"].read_text("utf-8")
        assert not HIDDEN.search(page) and len(page) < 1_000_000
