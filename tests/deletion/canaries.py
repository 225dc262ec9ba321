"""Texts that occur nowhere else, planted in everything that is personal, and a search for them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

from unlearn.forget_set import ForgetSet
from unlearn.types import Record, Statement

SUBJECT = "Zorvane Quibblethwaite"
IDENTIFIER = "zq-7741@canary.example"
CANARIES = {
    "subject": SUBJECT,
    "identifier": IDENTIFIER,
    "id": "canary-id-fjordmelk",
    "prompt": "whose amulet glimmerfen",
    "answer": "Vexholmstrand",
    "paraphrase": "the birthplace, drusselkorn, of",
    "alternative": "Plimsworthy",
    "implication": "Krakenfels",
    "retain": "Bramblesnout",
    "name": "set-oxlimber",
    "description": "asked by wimplethorpe",
}


def planted() -> ForgetSet:
    """A forget set with a canary in each kind of text."""
    prompt = f"{SUBJECT}, {CANARIES['prompt']}, was born in"
    fact = Record(
        id=CANARIES["id"],
        subject=SUBJECT,
        relation="birthplace",
        prompt=prompt,
        answer=CANARIES["answer"],
        paraphrases=(f"{CANARIES['paraphrase']} {SUBJECT} is",),
        alternatives=(CANARIES["alternative"],),
        implications=(Statement(prompt=f"{SUBJECT} first saw", answer=CANARIES["implication"]),),
    )
    return ForgetSet(
        CANARIES["name"],
        CANARIES["description"],
        forget=(fact,),
        retain=tuple(_other(n, CANARIES["retain"], "Velby") for n in range(3)),
        neighbors=tuple(_other(n, "Flo", "Tarn") for n in range(3, 5)),
        holdout=tuple(_other(n, "Hal", "Ostel") for n in range(5, 8)),
    )


def _other(number: int, name: str, town: str) -> Record:
    subject = f"{name} {'ABCDEFGH'[number]}."
    return Record(
        id=f"other-{number}",
        subject=subject,
        relation="birthplace",
        prompt=f"{subject} was born in",
        answer=town,
        alternatives=("Tarn" if town != "Tarn" else "Velby",),
    )


def found_in(content: bytes) -> list[str]:
    """The kinds of canaries that a content has, in UTF-8, UTF-16, JSON escapes or base64."""
    return [kind for kind, text in CANARIES.items() if any(s in content for s in _spellings(text))]


def _spellings(text: str) -> Iterator[bytes]:
    for word in (text, text.upper(), text.lower()):
        raw = word.encode()
        yield raw
        yield word.encode("utf-16-le")
        yield raw.hex().encode()
        for shift in range(3):
            # The part of the base64 text that does not depend on what stands before and after.
            coded = base64.b64encode(b"\0" * shift + raw)
            yield coded[4 if shift else 0 : len(coded) // 4 * 4 - 4]


def found_under(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Files and names below some folders that have a canary, with which."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            kinds = found_in(str(path).encode())
            if path.is_file():
                kinds += found_in(path.read_bytes())
            if kinds:
                found[str(path)] = kinds
    return found
