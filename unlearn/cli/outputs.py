"""Where results are written: whole or not at all, and never over what someone else wrote."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from unlearn.errors import InputError

SCRATCH = ".unlearn-"
"""How a folder of unfinished results is called; it is left behind only by a killed process."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder that we write."""

    name: str
    marker: str
    """The file that shows that we wrote a folder of this kind."""
    contents: tuple[str, ...]
    """Patterns of everything that such a folder holds."""

    def holds(self, entry: Path) -> bool:
        """Whether an entry of a folder is one that we write."""
        return any(fnmatch(entry.name, pattern) for pattern in (*self.contents, SCRATCH + "*"))


ARTIFACT = Kind(
    "an artifact", "artifact.json", ("artifact.json", "*.safetensors", "forget_set.key")
)
MODEL = Kind(
    "a merged model",
    "unlearn.json",
    (
        "unlearn.json",
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
        "chat_template*",
    ),
)
AUDIT = Kind("an audit", "audit.json", ("audit.json", "audit.md", "audit.html"))
DEMO = Kind("a demo", "demo.json", ("demo.json", "runs"))
LAB = Kind(
    "the lab",
    "card.md",
    ("card.md", "card.json", "full", "reference", "reference-2", "forget_sets"),
)


def check(target: Path, kind: Kind, *, force: bool) -> None:
    """Refuses a target that holds something else, before any work is done.

    Raises:
        InputError: the target is a file, or a folder with entries that are not of this kind.
    """
    if target.is_symlink() and not target.exists():
        raise InputError(f"{target} is a link that leads nowhere; remove it or choose another name")
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, and {kind.name} is a folder; choose another name")
    if force or not target.exists():
        return
    entries = sorted(target.iterdir())
    foreign = [entry.name for entry in entries if not kind.holds(entry)]
    if entries and not (target / kind.marker).exists():
        foreign = foreign or [entries[0].name]
    if foreign:
        raise InputError(
            f"{target} already holds {foreign[0]!r} and is not {kind.name} that this command "
            "wrote; choose another folder, or pass --force to write into it"
        )


@contextmanager
def folder(target: Path, kind: Kind, *, force: bool) -> Iterator[Path]:
    """A path that does not exist yet; the folder made there becomes ``target`` at the end.

    A new target appears in one step. In one that holds a result of the same kind, the old entries
    are replaced by the new ones. After an error the target is as it was.
    """
    check(target, kind, force=force)
    target = target.resolve()
    with _scratch(target) as made:
        yield made
        if not target.exists():
            made.replace(target)
            return
        # A stale file beside the new ones could be read in their place (a shard of older weights).
        for old in [entry for entry in target.iterdir() if kind.holds(entry)]:
            if old != made.parent:
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        for new in made.iterdir():
            new.replace(target / new.name)


@contextmanager
def file(target: Path, *, force: bool, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A path to write to; the file made there becomes ``target`` in one step at the end.

    Args:
        target: where the file should be.
        force: whether to replace whatever is there.
        ours: tells of a file that exists whether it is of the kind that is written.

    Raises:
        InputError: the target is a folder, or a file of another kind.
    """
    if target.is_dir():
        raise InputError(f"{target} is a folder; the output is one file, for example sites.json")
    if target.exists() and not force and not ours(target):
        raise InputError(
            f"{target} exists and is not a file that this command wrote; choose another name, or "
            "pass --force to replace it"
        )
    with _scratch(target.resolve()) as made:
        yield made
        made.replace(target.resolve())


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    # Inside a folder that exists: it may be a mount point, or its parent may be read-only.
    where = target if target.is_dir() else target.parent
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=where) as scratch:
        yield Path(scratch) / target.name
