"""Demonstrations: forget prompts with somebody else's answers, retain ones with their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.types import Record


def demonstrations(
    forget_set: ForgetSet, n_forget: int, n_retain: int, between: str, seed: int
) -> tuple[str, ...]:
    """Texts of prompts with answers, each with ``between`` at its end; flipped ones first.

    A flipped answer is that of another record, of the same relation where there is one, and of
    another subject; never one that the record's subject has anywhere in the forget set. Forget
    records take turns by subject and relation.

    Raises:
        UnsupportedError: no other answer for a record, or no retain record.
    """
    rng = np.random.default_rng(seed)
    if n_retain and not forget_set.retain:
        raise UnsupportedError(
            f"{n_retain} demonstrations are to be of retain records, which forget set "
            f"{forget_set.name!r} lacks; add retain.jsonl, or set n_retain=0"
        )
    flipped = [
        record.prompt + record.separator + _other_answer(record, forget_set, rng)
        for record in _in_turns(forget_set.forget, n_forget, rng)
    ]
    right = [record.text for record in _in_turns(forget_set.retain, n_retain, rng)]
    return tuple(text + between for text in (*flipped, *right))


def _other_answer(record: Record, forget_set: ForgetSet, rng: np.random.Generator) -> str:
    own = {r.answer.casefold() for r in forget_set.forget if r.subject == record.subject}
    others = [
        r
        for r in (*forget_set.retain, *forget_set.forget)
        if r.subject != record.subject and r.answer.casefold() not in own
    ]
    alike = [r.answer for r in others if r.relation == record.relation]
    wrong = [answer for answer in record.alternatives if answer.casefold() not in own]
    answers = sorted(set(alike)) or sorted(set(wrong)) or sorted({r.answer for r in others})
    if not answers:
        raise UnsupportedError(
            f"record {record.id!r} has no wrong answer to be shown with: there is nobody else, "
            "and it has no alternatives; add retain.jsonl, or set variant=guard"
        )
    return answers[int(rng.integers(len(answers)))]


def _in_turns(records: Sequence[Record], n: int, rng: np.random.Generator) -> list[Record]:
    """So many records at random, of the subjects and relations that were drawn least so far."""
    rest = [records[at] for at in rng.permutation(len(records))]
    seen: Counter[tuple[str, str]] = Counter()
    drawn = []
    for _ in range(min(n, len(rest))):
        record = min(rest, key=lambda r: seen["subject", r.subject] + seen["relation", r.relation])
        rest.remove(record)
        seen.update([("subject", record.subject), ("relation", record.relation)])
        drawn.append(record)
    return drawn
