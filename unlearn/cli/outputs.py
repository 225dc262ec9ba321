"""Where results are written: whole or not at all, and never over what someone else wrote."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from unlearn.errors import InputError

SCRATCH = ".unlearn-"
"""How a folder of unfinished results is called; it is left behind only by a killed process."""

SPLIT_FILES = ("forget.jsonl", "retain.jsonl", "neighbors.jsonl", "holdout.jsonl")
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
PAYLOADS = ("@*.safetensors", "adapter_config.json", "policy.json")
"""What holds the content of an artifact, of whichever kind."""

REPORTS = ("html", "md", "pdf")
AUDIT_FILES = (
    *("audit.json", "audit.junit.xml"),
    *(f"audit{reader}.{kind}" for reader in ("", ".regulator", ".subject") for kind in REPORTS),
    "audit.regulator.json",
    "statement.dsse.json",
)


@dataclass(frozen=True)
class Kind:
    """A kind of folder that we write."""

    name: str
    marker: str
    """The file that shows that we wrote a folder of this kind."""
    signs: tuple[str, ...]
    """Texts that this file holds if we wrote it."""
    contents: tuple[str, ...]
    """Patterns of every file that such a folder holds, as paths in it. What matches a part that
    starts with ``@`` counts only if the marker names it in double quotes."""
    weights: tuple[str, ...] = ()
    """Patterns of files that transformers would read in the place of, or beside, the new ones."""

    def holds(self, name: PurePath, marker: str) -> bool:
        """Whether a file of a folder is one that we write, given the text of its marker."""
        return any(_matches(name, pattern, marker) for pattern in self.contents)


ARTIFACT = Kind(
    "an artifact",
    "artifact.json",
    ('"schema_version"', '"threat_model"', '"checksum"'),
    ("artifact.json", *PAYLOADS, "forget_set.key", "policy.key"),
)
MODEL = Kind(
    "a merged model",
    "unlearn.json",
    ('"unlearn"', '"base_digest"', '"provenance"'),
    ("unlearn.json", "@README.md", *MODEL_FILES),
    ("model*.safetensors", "model.safetensors.index.json"),
)
AUDIT = Kind(
    "an audit",
    "audit.json",
    ('"schema_version"', '"verdict"'),
    (*AUDIT_FILES, *(f"after/[0-9]*/{name}" for name in AUDIT_FILES)),
)
DEMO = Kind(
    "a demo",
    "demo.json",
    ('"runs"', '"verdict"'),
    (
        "demo.json",
        *(f"runs/@*/{name}" for name in (*AUDIT_FILES, "request.json", "sites.json")),
        *(f"runs/@*/artifact/{name}" for name in ("artifact.json", "*.safetensors")),
        *(f"runs/@*/artifact/{name}" for name in ("policy.json", "forget_set.key", "policy.key")),
    ),
)
FORGET_SET = Kind(
    "a forget set",
    "card.toml",
    ("name = ", "description = "),
    ("card.toml", *SPLIT_FILES),
)
LAB_MODELS = ("full", "reference", "reference-2", "reference-3", "reference-4")
LAB = Kind(
    "the lab",
    "card.md",
    ("# The lab's card",),
    (
        "card.md",
        "card.json",
        *(f"{model}/{n}" for model in LAB_MODELS for n in MODEL_FILES),
        *(
            f"forget_sets/{name}/{file}"
            for name in ("one-person", "ten-people", "hazard")
            for file in ("card.toml", *SPLIT_FILES)
        ),
    ),
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
    if not target.exists():
        return
    _refuse_clashes(target, map(PurePath, kind.contents))
    if not force and (foreign := _stranger(target, kind)):
        raise InputError(
            f"{target} already holds {foreign!r} and is not {kind.name} that this command "
            "wrote; choose another folder, or pass --force to write into it"
        )


@contextmanager
def folder(target: Path, kind: Kind, *, force: bool) -> Iterator[Path]:
    """A path that does not exist yet; the folder made there becomes ``target`` at the end.

    A new target appears in one step. In one that exists, files of the same names are replaced; what
    else an earlier run left is removed, but only where nothing in the folder is of anyone else.
    After an error the target is as it was.
    """
    check(target, kind, force=force)
    target = target.resolve()
    with _scratch(target) as made:
        yield made
        with _writing_to(target):
            if target.exists():
                _merge(made, target, kind)
            else:
                made.replace(target)


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
    _check_file(target, force, ours)
    with _scratch(target.resolve()) as made:
        yield made
        with _writing_to(target):
            made.replace(target.resolve())


def check_file(target: Path, *, force: bool, ours: Callable[[Path], bool]) -> None:
    """Raises what ``file`` would, before any work; what is there stays as it is."""
    _check_file(target, force, ours)
    with _scratch(target.resolve()):
        pass


def _check_file(target: Path, force: bool, ours: Callable[[Path], bool]) -> None:
    if target.is_dir():
        raise InputError(f"{target} is a folder; the output is one file, for example sites.json")
    if target.exists() and not force and not ours(target):
        raise InputError(
            f"{target} exists and is not a file that this command wrote; choose another name, or "
            "pass --force to replace it"
        )


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    # Inside a folder that exists: it may be a mount point, or its parent may be read-only.
    where = target if target.is_dir() else target.parent
    with _writing_to(target):
        where.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=where))
    try:
        yield scratch / (target.name or "new")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _writing_to(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise InputError(f"cannot write to {target}: {why}; choose another place") from error


def _merge(made: Path, target: Path, kind: Kind) -> None:
    """Moves the new files over the old ones of the same names, the marker last."""
    new = sorted(_files(made), key=lambda name: (str(name) == kind.marker, name))
    _refuse_clashes(target, new)
    # A stale file beside the new ones could be read in their place (a shard of older weights).
    ours = _stranger(target, kind) is None
    stale = set(_files(target)) - set(new)
    if not ours:
        _refuse_weights(target, stale, kind)
    for name in new:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).replace(target / name)
    if ours:
        _clear(target, stale, made.parent)


def _clear(target: Path, stale: Iterable[PurePath], scratch: Path) -> None:
    for name in stale:
        (target / name).unlink()
        for parent in list(name.parents)[:-1]:
            if not any((target / parent).iterdir()):
                (target / parent).rmdir()
    for left in target.glob(f"{SCRATCH}*"):
        if left != scratch and left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)


def _refuse_clashes(target: Path, names: Iterable[PurePath]) -> None:
    for name in names:
        if (target / name).is_dir():
            raise InputError(
                f"{target / name} is a folder, where a file has to be written; choose another place"
            )
        for parent in name.parents:
            if (target / parent).exists() and not (target / parent).is_dir():
                raise InputError(
                    f"{target / parent} is a file, where a folder has to be; choose another place"
                )


def _refuse_weights(target: Path, others: Iterable[PurePath], kind: Kind) -> None:
    for name in others:
        if any(_matches(name, pattern, "") for pattern in kind.weights):
            raise InputError(
                f"{target} holds {str(name)!r} of another model, which would be read beside the "
                "new weights or in their place; choose another folder"
            )


def _stranger(target: Path, kind: Kind) -> str | None:
    """Something in a folder that we did not write; ``None`` if there is nothing such."""
    marker = ""
    if (target / kind.marker).is_file():
        marker = (target / kind.marker).read_text(encoding="utf-8", errors="replace")
    first = None
    for name in _files(target):
        if not kind.holds(name, marker):
            return str(name)
        first = first or str(name)
    signed = all(sign in marker for sign in kind.signs)
    return None if signed else first


def _files(folder: Path) -> Iterator[PurePath]:
    """The files and links below a folder as paths in it, without unfinished results of a run."""
    for where, folders, files in os.walk(folder):
        here = Path(where)
        if here == folder:
            folders[:] = [name for name in folders if not name.startswith(SCRATCH)]
        links = [name for name in folders if (here / name).is_symlink()]
        folders.sort()
        for name in sorted([*files, *links]):
            yield PurePath((here / name).relative_to(folder))


def _matches(name: PurePath, pattern: str, marker: str) -> bool:
    parts, wanted = name.parts, pattern.split("/")
    return len(parts) == len(wanted) and all(
        fnmatchcase(part, want.removeprefix("@"))
        and (not want.startswith("@") or f'"{part}"' in marker)
        for part, want in zip(parts, wanted, strict=True)
    )
