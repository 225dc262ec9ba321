"""Where an edit acts in the texts of records: the tokens whose keys get a new answer.

A key can have one answer only. So spots share a value where they have the very same key, which is
the same tokens up to there: what several facts ask of one key is sought jointly. Those at a subject
share it for all of its facts, whatever stands before the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unlearn.model.activations import by_length, read_inputs
from unlearn.model.keys import Lookup, find_keys
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.types import Record, Statement

At = Literal["subject", "subject-first", "prompt", "answer"]
"""``subject``: the last token of the subject, as in the papers; ``subject-first``: its first one.
``prompt``: the last one of the prompt. ``answer``: each token that predicts one of the answer."""

MAX_BATCH_TOKENS = 4096


class Row(NamedTuple):
    """One record in one context, and the spots in it."""

    record: int
    encoding: Encoding
    positions: tuple[int, ...]


class Spots(NamedTuple):
    """The spots of some records, in their bare prompts."""

    lookups: tuple[Lookup, ...]
    """One for each distinct key."""
    owners: Tensor
    """(lookup,) which value each key is to get."""
    groups: tuple[tuple[int, ...], ...]
    """For each record, which value each of its spots is to get."""
    n_values: int

    def mean_by_value(self, keys: Tensor) -> Tensor:
        """(value, width) the mean of the keys (lookup, width) of each value."""
        member = torch.nn.functional.one_hot(self.owners, self.n_values).to(keys.dtype)
        return (member.T @ keys) / member.sum(0)[:, None]


def find_row(lm: LanguageModel, index: int, record: Record, at: At, prefix: str = "") -> Row:
    """A record behind a prefix, as tokens, and its spots."""
    encoding = lm.encode(prefix + record.prompt, record.completion)
    if at in ("prompt", "answer"):
        last = encoding.start if at == "prompt" else len(encoding.ids) - 1
        return Row(index, encoding, tuple(range(encoding.start - 1, last)))
    span = lm.subject_span(prefix + record.prompt, record.subject)
    return Row(index, encoding, (span[0] if at == "subject-first" else span[-1],))


def find_spots(lm: LanguageModel, records: Sequence[Record], at: At) -> Spots:
    """The spots of the records, and which of them share a value.

    Spots at the subject share it where the subject is the same, and all others where the key is.
    """
    rows = [find_row(lm, index, record, at) for index, record in enumerate(records)]
    values, keys = _Joined(), dict[tuple[int, ...], Lookup]()
    for record, row in zip(records, rows, strict=True):
        for about, key, position in _names(record, row, at):
            values.join(about, key)
            keys.setdefault(key, Lookup(record.text, position))
    numbers: dict[object, int] = {}
    for key in keys:
        numbers.setdefault(values.root(key), len(numbers))
    groups = tuple(
        tuple(numbers[values.root(key)] for _, key, _ in _names(record, row, at))
        for record, row in zip(records, rows, strict=True)
    )
    owners = torch.tensor([numbers[values.root(key)] for key in keys])
    return Spots(tuple(keys.values()), owners, groups, len(numbers))


def keys_at(
    lm: LanguageModel, spots: Spots, layers: Sequence[int], prefixes: Sequence[str] = ()
) -> dict[int, Tensor]:
    """Layer to (lookup, width), float64: each key averaged over contexts; see ``find_keys``."""
    found = find_keys(lm, spots.lookups, layers, prefixes=prefixes)
    return {layer: keys.key.double() for layer, keys in found.items()}


def moment_of_spots(
    lm: LanguageModel, statements: Sequence[Statement], layers: Sequence[int], at: At
) -> dict[int, Tensor]:
    """Layer to E[k kᵀ] (width, width), float64, over the spots of statements that are to stay.

    Of a statement without a subject, at the subject: over every token of its prompt.
    """
    modules = {layer: lm.anatomy.require_down_projection(layer) for layer in layers}
    rows = [_spots_of(lm, statement, at) for statement in statements]
    sums: dict[int, Tensor] = {}
    for group in by_length([row.encoding.ids for row in rows], MAX_BATCH_TOKENS):
        inputs = read_inputs(lm, set(modules.values()), [rows[i].encoding.ids for i in group])
        row = torch.tensor([n for n, i in enumerate(group) for _ in rows[i].positions])
        column = torch.tensor([position for i in group for position in rows[i].positions])
        for layer, module in modules.items():
            keys = inputs.of[module][row, column].cpu().double()
            product = keys.T @ keys
            sums[layer] = sums[layer] + product if layer in sums else product
    n_keys = sum(len(row.positions) for row in rows)
    return {layer: total / n_keys for layer, total in sums.items()}


def _spots_of(lm: LanguageModel, statement: Statement, at: At) -> Row:
    if isinstance(statement, Record) or at in ("prompt", "answer"):
        return find_row(lm, 0, statement, at)  # type: ignore[arg-type]
    encoding = lm.encode(statement.prompt, statement.completion)
    return Row(0, encoding, tuple(range(encoding.start)))


def _names(
    record: Record, row: Row, at: At
) -> Iterator[tuple[tuple[object, ...], tuple[int, ...], int]]:
    """For each spot of a record what it is about, its key's tokens, and its position."""
    for place, position in enumerate(row.positions):
        about: tuple[object, ...] = (record.subject,)
        if at in ("prompt", "answer"):
            about = (record.id, place)
        yield about, tuple(row.encoding.ids[: position + 1]), position


class _Joined:
    """Which things belong together, through any chain of pairs."""

    def __init__(self) -> None:
        self.parents: dict[object, object] = {}

    def root(self, thing: object) -> object:
        while (parent := self.parents.setdefault(thing, thing)) != thing:
            thing = parent
        return thing

    def join(self, one: object, other: object) -> None:
        self.parents[self.root(other)] = self.root(one)
