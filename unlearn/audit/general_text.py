"""Text that has nothing to do with a forget set, as records that are only measured."""

from __future__ import annotations

import re
from pathlib import Path

from unlearn.errors import InputError
from unlearn.types import Record

PROMPT_WORDS = 4
"""How many words of a paragraph are given before the rest is scored."""


def read_general(path: Path) -> tuple[Record, ...]:
    """The paragraphs of a UTF-8 file as records; what stands between blank lines is one.

    Paragraphs of up to four words are left out: nothing of them would be scored.

    Raises:
        InputError: the file cannot be read, or has no paragraph that is long enough.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text; give another file") from error
    found = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text), 1):
        words = paragraph.split()
        if len(words) > PROMPT_WORDS:
            found.append(
                Record(
                    id=f"paragraph-{number}",
                    subject=words[0],
                    relation="general text",
                    prompt=" ".join(words[:PROMPT_WORDS]),
                    answer=" ".join(words[PROMPT_WORDS:]),
                )
            )
    if not found:
        raise InputError(f"{path} has no paragraph of more than {PROMPT_WORDS} words")
    return tuple(found)
