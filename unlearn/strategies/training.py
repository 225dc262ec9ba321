"""What training that unlearns is made of: its settings, its batches, its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor
from torch.utils.data import IterableDataset

from unlearn.errors import UnsupportedError
from unlearn.model.batches import Deck, LossOn, Rows, collate, first_label
from unlearn.model.language_model import Encoding
from unlearn.strategies.processes import place
from unlearn.strategies.strength import Strength
from unlearn.types import Noun

OrNone = BeforeValidator(lambda value: None if value == "none" else value)
"""Lets a setting that is given as text say ``none``."""


def _tracker(name: str) -> str:
    if name == "none":
        return name
    from transformers.integrations import integration_utils

    known: Any = integration_utils
    if name not in known.INTEGRATION_TO_CALLBACK:
        names = ", ".join(sorted(known.INTEGRATION_TO_CALLBACK))
        raise ValueError(f"there is no tracker of this name; known: none, {names}")
    if name not in known.get_available_reporting_integrations():
        raise ValueError("this tracker is not installed; install its package, or say none")
    return name


Tracker = Annotated[str, AfterValidator(_tracker)]
"""A tracker that ``transformers`` reports to, or ``none``."""


class TrainingConfig(Noun):
    """What every strategy that trains can be told. Defaults suit a bundled lab model."""

    draws_per_record: ClassVar[int] = 40
    min_steps: ClassVar[int] = 80
    """How long a run may take at most, unless told. To match without sites, the lab's sets of 108
    and 320 records took 15 and 27 draws of each."""

    train: Literal["full", "lora"] = "full"
    """``full``: the weights themselves, of a copy in float32. ``lora``: a LoRA on the linear
    modules of the blocks, beside weights that stay; the artifact is an adapter."""
    rank: int = Field(default=16, ge=1)
    """Of the LoRA."""
    alpha: int = Field(default=32, ge=1)
    """The LoRA is scaled by ``alpha / rank``."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Of AdamW, without weight decay."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: as it is, or falling to 0 at the last step of the budget."""
    warmup_steps: int = Field(default=5, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    forget_batch: Annotated[int | None, OrNone] = Field(default=32, ge=1)
    """Forget records per optimiser step; ``none`` for all of them."""
    retain_per_forget: float = Field(default=1.5, gt=0)
    """Retain records per forget record in a step."""
    retain: Literal["nll", "kl", "constraint", "states", "none"] = "nll"
    """What holds the retain answers. ``nll``: their loss. ``kl``: the divergence from what the
    original predicts. ``constraint``: their loss may not rise by more than ``constraint_slack``;
    the weight is found while training (dual ascent). ``states``: inner states, of ``rmu`` alone.
    ``none``: nothing, and no near names."""
    retain_weight: float = Field(default=10.0, ge=0)
    """The retain term is a mean over tokens, times this; the forget term a mean over records, of
    sums over their tokens for ``npo``. ``constraint`` does without."""
    constraint_slack: float = Field(default=0.05, ge=0)
    """Nats per token by which the retain loss may rise under ``constraint``."""
    dual_rate: float = Field(default=10.0, gt=0)
    """How fast the weight of ``constraint`` grows: per step, for each nat per token too many."""
    top_k: int = Field(default=256, ge=1)
    """Of each prediction that is kept of a frozen model: the likeliest tokens; the mass of all
    others is kept as one."""
    cache_mib: int = Field(default=1024, ge=0)
    """MiB of such predictions that are held in memory; more are read from a temporary file."""
    near_per_forget: float = Field(default=2.0, ge=0)
    """Prompts about near names per forget record in a step, on which the original's predictions
    are held; 0 for none. Made of retain names: without a retain term there are none."""
    near_weight: float = Field(default=10.0, ge=0)
    """The near term is a mean over tokens of the KL from the original, times this."""
    guess_names: int = Field(default=6, ge=0)
    """Unseen names whose guesses are the targets of single tokens: a token at its guess gives no
    gradient. 0, the default of every variant but ``npo``, for targets of whole records from the
    holdout, and to push every token of an answer until then."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches a step is cut into: the same gradient with less memory."""
    loss_on: LossOn = "answer"
    """The tokens that carry labels: those of the answer, or of prompt and answer."""

    stop: Literal["match", "extraction", "budget"] = "match"
    """``match``: each record leaves the loss once it looks never trained on, and training ends when
    all do. ``budget``: no record leaves until a budget is spent; tokens at their guess still do.
    ``extraction``: none leaves either; training ends when EL_n and MA of the forget records are at
    most those of the holdout, see ``unlearn.strategies.extraction``."""
    el_n: int = Field(default=3, ge=1)
    """The n of EL_n: tokens that have to come back in a row. Answers shorter than that count as a
    whole."""
    strength: Strength = 1.0
    """Which multiple of the change is kept: 1 for what training arrived at, another number, or
    ``search`` for the smallest that forgets everything within the retain ceiling."""
    evaluate_every: int = Field(default=5, ge=1)
    """Steps between full evaluations of the forget records."""
    agreement_quantile: float = Field(default=0.9, ge=0, le=1)
    """A record without a guess may agree with the greedy answer as much as this quantile of the
    holdout does."""
    min_holdout: int = Field(default=3, ge=1)
    """A relation with fewer holdout records takes its target from the whole holdout."""
    max_steps: Annotated[int | None, OrNone] = Field(default=None, ge=1)
    """``none``: as many as draw every forget record 40 times, but no fewer than 80 (distillation:
    70 and 200)."""
    max_tokens: Annotated[int | None, OrNone] = Field(default=None, ge=1)
    """Tokens trained on, prompts included; ``none`` for no limit."""
    max_seconds: Annotated[float | None, OrNone] = Field(default=None, gt=0)
    retain_ceiling: float = Field(default=0.5, ge=0)
    """How far the retain NLL may rise, as a share of the original's."""
    retain_floor: float = Field(default=0.2, ge=0)
    """The original's retain NLL counts as at least this many nats per token for the ceiling."""
    ceiling_patience: int = Field(default=6, ge=1)
    """Evaluations in a row above the ceiling that end training."""
    retain_sample: int = Field(default=64, ge=1)
    """Retain records the ceiling is measured on, whole subjects."""
    report_to: Tracker = "none"
    """The tracker that gets the figures of each step: ``tensorboard``, ``wandb``, ``mlflow`` and
    others that ``transformers`` knows. It gets no text of a record, and whatever it writes by
    itself it writes where it is used to, below the current folder."""

    def batch(self, n_forget: int) -> int:
        """How many of so many forget records a step draws."""
        return min(self.forget_batch or n_forget, n_forget)

    def steps(self, n_forget: int) -> int:
        """How many optimiser steps a run on so many forget records may take."""
        draws = math.ceil(self.draws_per_record * n_forget / self.batch(n_forget))
        return self.max_steps or max(self.min_steps, draws)


class MicroBatch(NamedTuple):
    """The statements of one forward and backward pass, and the sizes of the whole step.

    Losses are sums over the micro-batch divided by the sizes of the step, so their sum over the
    step does not depend on how the step was cut.
    """

    forget: Rows
    retain: Rows | None
    near: Rows | None
    n_forget: int
    n_retain_labels: int
    n_near_labels: int


class Losses(NamedTuple):
    """What one micro-batch adds to the loss of its step."""

    total: Tensor
    forget: Tensor
    retain: Tensor


class Objective(Protocol):
    """A loss of one micro-batch."""

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The losses of ``model``; only ``total`` needs a gradient."""
        ...


class Step(NamedTuple):
    """What one optimiser step did."""

    step: int
    forget_loss: float
    retain_loss: float
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    """Trained on so far, prompts included."""


class Pairs(IterableDataset[dict[str, MicroBatch]]):
    """An endless stream of micro-batches of forget and retain records and near statements.

    Of several processes each gets its share of every step, and all of them draw the same.
    Records that are still ``wanted`` fill a step first; the others top it up, so that one which is
    remembered again is noticed.
    """

    def __init__(
        self,
        forget: Sequence[Encoding],
        retain: Sequence[Encoding],
        config: TrainingConfig,
        seed: int,
        near: Sequence[Encoding] = (),
        counted: Sequence[Sequence[int] | None] = (),
    ) -> None:
        self.forget, self.retain, self.config = forget, retain, config
        self.near, self.counted = near, counted
        self.rng = np.random.default_rng(seed)
        self.n_forget = config.batch(len(forget))
        self.place = place()
        if self.place.size > self.n_forget:
            raise UnsupportedError(
                f"a step draws {self.n_forget} forget records, too few for {self.place.size} "
                "processes; launch fewer, or raise forget_batch"
            )
        self.retain_deck = Deck(range(len(retain)), self.rng)
        self.near_deck = Deck(range(len(near)), self.rng)
        self.want(range(len(forget)))

    def want(self, indices: Sequence[int]) -> None:
        """Draw these forget records first from now on."""
        wanted = set(indices)
        self.first = Deck(sorted(wanted), self.rng)
        self.then = Deck(sorted(set(range(len(self.forget))) - wanted), self.rng)

    def state(self) -> dict[str, Any]:
        """What is left to draw, as places of records, and what decides on the order of the rest."""
        decks = {name: (deck.cards, deck.rest) for name, deck in self._decks().items()}
        return {"rng": self.rng.bit_generator.state, "decks": decks}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on drawing from what ``state`` gave."""
        self.rng.bit_generator.state = state["rng"]
        for name, deck in self._decks().items():
            deck.cards, deck.rest = map(list, state["decks"][name])

    def _decks(self) -> dict[str, Deck]:
        return {
            "first": self.first,
            "then": self.then,
            "retain": self.retain_deck,
            "near": self.near_deck,
        }

    def __iter__(self) -> Iterator[dict[str, MicroBatch]]:
        while True:
            for batch in self.step():
                yield {"batch": batch}

    @property
    def accumulation(self) -> int:
        """Micro-batches per step and process; never more than there are forget records in it."""
        return min(self.config.accumulation, self.n_forget // self.place.size)

    def step(self) -> Iterator[MicroBatch]:
        """The micro-batches of the next step that are this process's."""
        forget = self.first.draw(self.n_forget)
        forget += self.then.draw(self.n_forget - len(forget))
        parts = self.accumulation * self.place.size
        n_retain = max(parts, round(self.n_forget * self.config.retain_per_forget))
        retain = self.retain_deck.draw(n_retain)
        near = self.near_deck.draw(round(self.n_forget * self.config.near_per_forget))
        on = self.config.loss_on
        labels = sum(len(self.retain[i].ids) - first_label(self.retain[i], on) for i in retain)
        near_labels = sum(len(self.near[i].ids) - self.near[i].start for i in near)
        for part in range(self.place.rank, parts, self.place.size):
            mine = slice(part, None, parts)
            yield MicroBatch(
                collate(self.forget, forget[mine], on, self.counted),
                collate(self.retain, retain[mine], on) if retain[mine] else None,
                collate(self.near, near[mine], "answer") if near[mine] else None,
                self.n_forget,
                labels,
                near_labels,
            )
