"""Forget sets from CSV tables, as spreadsheets and databases write them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from unlearn.errors import ForgetSetError
from unlearn.forget_set import ForgetSet
from unlearn.types import SPLITS, Record, first_problem, nearest

REQUIRED = ("subject", "prompt", "answer")
OPTIONAL = ("id", "relation", "split", "separator", "paraphrases", "alternatives")
LISTS = ("paraphrases", "alternatives")
DEFAULT_RELATION = "fact"
BETWEEN = "|"
"""Between the entries of a column that holds several; a JSON list is taken too."""


def read_csv(path: Path, name: str, description: str = "") -> ForgetSet:
    """The forget set in a table with a line of headings and a line for each record.

    Columns are ``subject``, ``prompt`` and ``answer``, and may be ``split`` (``forget`` where it is
    empty), ``relation``, ``separator``, ``id``, ``paraphrases`` and ``alternatives``. Commas,
    semicolons and tabs are told apart by the headings. Without an id a record is called by the line
    it begins on.

    Raises:
        ForgetSetError: the first thing that is wrong, with file, line and column; it repeats no
            text of a record.
    """
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for line, row in _rows(path):
        split = row.pop("split", "") or "forget"
        if split not in SPLITS:
            raise ForgetSetError(f"{path}:{line}: column 'split'{_hint(split)}")
        splits[split].append(_record(path, line, row))
    if not splits["forget"]:
        raise ForgetSetError(f"{path} holds no record of the forget split; add one")
    try:
        return ForgetSet(
            name,
            description,
            tuple(splits["forget"]),
            tuple(splits["retain"]),
            tuple(splits["neighbors"]),
            tuple(splits["holdout"]),
        )
    except ForgetSetError as error:
        raise ForgetSetError(f"{path}: {error}") from error


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table with the number of the line each begins on."""
    text = _text(path)
    limit = csv.field_size_limit(len(text) + 1)
    dialect = _dialect(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), dialect, strict=True)
    begins = 1
    columns: list[str] | None = None
    try:
        for cells in reader:
            if columns is None:
                columns = _columns(path, cells)
            elif cells:
                if len(cells) != len(columns):
                    raise ForgetSetError(
                        f"{path}:{begins}: there are {len(cells)} cells, and {len(columns)} "
                        "headings; put cells that hold the separator, quotes or line breaks in "
                        "double quotes"
                    )
                yield begins, dict(zip(columns, cells, strict=True))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ForgetSetError(f"{path}:{begins}: this is no CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
    if columns is None:
        raise ForgetSetError(f"{path} is empty; its first line names the columns")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ForgetSetError(f"there is no file {path}") from None
    except OSError as error:
        raise ForgetSetError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        pass  # and raised below, because a UnicodeDecodeError carries the bytes it failed on
    raise ForgetSetError(f"{path}: not UTF-8; save the file as UTF-8")


def _dialect(headings: str) -> type[csv.Dialect]:
    class Dialect(csv.excel):
        delimiter = max((",", ";", "\t"), key=headings.count)

    return Dialect


def _columns(path: Path, cells: list[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    known = (*REQUIRED, *OPTIONAL)
    for column in columns:
        if column not in known:
            raise ForgetSetError(f"{path}:1: there is no column {column!r}{nearest(column, known)}")
        if columns.count(column) > 1:
            raise ForgetSetError(f"{path}:1: the column {column!r} is there twice")
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise ForgetSetError(f"{path}:1: the column {missing[0]!r} is missing")
    return columns


def _record(path: Path, line: int, row: dict[str, str]) -> Record:
    fields: dict[str, object] = {name: cell for name, cell in row.items() if cell.strip()}
    for name in ("prompt", "answer", "subject"):
        fields[name] = row[name].strip()
    if row.get("separator"):
        fields["separator"] = row["separator"]
    for name in LISTS:
        if name in fields:
            fields[name] = _entries(path, line, name, row[name])
    fields.setdefault("id", f"line-{line}")
    fields.setdefault("relation", DEFAULT_RELATION)
    problem = None
    try:
        return Record.model_validate(fields)
    except ValidationError as error:
        problem = first_problem(error, Record)
    raise ForgetSetError(f"{path}:{line}: column {str(problem).removeprefix('field ')}")


def _entries(path: Path, line: int, name: str, cell: str) -> list[str]:
    if cell.lstrip().startswith("["):
        try:
            entries = json.loads(cell)
        except ValueError:
            entries = None
        if not isinstance(entries, list) or not all(isinstance(each, str) for each in entries):
            raise ForgetSetError(f"{path}:{line}: column {name!r}: no JSON list of texts")
        return entries
    return [entry.strip() for entry in cell.split(BETWEEN) if entry.strip()]


def _hint(split: str) -> str:
    # A cell that is no split may be anything, a name too, so it is not repeated.
    return f": it has to be one of {', '.join(SPLITS)}" if split else ""
