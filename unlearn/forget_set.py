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
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from unlearn.errors import ForgetSetError, InputError
from unlearn.types import SPLITS, Card, Problem, Record, Split, first_problem, nearest

CARD = "card.toml"

CHARACTERS_AT_A_TIME = 1 << 20
"""How much of a file is held as text while its lines are read; a longer line is read whole."""


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
        _check(self)

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
            raise InputError(f"there is no split {name!r}{nearest(name, SPLITS)}")
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
    def read(cls, path: str | PathLike[str]) -> ForgetSet:
        """The forget set in a folder, or the bundled one that ``lab:NAME`` stands for.

        Raises:
            ForgetSetError: the first thing that is wrong, with file, line and field.
            InputError: there is no bundled forget set of that name.
        """
        folder = _resolve(fspath(path))
        _check_folder(folder)
        card = _read_card(folder / CARD)
        files = {split: folder / f"{split}.jsonl" for split in SPLITS}
        lines = {split: array("Q") for split in SPLITS}
        forget, retain, neighbors, holdout = (
            tuple(_read_split(files[split], lines[split])) if files[split].exists() else ()
            for split in SPLITS
        )
        splits = (forget, retain, neighbors, holdout)
        try:
            return cls(card.name, card.description, *splits, card.language, card.licence)
        except _BrokenRuleError as error:
            message = error.told(lambda at: f"{files[at.split]}:{lines[at.split][at.position]}")
        raise ForgetSetError(message)

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


class _Place(NamedTuple):
    split: Split
    position: int


class _BrokenRuleError(ForgetSetError):
    """A record, or two of them, that break a rule; ``told`` says it with other names for places."""

    def __init__(self, place: _Place, record_id: str, problem: str, other: _Place | None = None):
        self.place, self.record_id, self.problem, self.other = place, record_id, problem, other
        super().__init__(self.told("{0.split}[{0.position}]".format))

    def told(self, name: Callable[[_Place], str]) -> str:
        """The message."""
        at = f" at {name(self.other)}" if self.other else ""
        return f"{name(self.place)}: record {self.record_id!r}: {self.problem}{at}"


def _resolve(source: str) -> Path:
    """The folder that a path or ``scheme:name`` stands for."""
    scheme, colon, name = source.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](name)
    if not source.strip():
        raise ForgetSetError("the forget set has an empty name; give a folder, or lab:one-person")
    return Path(source)


def _bundled(name: str) -> Path:
    # By name, as the registry finds strategies: the lab ranks above this room and imports from it.
    folder: Path = import_module("unlearn.lab.bundled").forget_set_path(name)
    return folder


SCHEMES: dict[str, Callable[[str], Path]] = {"lab": _bundled}
"""Scheme to resolver: ``lab:hazard`` is the folder that ``SCHEMES["lab"]("hazard")`` returns."""


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
            raise ForgetSetError(f"{file}: no split has this file name{nearest(file.name, names)}")


def _read_card(path: Path) -> Card:
    problem: str
    try:
        return Card.model_validate(tomllib.loads(path.read_bytes().decode("utf-8-sig")))
    except UnicodeDecodeError:
        problem = "not UTF-8; save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = f"not valid TOML: {error}"
    except ValidationError as error:
        problem = str(first_problem(error, Card))
    raise ForgetSetError(f"{path}: {problem}")


def _read_split(path: Path, lines: array[int]) -> Iterator[Record]:
    """The records of a file; the line of each one is appended to ``lines``."""
    shared: dict[Any, Any] = {}
    for number, text in _read_lines(path):
        if not text.strip():
            continue
        found = _parse(text)
        if isinstance(found, Problem):
            raise ForgetSetError(f"{path}:{number}: {found}")
        lines.append(number)
        yield _share(found, shared)
    if not lines:
        raise ForgetSetError(f"{path} holds no record; add one, or remove the file")


def _share(record: Record, shared: dict[Any, Any]) -> Record:
    """The record, on the one copy of what many records of a file have in common."""
    # Pydantic keeps a set of the fields given in every instance, which is larger than the fields.
    given = record.__pydantic_fields_set__
    shared_given = shared.setdefault(frozenset(given), given)
    object.__setattr__(record, "__pydantic_fields_set__", shared_given)
    for field in ("subject", "relation"):
        text = getattr(record, field)
        record.__dict__[field] = shared.setdefault(text, text)
    return record


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


def _parse(text: str) -> Record | Problem:
    # Problems are returned, not raised: json and pydantic errors hold the text they failed on, and
    # an exception raised while handling one would carry it along into a traceback.
    try:
        return Record.model_validate(json.loads(text, object_pairs_hook=_unique_keys))
    except ValidationError as error:
        return first_problem(error, Record)
    except _DuplicateKeyError:
        return Problem("", "a field is given twice")
    except json.JSONDecodeError as error:
        return Problem("", f"not valid JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError):
        return Problem("", "not valid JSON: a number is too long or the nesting is too deep")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise _DuplicateKeyError
    return fields


def _check(forget_set: ForgetSet) -> None:
    """Raises at the first record that breaks a rule by itself or together with an earlier one."""
    # Half a million records are no rarity, so what is kept of each is small: a number
    # that says where it is, and of its text a short digest.
    ids: dict[str, int] = {}
    texts: dict[bytes, int] = {}
    for number, split in enumerate(SPLITS):
        for position, record in enumerate(forget_set.split(split)):
            at = _Place(split, position)
            code = position * len(SPLITS) + number
            if broken := _broken_rule(record):
                raise _BrokenRuleError(at, record.id, str(broken))
            if (same := ids.setdefault(record.id, code)) != code:
                raise _BrokenRuleError(at, record.id, "field 'id': already used", _place(same))
            other = _place(texts.setdefault(_fingerprint(record), code))
            if other.split != split:
                problem = f"the same prompt and answer are in {other.split}"
                raise _BrokenRuleError(at, record.id, problem, other)


def _place(code: int) -> _Place:
    position, number = divmod(code, len(SPLITS))
    return _Place(SPLITS[number], position)


_PROMPTS, _ANSWERS = {"prompt", "paraphrases"}, {"answer", "alternatives"}
_SEPARATOR = "what stands between prompt and answer goes in 'separator'"


def _broken_rule(record: Record) -> Problem | None:
    for field, text in record.texts():
        if not text.strip():
            return Problem(field, "is blank")
        name = field.rpartition(".")[2].partition("[")[0]
        if name in _PROMPTS and text[-1].isspace():
            return Problem(field, f"ends with white space; {_SEPARATOR}")
        if name in _ANSWERS and text[0].isspace():
            return Problem(field, f"starts with white space; {_SEPARATOR}")
    if record.subject not in record.prompt:
        return Problem(
            "subject", "does not occur in the prompt; it must, letter for letter in the same form"
        )
    if record.answer in record.alternatives:
        index = record.alternatives.index(record.answer)
        return Problem(
            f"alternatives[{index}]", "equals the answer; alternatives are wrong answers"
        )
    return None


def _fingerprint(record: Record) -> bytes:
    # Case, spacing and composed accents do not make a leaked record a different one.
    normal = (
        " ".join(unicodedata.normalize("NFC", text).casefold().split())
        for text in (record.prompt, record.answer)
    )
    return hashlib.blake2b("\0".join(normal).encode(), digest_size=16).digest()


def _json(value: Mapping[str, Any], sort: bool = True) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort, separators=(",", ":"))


def _toml(text: str) -> str:
    # JSON's escapes are TOML's, save that TOML wants DEL escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
