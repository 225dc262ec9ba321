"""One edit from start to end: spots, keys, values, and the closed form in one layer or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unlearn.forget_set import ForgetSet
from unlearn.model.covariance import second_moments
from unlearn.model.keys import project
from unlearn.model.language_model import LanguageModel
from unlearn.model.lens import Lens
from unlearn.model.prefixes import PrefixConfig, sample_prefixes
from unlearn.model.reach import reach
from unlearn.model.scoring import score
from unlearn.model.streams import streams
from unlearn.strategies.closed_form import least_change
from unlearn.strategies.edit_layers import add_change
from unlearn.strategies.edit_values import Task, Values, ValueSettings, find_values
from unlearn.strategies.ignorance import (
    Ignorance,
    LowProbability,
    MaxEntropy,
    Refusal,
    TargetName,
    refusing,
)
from unlearn.strategies.spots import (
    At,
    Row,
    Spots,
    find_row,
    find_spots,
    keys_at,
    moment_of_spots,
)
from unlearn.strategies.stopping import Target
from unlearn.types import Record, Statement

Variant = Literal["rome", "memit"]

OWN_TEXTS, OWN_TOKENS = 64, 32
"""How many texts the model writes itself, and how long at most, for the second moment where there
are no retain records."""
HELD = 256
"""Statements of a kind whose keys are held beside the second moment of all tokens."""


class EditSettings(NamedTuple):
    """What one edit is made by; the fields of ``EditConfig`` say more."""

    variant: Variant
    target: TargetName
    refusal: str
    essence: str
    lens_layers: int
    slack: float
    ridge: float
    hold_weight: float
    covariance_tokens: int


class Place(NamedTuple):
    """Where an edit acts."""

    layers: tuple[int, ...]
    """The last one is where values are sought; the others bear a part of them."""
    at: At

    def __str__(self) -> str:
        word = "layer" if len(self.layers) == 1 else "layers"
        return f"{word} {', '.join(map(str, self.layers))} at {self.at}"


class Problem(NamedTuple):
    """What is to be forgotten and what is to stay."""

    lm: LanguageModel
    records: tuple[Record, ...]
    targets: tuple[Target, ...]
    prefixes: tuple[str, ...]
    texts: tuple[str, ...]
    """Whose tokens' keys are disturbed least."""
    held: tuple[tuple[Statement, ...], ...]
    """Retain records and near names, whose spots are."""

    def few(self, forget_set: ForgetSet, n: int, seed: int) -> Problem:
        """The same for a sample of the records, without prefixes."""
        kept = {record.id for record in forget_set.sample("forget", n, seed)}
        pairs = zip(self.records, self.targets, strict=True)
        some = [pair for pair in pairs if pair[0].id in kept]
        return self._replace(
            records=tuple(record for record, _ in some),
            targets=tuple(target for _, target in some),
            prefixes=(),
        )


class Change(NamedTuple):
    """An edit that was not written to the model it is for."""

    place: Place
    by_layer: dict[int, Tensor]
    """Layer to ΔW (out, in), float64."""
    values: Values
    n_keys: int

    def on(self, lm: LanguageModel, strength: float = 1.0) -> LanguageModel:
        """A copy of the model with W + strength · ΔW."""
        work = lm.copy()
        for layer, change in self.by_layer.items():
            add_change(work, layer, strength * change)
        return work


def texts_to_keep(lm: LanguageModel, forget_set: ForgetSet, seed: int) -> tuple[str, ...]:
    """The texts of the retain records, or some that the model wrote where there are none."""
    if forget_set.retain:
        return tuple(record.text for record in forget_set.retain)
    length = min(OWN_TOKENS, (lm.context_length or OWN_TOKENS) // 2)
    config = PrefixConfig(n_short=0, n_long=OWN_TEXTS, long_tokens=length)
    return sample_prefixes(lm, seed=seed, config=config)


def find_change(
    problem: Problem,
    place: Place,
    settings: EditSettings,
    seeking: ValueSettings,
    progress: Callable[[float], None] | None = None,
) -> Change | None:
    """The change of weights at a place; None where values added there change next to nothing."""
    lm, layer = problem.lm, place.layers[-1]
    records = problem.records
    if settings.target == "refusal":
        records = tuple(refusing(record, settings.refusal) for record in records)
    spots = find_spots(lm, records, place.at)
    old = project(lm, layer, keys_at(lm, spots, [layer])[layer])
    task = Task(
        layer,
        _rows(problem, records, place.at),
        spots.groups,
        spots.mean_by_value(old.float()),
        _ignorance(problem, settings, records),
        _essence(lm, records, settings, place.at),
        *_lens(lm, settings, layer),
    )
    values = find_values(lm, task, seeking, progress)
    if values.stalled:
        return None
    changes = _spread(problem, place, settings, spots, values)
    return Change(place, changes, values, len(spots.lookups))


def _rows(problem: Problem, records: Sequence[Record], at: At) -> list[Row]:
    """Every record bare, and once more behind one of the prefixes, which take turns."""
    rows = [find_row(problem.lm, i, record, at) for i, record in enumerate(records)]
    if problem.prefixes:
        for i, record in enumerate(records):
            prefix = problem.prefixes[i % len(problem.prefixes)]
            row = find_row(problem.lm, i, record, at, prefix)
            if len(row.positions) == len(rows[i].positions):
                rows.append(row)
    return rows


def _ignorance(problem: Problem, settings: EditSettings, records: Sequence[Record]) -> Ignorance:
    if settings.target == "refusal":
        return Refusal()
    if settings.target == "max-entropy":
        return MaxEntropy()
    return LowProbability(problem.targets, [found.logprobs for found in score(problem.lm, records)])


def _essence(
    lm: LanguageModel, records: Sequence[Record], settings: EditSettings, at: At
) -> list[Row]:
    """``Ada Quill is a`` for each subject, where the spots are those of the subject."""
    if at not in ("subject", "subject-first") or not settings.essence:
        return []
    rows = {}
    for index, record in enumerate(records):
        prompt = settings.essence.replace("{}", record.subject)
        bare = record.model_copy(update={"prompt": prompt})
        if record.subject not in rows:
            row = find_row(lm, index, bare, at)
            ids = row.encoding.ids[: row.encoding.start]
            rows[record.subject] = row._replace(encoding=row.encoding._replace(ids=ids))
    return list(rows.values())


def _lens(
    lm: LanguageModel, settings: EditSettings, layer: int
) -> tuple[Lens | None, tuple[int, ...]]:
    """The lens, and the blocks from the edited one on, the last of all left out, that it reads."""
    blocks = tuple(range(layer, lm.anatomy.n_layers - 1))[-settings.lens_layers :]
    if settings.target != "max-entropy" or not settings.lens_layers or not blocks:
        return None, ()
    return Lens(lm), blocks


def _spread(
    problem: Problem, place: Place, settings: EditSettings, spots: Spots, values: Values
) -> dict[int, Tensor]:
    """Layer to its ΔW: all of the move in one layer, or what is left of it shared by the rest.

    Layer by layer, from the first: ΔW moves the answers to the keys, as they are by then, by the
    distance of the last layer's stream from its goal, divided by how many layers remain (MEMIT).
    """
    work, last = problem.lm, place.layers[-1]
    moves = values.moves[spots.owners]
    if settings.variant == "rome":
        keys = spots.mean_by_value(keys_at(work, spots, [last], problem.prefixes)[last])
        moment = _moment(problem, place.at, last, settings)
        return {last: least_change(moment, keys, values.moves, settings.slack)}
    goal, changes = _stream(work, spots, last) + reach(work, last) * moves, {}
    for index, layer in enumerate(place.layers):
        remaining = (goal - _stream(work, spots, last)) / (len(place.layers) - index)
        keys = keys_at(work, spots, [layer], problem.prefixes)[layer]
        moment = _moment(problem, place.at, layer, settings)
        change = least_change(moment, keys, remaining / reach(work, layer), settings.slack)
        changes[layer] = change
        if layer != last:
            work = work.copy() if work is problem.lm else work
            add_change(work, layer, change)
    return changes


def _stream(lm: LanguageModel, spots: Spots, layer: int) -> Tensor:
    """(lookup, width), float64: what comes out of the block at the spots."""
    places = [(list(lm.encode(lookup.prompt).ids), int(lookup.at)) for lookup in spots.lookups]
    texts = [ids[: position + 1] for ids, position in places]
    found = streams(lm, texts, [[position] for _, position in places])
    return torch.from_numpy(found[:, 0, layer + 1]).double()


def _moment(problem: Problem, at: At, layer: int, settings: EditSettings) -> Tensor:
    """C of all tokens, ridged, plus that of the spots of what is held, weighted."""
    lm = problem.lm
    lengths = [len(ids) for ids, _ in lm.encode_all([(text, "") for text in problem.texts])]
    n_tokens = min(sum(lengths), settings.covariance_tokens)
    known = second_moments(lm, [layer], problem.texts, n_tokens=n_tokens)[layer]
    total = known.ridged(settings.ridge)
    for held in problem.held:
        if held and settings.hold_weight:
            total += settings.hold_weight * moment_of_spots(lm, held, [layer], at)[layer]
    return total
