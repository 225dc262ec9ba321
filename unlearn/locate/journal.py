"""What an interrupted trace had done: finished records, in the form of the trace itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlearn.journal import Journal
from unlearn.locate.trace import FactTrace, Skipped

Entry = FactTrace | Skipped


class TraceJournal:
    """A journal of records that were traced, or found not to be traceable."""

    def __init__(self, path: Path | None, belongs_to: str) -> None:
        self.journal = Journal(path, belongs_to, kind="trace")
        self.entries = {id_: _entry(value) for id_, value in self.journal.entries.items()}
        """Record id to what was found before."""

    def add(self, entry: Entry) -> None:
        """Keeps one finished record, on disk at once."""
        self.entries[entry.id] = entry
        self.journal.add(entry.id, entry.model_dump(mode="json"))

    def remove(self) -> None:
        """Removes the file: everything is done."""
        self.journal.remove()


def _entry(value: Any) -> Entry:
    kind = FactTrace if "token_ids" in value else Skipped
    return kind.model_validate(value)
