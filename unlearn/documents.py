"""Forget sets from a folder of texts that a model must not go on with word for word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unlearn.errors import ForgetSetError
from unlearn.forget_set import ForgetSet
from unlearn.types import Record

SUFFIXES = (".txt", ".md")
PROMPT_WORDS, ANSWER_WORDS = 24, 24
SUBJECT_WORDS = 3
"""By how many opening words a passage is called: intervals resample passages."""
SHORTEST = 8
"""Words that a passage has at least; the rest of a text that is shorter is left out."""


def read_documents(folder: Path, name: str, description: str = "") -> ForgetSet:
    """The texts below a folder, cut into passages: the first half of each asks for the second.

    Every text is one to be forgotten, but for those below a folder that is called ``retain``,
    ``neighbors`` or ``holdout``. White space is made uniform.

    Raises:
        ForgetSetError: there is no text to forget, or one does not read; it repeats no text.
    """
    if not folder.is_dir():
        raise ForgetSetError(f"{folder} is no folder; give one with {' and '.join(SUFFIXES)} files")
    splits: dict[str, list[Record]] = {"forget": [], "retain": [], "neighbors": [], "holdout": []}
    seen: set[tuple[str, str, str]] = set()
    number = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        first = path.relative_to(folder).parts[0]
        split = first if first in splits else "forget"
        for prompt, answer in _passages(path):
            if (split, prompt, answer) not in seen:
                seen.add((split, prompt, answer))
                number += 1
                splits[split].append(_record(number, prompt, answer))
    if not splits["forget"]:
        raise ForgetSetError(
            f"{folder} holds no {' or '.join(SUFFIXES)} file with {SHORTEST} words or more to "
            "forget; add one"
        )
    frozen = {split: tuple(records) for split, records in splits.items()}
    return ForgetSet(
        name,
        description,
        forget=frozen["forget"],
        retain=frozen["retain"],
        neighbors=frozen["neighbors"],
        holdout=frozen["holdout"],
    )


def _passages(path: Path) -> Iterator[tuple[str, str]]:
    words = _text(path).split()
    length = PROMPT_WORDS + ANSWER_WORDS
    for begin in range(0, len(words), length):
        passage = words[begin : begin + length]
        if len(passage) >= SHORTEST:
            half = min(PROMPT_WORDS, len(passage) // 2)
            yield " ".join(passage[:half]), " ".join(passage[half:])


def _record(number: int, prompt: str, answer: str) -> Record:
    subject = " ".join(prompt.split()[:SUBJECT_WORDS])
    name = f"passage-{number}"
    return Record(id=name, subject=subject, relation="passage", prompt=prompt, answer=answer)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ForgetSetError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        pass  # and raised below, because a UnicodeDecodeError carries the bytes it failed on
    raise ForgetSetError(f"{path}: not UTF-8; save the file as UTF-8")
