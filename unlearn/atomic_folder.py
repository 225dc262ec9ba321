"""Folders and files that appear whole or not at all, and are on the disk once they have."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2


@contextmanager
def appearing_at(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` that takes its place once the block is done.

    If the block raises, or the process dies in it, ``target`` is as before. An older folder at
    ``target`` is replaced whole, so check first that it may go.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    fresh.mkdir()
    try:
        yield fresh
        for path in [*fresh.iterdir(), fresh]:
            sync(path)
        if target.exists():
            _exchange(fresh, target)
        else:
            fresh.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Removes what killed processes left of targets in a folder; nobody may be writing them now.

    Args:
        folder: where the targets are.
        name: of the target; all of them unless told.
    """
    wanted = name if name == "*" else escape(name)
    for left in folder.glob(f".{wanted}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Writes a file in one step: whoever is interrupted leaves the old one, or none."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def _exchange(fresh: Path, target: Path) -> None:
    """Swaps two folders: in one step where the system can (Linux), else by two renames."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    names = (AT_FDCWD, os.fsencode(fresh), AT_FDCWD, os.fsencode(target))
    if rename is not None and rename(*names, RENAME_EXCHANGE) == 0:
        return
    old = fresh.with_suffix(".old")
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Has what was written to a file, or the entries of a folder, on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no way to flush a folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
