"""One record's trace: its cells, its corruption, its score."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from unlearn.forget_set import ForgetSet
from unlearn.locate.selection import Top
from unlearn.locate.trace import (
    Corruption,
    FactTrace,
    Grid,
    Kind,
    Part,
    Score,
    Skipped,
    window,
)
from unlearn.locate.tracing_facts import (
    Corrupted,
    Fact,
    subject_spread,
    with_noise,
    with_replacement,
)
from unlearn.model.attribution import Attributor
from unlearn.model.language_model import LanguageModel
from unlearn.model.tracing import Cell, Pair, Readout, Tracer
from unlearn.types import Noun, Record

PARTS: tuple[Part, ...] = ("mlp", "attention")


class CausalTraceConfig(Noun):
    """Settings of causal tracing."""

    corruption: Corruption = "replace"
    """``replace``: another subject's tokens. ``noise``: Gaussian noise on the embeddings (ROME)."""
    score: Score = "logit-diff"
    """What a run is scored by: ``logit-diff``, ``logprob`` or ``probability``."""
    window: int = Field(default=10, ge=1)
    """How many neighbouring MLPs, or attentions, a cell restores; 1 is one alone. A model with
    fewer blocks has windows of all of them."""
    sigma: float = Field(default=3.0, gt=0)
    """Standard deviation of the noise, in those of the subjects' embeddings."""
    samples: int = Field(default=10, ge=1)
    """How many draws of noise a fact is traced with."""
    top: Top = 0.5
    """How much to choose."""
    max_records: int = Field(default=64, ge=1)
    """Whole subjects are drawn by the seed."""
    retain_records: int = Field(default=24, ge=0)
    """How many retain records are traced as well, so that sites are what is peculiar to the forget
    records; 0 for sites by the effects alone."""
    max_rows: int = Field(default=256, ge=1)
    """How many rows go through a block at a time: bounds memory."""
    max_seconds: float | None = Field(default=None, gt=0)
    """When to stop before the next record; one record is always traced if any can be."""


class FactTracer:
    """Traces records of one forget set on one model.

    >>> FactTracer(model, forget_set, facts, config, 0, engine).trace(facts[0]).clean
    ... # doctest: +SKIP
    """

    def __init__(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        facts: Sequence[Fact],
        config: CausalTraceConfig,
        seed: int,
        engine: Tracer | Attributor,
    ) -> None:
        self.model = model
        self.forget_set = forget_set
        self.config = config
        self.seed = seed
        self.engine = engine
        """What runs the cells, or estimates them."""
        self.deviation = config.sigma * subject_spread(model, facts)
        """Of the noise."""
        self._clusters = clusters([fact.record for fact in facts])
        self._parts = [part for part in PARTS if engine.layers_with(part)]
        self._severs = self._parts if isinstance(engine, Tracer) else []
        self._kinds: list[Kind] = ["hidden", *self._parts]

    @property
    def n_layers(self) -> int:
        """How many blocks the model has."""
        return self.model.anatomy.n_layers

    def windows(self, kind: Kind) -> tuple[range, ...]:
        """For each layer, the blocks that a cell of the kind restores."""
        width = 1 if kind == "hidden" else min(self.config.window, self.n_layers)
        return tuple(window(layer, width, self.n_layers) for layer in range(self.n_layers))

    def trace(self, fact: Fact) -> FactTrace | Skipped:
        """The effects of all cells of one fact that the model knows."""
        seed = record_seed(self.seed, fact.record.id)
        if self.config.corruption == "noise":
            corrupted = with_noise(self.model, fact, self.deviation, self.config.samples, seed)
        else:
            # A whole answer may differ behind its first token; a foil may not be the answer.
            differs = self.config.score != "logprob"
            replaced = with_replacement(self.model, self.forget_set, fact, seed, differs)
            if replaced is None:
                return Skipped(id=fact.record.id, reason="no-replacement")
            corrupted = replaced
        pair, readout = self._scored(fact, corrupted)
        cells = self._cells(fact)
        traced = self.engine.trace(pair, list(cells.values()), readout)
        effects = {
            key: score - traced.corrupted for key, score in zip(cells, traced.cells, strict=True)
        }
        keys = cast("list[tuple[Kind, int, int]]", list(cells))
        uses_foil = self.config.score == "logit-diff"
        return FactTrace(
            id=fact.record.id,
            cluster=self._clusters.get(fact.record.id, -1),
            token_ids=tuple(fact.prompt_ids),
            corrupted_token_ids=tuple(corrupted.pair.corrupted[0].tolist()),
            answer_token_ids=tuple(fact.answer_ids),
            foil_token_id=corrupted.foil_id if uses_foil else None,
            noise=corrupted.noise,
            roles=fact.roles,
            clean=traced.clean,
            corrupted=traced.corrupted,
            effects={kind: self._grid(fact, kind, effects) for kind in self._kinds},
            severed={part: self._grid(fact, f"without {part}", effects) for part in self._severs},
            refined=tuple(keys[index] for index in traced.refined),
        )

    def _cells(self, fact: Fact) -> Mapping[_Key, Cell]:
        """Every cell of the prompt, those that cannot have an effect included."""
        cells: dict[_Key, Cell] = {}
        for token in range(len(fact.prompt_ids)):
            for layer in range(self.n_layers):
                cells["hidden", token, layer] = Cell.hidden(token, layer)
                for part in self._parts:
                    layers = self.windows(part)[layer]
                    cells[part, token, layer] = Cell.window(token, part, layers)
                for part in self._severs:
                    severed = Cell.severed(token, layer, part, self.n_layers)
                    cells[f"without {part}", token, layer] = severed
        return cells

    def _grid(self, fact: Fact, kind: str, effects: Mapping[_Key, float]) -> Grid:
        layers, tokens = range(self.n_layers), range(len(fact.prompt_ids))
        return tuple(tuple(effects[kind, t, layer] for layer in layers) for t in tokens)

    def _scored(self, fact: Fact, corrupted: Corrupted) -> tuple[Pair, Readout]:
        """What is run and how it is scored; a whole answer is scored with its tokens behind."""
        pair, last = corrupted.pair, len(fact.prompt_ids) - 1
        if self.config.score != "logprob":
            score = scorer(self.config.score, fact.answer_ids, corrupted.foil_id)
            return pair, Readout((last,), score)
        behind = torch.tensor(fact.answer_ids[:-1], dtype=torch.long)
        noise = pair.noise
        if noise is not None:
            quiet = noise.new_zeros(len(noise), len(behind), noise.shape[-1])
            noise = torch.cat([noise, quiet], 1)
        longer = Pair(
            torch.cat([pair.clean, behind]),
            torch.cat([pair.corrupted, behind.repeat(pair.n_rows, 1)], 1),
            noise,
        )
        positions = tuple(range(last, last + len(fact.answer_ids)))
        return longer, Readout(positions, scorer("logprob", fact.answer_ids, corrupted.foil_id))


_Key = tuple[str, int, int]
"""Kind, token and layer of a cell."""


def scorer(score: Score, answer: Sequence[int], foil: int) -> Callable[[Tensor], Tensor]:
    """From logits (row, position, vocab) to a score a row.

    The positions are those in front of the answer's tokens that the score reads.
    """
    if score == "logit-diff":
        return lambda logits: logits[:, 0, answer[0]] - logits[:, 0, foil]
    if score == "probability":
        return lambda logits: logits[:, 0].softmax(-1)[:, answer[0]]
    ids = torch.tensor(answer)

    def whole(logits: Tensor) -> Tensor:
        index = ids.to(logits.device).expand(len(logits), -1)[..., None]
        return logits.log_softmax(-1).gather(-1, index).sum((1, 2))

    return whole


def clusters(records: Sequence[Record]) -> dict[str, int]:
    """Record id to the number of its cluster.

    Clusters are subjects; of a single subject, relations; of a single relation, records.
    """
    for label in ("subject", "relation", "id"):
        names = list(dict.fromkeys(getattr(record, label) for record in records))
        if len(names) > 1:
            break
    return {record.id: names.index(getattr(record, label)) for record in records}


def record_seed(seed: int, record_id: str) -> int:
    """A seed of the record's own, so that no record's draws depend on which others there are."""
    whole = hashlib.sha256(f"{seed} {record_id}".encode()).digest()
    return int.from_bytes(whole[:4], "big")
