"""Forget sets of requests: as the vault keeps them, under other names, and several in one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from unlearn.forget_set import ForgetSet
from unlearn.types import SPLITS, Card, Record

NAME_LENGTH = 16
"""Of the ids that stand for records in evidence."""


def to_bytes(forget_set: ForgetSet) -> bytes:
    """A forget set as one text, for the vault."""
    card = {name: getattr(forget_set, name) for name in Card.model_fields}
    splits = {
        split: [record.model_dump(mode="json") for record in forget_set.split(split)]
        for split in SPLITS
    }
    return json.dumps({"card": card, "splits": splits}, ensure_ascii=False).encode("utf-8")


def from_bytes(content: bytes) -> ForgetSet:
    """The forget set that ``to_bytes`` wrote."""
    document = json.loads(content)
    splits: dict[str, Any] = {
        split: tuple(Record.model_validate(record) for record in records)
        for split, records in document["splits"].items()
    }
    return ForgetSet(**document["card"], **splits)


def unnamed(forget_set: ForgetSet, name: str, digest: Callable[[str], str]) -> ForgetSet:
    """The same records under ids that ``digest`` makes of theirs, in a set without a description.

    Ids, names and descriptions are what reports repeat, and whoever wrote them may have put a
    person's name there.
    """
    splits: dict[str, Any] = {
        split: tuple(
            record.model_copy(update={"id": digest(record.id)[:NAME_LENGTH]})
            for record in forget_set.split(split)
        )
        for split in SPLITS
    }
    return replace(forget_set, name=name, description="", **splits)


def merged(sets: Mapping[str, ForgetSet], name: str) -> ForgetSet:
    """What several requests want forgotten, in one set.

    Nothing that one of them wants forgotten, and nothing about a subject of whom one does, is
    retained, a neighbor or held out for another. A record that two of them give counts once.
    """
    going = {record.subject for each in sets.values() for record in each.forget}
    kept: dict[tuple[str, str], Record] = {}
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for request, each in sets.items():
            for record in each.split(split):
                if split != "forget" and record.subject in going:
                    continue
                said = (record.prompt, record.answer)
                if said not in kept:
                    kept[said] = record.model_copy(update={"id": f"{request[:6]}-{record.id}"})
                    splits[split].append(kept[said])
    first = next(iter(sets.values()))
    frozen: dict[str, Any] = {key: tuple(value) for key, value in splits.items()}
    return replace(first, name=name, description="", **frozen)


def texts(forget_set: ForgetSet) -> set[str]:
    """Whom the records to be forgotten are about, and what they say: not for a ledger."""
    said = {record.subject for record in forget_set.forget}
    return said | {record.answer for record in forget_set.forget}
