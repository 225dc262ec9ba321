"""What each model says to a few prompts, for the readers of a report who may see the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unlearn.audit import subject
from unlearn.probes.probe import Material, fact_of
from unlearn.types import Example, Record, Role, Split

EXAMPLE_TOKENS = 24


def examples_of(models: Mapping[Role, Any], material: Material, n: int, seed: int) -> list[Example]:
    """What each model says, greedily, to ``n`` forget prompts and ``n // 2`` neighbouring ones."""
    shown: list[tuple[Split, Record]] = []
    wanted: tuple[tuple[Split, int], ...] = (("forget", n), ("neighbors", n // 2))
    for split, count in wanted:
        shown += [(split, record) for record in _drawn(material.get(split, ()), count, seed)]
    if not shown:
        return []
    prompts = [record.prompt for _, record in shown]
    texts: dict[str, list[list[str]]] = {}
    for lm in models.values():
        if lm.digest not in texts:
            texts[lm.digest] = subject.generate(lm, prompts, max_new_tokens=EXAMPLE_TOKENS)
    return [
        Example(
            record_id=record.id,
            split=split,
            prompt=record.prompt,
            expected=record.answer,
            outputs={role: texts[lm.digest][i][0] for role, lm in models.items()},
        )
        for i, (split, record) in enumerate(shown)
    ]


def _drawn(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """``count`` records at random, about different facts as far as there are any, in file order."""
    order = np.random.default_rng(seed).permutation(len(records))
    facts = set()
    first: list[int] = []
    repeated: list[int] = []
    for index in order.tolist():
        fresh = fact_of(records[index]) not in facts
        (first if fresh else repeated).append(index)
        facts.add(fact_of(records[index]))
    return [records[index] for index in sorted((first + repeated)[:count])]
