"""Journal: what interrupted work had done, so that the next call goes on from there."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearn.errors import InputError

HEAD = "unlearn_journal"


class Journal:
    """Finished pieces by key, one JSON line each, in a file that the finished work removes.

    The first line says what the pieces belong to; a journal of anything else is begun anew. Without
    a path everything is kept in memory only.

    >>> journal = Journal(Path("audit.partial"), "digest of it all", kind="audit")  # doctest: +SKIP
    >>> journal.add("answers", [1.0, 0.0])                                          # doctest: +SKIP

    Raises:
        InputError: the file cannot be read, or is no journal of this kind.
    """

    def __init__(self, path: Path | None, belongs_to: str, *, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.entries: dict[str, Any] = {}
        """Key to what was found before, in the order of finishing."""
        if path is None:
            return
        head = json.dumps({HEAD: kind, "belongs_to": belongs_to})
        lines = self._read(path)
        if lines and lines[0] == head:
            self.entries = dict(_parse(lines[1:]))
        known = [_line(key, value) for key, value in self.entries.items()]
        _rewrite(path, "".join(f"{line}\n" for line in [head, *known]))

    def get(self, key: str) -> Any:
        """The value kept under ``key``; None where there is none."""
        return self.entries.get(key)

    def add(self, key: str, value: Any) -> None:
        """Keeps one finished piece, on disk at once. ``value`` is made of what JSON can hold."""
        line = _line(key, value)
        self.entries[key] = value
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def remove(self) -> None:
        """Removes the file: everything is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> list[str]:
        try:
            # Not splitlines: a text may hold a line separator, which JSON leaves as it is.
            lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"{path} cannot be read as the journal of {_article(self.kind)}; remove it"
            ) from error
        if lines[0] and not lines[0].startswith(json.dumps({HEAD: self.kind})[:-1]):
            raise InputError(
                f"{path} is not the journal of {_article(self.kind)}; remove it or choose another "
                "name"
            )
        return lines


@functools.cache
def code_digest() -> str:
    """SHA-256 over this package's sources, so that figures of other code are not taken over."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _line(key: str, value: Any) -> str:
    # Escaped, for a text may hold half of a surrogate pair, which no file can.
    return json.dumps([key, value], allow_nan=False)


def _rewrite(path: Path, text: str) -> None:
    """Puts ``text`` in place of the file, so that a line which a killed process cut is gone.

    In one step: whoever is killed in it leaves the old file, and loses nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _parse(lines: list[str]) -> Iterator[tuple[str, Any]]:
    for line in filter(None, lines):
        try:
            piece = json.loads(line)
        except ValueError:
            return  # the line that was being written when the process died, and the last one
        if not (isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)):
            return
        yield piece[0], piece[1]
