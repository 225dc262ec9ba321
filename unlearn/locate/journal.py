"""Journal: what an interrupted trace had done, so that the next call goes on from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from unlearn.errors import InputError
from unlearn.locate.trace import FactTrace, Skipped

Entry = FactTrace | Skipped


class Journal:
    """Finished records, one JSON line each, in a file that a finished trace removes.

    The first line says what the records belong to; a journal of anything else is begun anew.

    >>> journal = Journal(Path("trace.json.partial"), "digest of it all")   # doctest: +SKIP
    >>> journal.add(fact)                                                    # doctest: +SKIP
    """

    def __init__(self, path: Path | None, belongs_to: str) -> None:
        self.path = path
        self.head = json.dumps({"unlearn_trace_journal": belongs_to})
        self.entries: dict[str, Entry] = {}
        """Record id to what was found before."""
        if path is None:
            return
        lines = _read(path)
        if lines and lines[0] == self.head:
            self.entries = {entry.id: entry for entry in _parse(lines[1:])}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written anew, so that a line which a killed process left half done is gone.
        known = [entry.model_dump_json() for entry in self.entries.values()]
        path.write_text("".join(f"{line}\n" for line in [self.head, *known]), encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """Keeps one finished record, on disk at once."""
        self.entries[entry.id] = entry
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(entry.model_dump_json() + "\n")

    def remove(self) -> None:
        """Removes the file: everything is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _read(path: Path) -> list[str]:
    try:
        # Not splitlines: a model's answer may hold a line separator, which JSON leaves as it is.
        lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read as the journal of a trace; remove it") from error
    if lines[0] and not lines[0].startswith('{"unlearn_trace_journal"'):
        raise InputError(f"{path} is not the journal of a trace; remove it or choose another name")
    return lines


def _parse(lines: list[str]) -> Iterator[Entry]:
    for line in filter(None, lines):
        kind = FactTrace if '"token_ids"' in line else Skipped
        try:
            yield kind.model_validate_json(line)
        except ValidationError:
            return  # the line that was being written when the process died, and the last one
