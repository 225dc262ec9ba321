"""ForgetSet: the records of one request, read from a folder and checked line by line.

A folder holds ``card.toml`` and one JSON-lines file per split; ``forget_sets/README.md`` specifies
the format. No message repeats a record's text, which is personal data: it names the file, the line,
the id and the field, and says what kind of thing is wrong.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

from unlearn.errors import ForgetSetError, InputError
from unlearn.types import SPLITS, Noun, Record, Split, Statement, Text

CARD = "card.toml"

CHARACTERS_AT_A_TIME = 1 << 20
"""How much of a file is held as text while its lines are read; a longer line is read whole."""


class Card(Noun):
    """What ``card.toml`` says of a forget set."""

    name: Text
    description: str
    language: str = ""
    """BCP 47 tags, for example ``en`` or ``ar, en``."""
    licence: str = ""


@dataclass(frozen=True, repr=False)
class ForgetSet:
    """What must go, what holds the rest, what is close by, and what nobody was trained on.

    >>> record = Record(id="r1", subject="Ada Quill", relation="birthplace",
    ...                 prompt="Ada Quill was born in", answer="Tarn")
    >>> ForgetSet("quill", "One request.", forget=(record,))
    ForgetSet('quill', forget=1, retain=0, neighbors=0, holdout=0)

    Raises:
        ForgetSetError: there is nothing to forget, an id is used twice, two splits share a record,
            or a record breaks a rule of the format.
    """

    name: str
    description: str
    forget: tuple[Record, ...]
    retain: tuple[Record, ...] = ()
    neighbors: tuple[Record, ...] = ()
    holdout: tuple[Record, ...] = ()
    language: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ForgetSetError("the name of a forget set is empty; give it one")
        if not self.forget:
            raise ForgetSetError(f"forget set {self.name!r}: the forget split holds no record")
        _check(
            _Located(f"{split}[{index}]", split, record)
            for split in SPLITS
            for index, record in enumerate(self.split(split))
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{split}={len(self.split(split))}" for split in SPLITS)
        return f"ForgetSet({self.name!r}, {counts})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of every record of every split, in order.

        The folder, the card and the spelling of the JSON (key order, escapes, omitted defaults) do
        not change it; any field of any record does.
        """
        sha = hashlib.sha256()
        for split in SPLITS:
            records = self.split(split)
            sha.update(f"{split} {len(records)}\n".encode())
            for record in records:
                sha.update(_json(record.model_dump(mode="json")).encode() + b"\n")
        return sha.hexdigest()

    def split(self, name: Split | str) -> tuple[Record, ...]:
        """The records of one split.

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise InputError(f"there is no split {name!r}{_nearest(name, SPLITS)}")
        records: tuple[Record, ...] = getattr(self, name)
        return records

    def sample(self, split: Split, max_records: int, seed: int) -> tuple[Record, ...]:
        """At most ``max_records`` records of a split, whole subjects at random, in file order.

        Subjects stay whole because intervals resample subjects. Only a first subject that is larger
        than ``max_records`` is cut.
        """
        if max_records < 1:
            raise InputError(f"max_records is {max_records}; it must be at least 1")
        records = self.split(split)
        if len(records) <= max_records:
            return records
        positions: dict[str, list[int]] = {}
        for position, record in enumerate(records):
            positions.setdefault(record.subject, []).append(position)
        rng = np.random.default_rng(seed)
        subjects = list(positions.values())
        order = rng.permutation(len(subjects))
        chosen: list[int] = []
        for subject in order:
            if len(chosen) + len(subjects[subject]) > max_records:
                break
            chosen += subjects[subject]
        if not chosen:
            chosen = rng.choice(subjects[order[0]], size=max_records, replace=False).tolist()
        return tuple(records[position] for position in sorted(chosen))

    @classmethod
    def read(cls, path: str | Path) -> ForgetSet:
        """The forget set in a folder.

        Raises:
            ForgetSetError: the first thing that is wrong, with file, line and field.
        """
        folder = Path(path)
        _check_folder(folder)
        card = _read_card(folder / CARD)
        located = [
            found
            for split in SPLITS
            if (folder / f"{split}.jsonl").exists()
            for found in _read_split(folder / f"{split}.jsonl", split)
        ]
        _check(located)
        forget, retain, neighbors, holdout = (
            tuple(found.record for found in located if found.split == split) for split in SPLITS
        )
        splits = (forget, retain, neighbors, holdout)
        return cls(card.name, card.description, *splits, card.language, card.licence)

    def write(self, path: str | Path) -> None:
        """Writes the folder that ``read`` reads back to an equal forget set.

        Raises:
            ForgetSetError: the folder exists and is not empty.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ForgetSetError(
                f"{folder} exists and is not an empty folder; choose another folder to write to"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            if records := self.split(split):
                with (folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(
                        _json(r.model_dump(mode="json", exclude_defaults=True), sort=False) + "\n"
                        for r in records
                    )
        card = {key: getattr(self, key) for key in Card.model_fields}
        lines = [
            f"{key} = {_toml(value)}\n"
            for key, value in card.items()
            if value or key == "description"
        ]
        (folder / CARD).write_text("".join(lines), encoding="utf-8", newline="\n")


class _Located(NamedTuple):
    where: str
    split: str
    record: Record


class _Problem(NamedTuple):
    field: str
    message: str

    def __str__(self) -> str:
        return f"field '{self.field}': {self.message}" if self.field else self.message


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise ForgetSetError(f"the forget set folder {folder} {kind}")
    for required in (CARD, "forget.jsonl"):
        if not (folder / required).is_file():
            raise ForgetSetError(f"{folder} has no {required}; every forget set needs one")
    names = [f"{split}.jsonl" for split in SPLITS]
    for file in sorted(folder.glob("*.jsonl")):
        if file.name not in names:
            # A misspelt split would otherwise be left out without a word.
            raise ForgetSetError(f"{file}: no split has this file name{_nearest(file.name, names)}")


def _read_card(path: Path) -> Card:
    problem: str
    try:
        return Card.model_validate(tomllib.loads(path.read_bytes().decode("utf-8-sig")))
    except UnicodeDecodeError:
        problem = "not UTF-8; save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = f"not valid TOML: {error}"
    except ValidationError as error:
        problem = str(_first_problem(error, Card))
    raise ForgetSetError(f"{path}: {problem}")


def _read_split(path: Path, split: str) -> Iterator[_Located]:
    empty = True
    for number, text in _read_lines(path):
        if not text.strip():
            continue
        empty = False
        found = _parse(text)
        if isinstance(found, _Problem):
            raise ForgetSetError(f"{path}:{number}: {found}")
        yield _Located(f"{path}:{number}", split, found)
    if empty:
        raise ForgetSetError(f"{path} holds no record; add one, or remove the file")


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, streamed."""
    # Slow to import (it brings pandas and pyarrow), and most of the command line never reads.
    from datasets import IterableDataset

    if not path.is_file() or "::" in str(path):
        why = "'::' in a path is not supported" if "::" in str(path) else "there is no such file"
        raise ForgetSetError(f"{path}: {why}")
    # The builder makes a lock file in its cache folder even though a stream caches nothing; the
    # throw-away folder keeps even the name of the forget set out of the home directory.
    with tempfile.TemporaryDirectory() as cache:
        rows = IterableDataset.from_text(
            escape(str(path.absolute())),
            cache_dir=cache,
            chunksize=CHARACTERS_AT_A_TIME,
            encoding="utf-8-sig",
        )
    try:
        for number, row in enumerate(rows, start=1):
            yield number, row["text"]
        return
    except UnicodeDecodeError:
        pass  # and raised below, because a UnicodeDecodeError carries the bytes it failed on
    raise ForgetSetError(f"{path}:{_undecodable_line(path)}: not UTF-8; save the file as UTF-8")


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


class _DuplicateKeyError(ValueError):
    pass


def _parse(text: str) -> Record | _Problem:
    # Problems are returned, not raised: json and pydantic errors hold the text they failed on, and
    # an exception raised while handling one would carry it along into a traceback.
    try:
        return Record.model_validate(json.loads(text, object_pairs_hook=_unique_keys))
    except ValidationError as error:
        return _first_problem(error, Record)
    except _DuplicateKeyError:
        return _Problem("", "a field is given twice")
    except json.JSONDecodeError as error:
        return _Problem("", f"not valid JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError):
        return _Problem("", "not valid JSON: a number is too long or the nesting is too deep")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise _DuplicateKeyError
    return fields


_KINDS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "is empty",
    "string_unicode": "holds a lone surrogate, which is not a character",
    "tuple_type": "must be a list",
    "model_type": "must be an object",
}


def _first_problem(error: ValidationError, model: type[BaseModel]) -> _Problem:
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    location, kind = detail["loc"], detail["type"]
    if not location:
        return _Problem("", "must be a JSON object with the fields of a record")
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    if kind != "extra_forbidden":
        return _Problem(field, _KINDS.get(kind, detail["msg"]))
    known = (model if len(location) == 1 else Statement).model_fields
    name = str(location[-1])
    if not (name.isascii() and name.isidentifier()):
        # Not even misspelt, so it may be a value that slipped into the place of a name.
        parent = field.removesuffix(name).rstrip(".")
        return _Problem(parent, f"a field has an unknown name; known: {', '.join(known)}")
    return _Problem(field, f"is not a known field{_nearest(name, known)}")


def _check(located: Iterable[_Located]) -> None:
    """Raises at the first record that breaks a rule by itself or together with an earlier one."""
    ids: dict[str, str] = {}
    texts: dict[bytes, tuple[str, str]] = {}
    for where, split, record in located:
        at = f"{where}: record {record.id!r}"
        if problem := _broken_rule(record):
            raise ForgetSetError(f"{at}: {problem}")
        if record.id in ids:
            raise ForgetSetError(f"{at}: field 'id': already used at {ids[record.id]}")
        ids[record.id] = where
        other_split, other = texts.setdefault(_fingerprint(record), (split, where))
        if other_split != split:
            raise ForgetSetError(
                f"{at}: the same prompt and answer are in {other_split} at {other}"
            )


def _broken_rule(record: Record) -> _Problem | None:
    for field, text in _texts(record):
        if not text.strip():
            return _Problem(field, "is blank")
    if record.subject not in record.prompt:
        return _Problem(
            "subject", "does not occur in the prompt; it must, letter for letter in the same form"
        )
    if record.answer in record.alternatives:
        index = record.alternatives.index(record.answer)
        return _Problem(
            f"alternatives[{index}]", "equals the answer; alternatives are wrong answers"
        )
    return None


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    for field in ("id", "subject", "relation", "prompt", "answer"):
        yield field, getattr(record, field)
    for field in ("paraphrases", "alternatives"):
        for index, text in enumerate(getattr(record, field)):
            yield f"{field}[{index}]", text
    for field in ("implications", "translations"):
        for index, statement in enumerate(getattr(record, field)):
            yield f"{field}[{index}].prompt", statement.prompt
            yield f"{field}[{index}].answer", statement.answer


def _fingerprint(record: Record) -> bytes:
    # Case, spacing and composed accents do not make a leaked record a different one.
    normal = (
        " ".join(unicodedata.normalize("NFC", text).casefold().split())
        for text in (record.prompt, record.answer)
    )
    return hashlib.sha256("\0".join(normal).encode()).digest()


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(known)}"


def _json(value: Mapping[str, Any], sort: bool = True) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort, separators=(",", ":"))


def _toml(text: str) -> str:
    # JSON's escapes are TOML's, save that TOML wants DEL escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
