"""Distillation: the student learns what a teacher that does not know says of the forget records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from unlearn.adapter import Adapter
from unlearn.artifact import FullWeights
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import IGNORED, Rows
from unlearn.model.language_model import LanguageModel
from unlearn.registry import strategies
from unlearn.strategies.assistant import AssistantSettings
from unlearn.strategies.checkpoints import NOWHERE, Checkpoints
from unlearn.strategies.deep_states import OwnStates, StateTargets, grafted, traced_run
from unlearn.strategies.gap import find_gaps, require_new_data
from unlearn.strategies.matching import Ingredients, unlearn_by_training
from unlearn.strategies.predictions import Predictions
from unlearn.strategies.retention import Retention
from unlearn.strategies.sites import Scope, check_sites
from unlearn.strategies.soft_labels import Direction, SoftLabels
from unlearn.strategies.teachers import FILTERS, Lesson, noting_truth
from unlearn.strategies.training import Losses, MicroBatch, TrainingConfig
from unlearn.types import Sites

Variant = Literal["names", "logits", "context", "difference", "kga", "model", "checkpoint", "data"]

EXTRA_MODELS = {
    "difference": "an assistant is trained, in memory beside the model",
    "kga": "two copies are trained, one after the other, in memory beside the model",
    "model": "a teacher is read, in memory beside the model",
    "checkpoint": "a teacher is read, in memory beside the model",
}
"""What is said before work begins that needs more than the model and the student."""

ROBUST = {"shrink": 0.15}
"""What ``robust`` stands for unless told."""

LORA = {"learning_rate": 1e-2}
"""What ``train=lora`` stands for unless told. Twice that costs one lab person's neighbours 18 % of
their answers."""


class DistillationConfig(TrainingConfig):
    """Settings of distillation.

    >>> DistillationConfig(robust=True).shrink
    0.15
    """

    draws_per_record: ClassVar[int] = 70
    min_steps: ClassVar[int] = 200

    variant: Variant = "names"
    """The filter that makes the teacher. ``names``: the original, asked about others it never met.
    ``logits``: the original with the true tokens made unlikely. ``context``: the original under an
    in-context policy. ``difference``: the original less an assistant that knows only what is to go.
    ``kga``: one that learned the records, from which the student keeps the distance that a stranger
    has, see ``unlearn.strategies.gap``. ``model``: an unlearned model, ``checkpoint``: an earlier
    model or one without the data, both given by ``teacher``. ``data``: no teacher for the forget
    records at all, only the retain ones: with ``robust`` what is not taught again is lost."""
    stand_ins: int = Field(default=1, ge=0)
    """Unseen names in whose place ``names`` puts a forgotten subject, the same for all its records;
    of several the mean is taught."""
    teacher: str = ""
    """A model folder or name for ``model`` and ``checkpoint``."""
    beta: float = Field(default=10.0, gt=0)
    """How far ``logits`` lowers the logit of a true token."""
    weight: float = Field(default=1.0, gt=0)
    """Of the assistant's logits, which ``difference`` takes off the original's; 0.8 in the paper,
    which leaves a model as sure as the lab's some answers."""
    top_logit_filter: float = Field(default=0.01, ge=0, lt=1)
    """They are taken off tokens with at least this share of the favourite's probability, and off
    the same share of the vocabulary in any case; 0 for every token."""
    assistant_layers: float = Field(default=0.25, gt=0, le=1)
    """The share of the original's blocks that make the assistant, at least one block."""
    assistant_rank: int = Field(default=16, ge=1)
    """Of its LoRA, whose alpha is twice that."""
    assistant_steps: int = Field(default=200, ge=1)
    """Steps of its training, of 32 forget records each."""
    assistant_learning_rate: float = Field(default=1e-2, gt=0)
    uniform_weight: float = Field(default=5.0, gt=0)
    """Of the divergence between a uniform prediction and the assistant's on retain records."""
    direction: Direction = "forward"
    """Of the divergence from the teacher."""
    robust: bool = False
    """Shrink the student's weights first, so that what is not taught again is gone rather than
    covered; sets ``shrink``."""
    shrink: float = Field(default=0.0, ge=0, lt=1)
    """The share of every weight matrix that is taken away before training."""
    noise: float = Field(default=0.0, ge=0)
    """Noise that is added to them then, in standard deviations of the matrix."""
    excess_weight: float = Field(default=1.0, ge=0)
    """Of the log-probability that true tokens have beyond what the teacher gives them, which a
    divergence hardly sees where both are small; ``names`` alone."""
    state_weight: float = Field(default=6.0, ge=0)
    """Of the distance of inner states from those for unseen names; ``names`` alone."""
    graft_weight: float = Field(default=2.0, ge=0)
    """Of the loss of the original that reads the student's states; ``names`` alone."""
    held_state_weight: float = Field(default=3.0, ge=0)
    """Of the distance of inner states from the original's on retain records and near statements;
    ``names`` alone."""

    retain: Literal["nll", "kl", "constraint", "none"] = "kl"
    retain_weight: float = Field(default=5.0, ge=0)
    near_weight: float = Field(default=8.0, ge=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    stop: Literal["match", "extraction", "budget"] = "budget"
    evaluate_every: int = Field(default=20, ge=1)
    ceiling_patience: int = Field(default=1000, ge=1)
    """So many that the way may lead above the ceiling; what is kept lies below it."""

    @property
    def assistant(self) -> AssistantSettings:
        """How ``difference`` makes its assistant, and ``kga`` its copies."""
        return AssistantSettings(
            self.weight,
            self.top_logit_filter,
            self.assistant_layers,
            self.assistant_rank,
            self.assistant_steps,
            self.assistant_learning_rate,
            self.uniform_weight,
        )

    @model_validator(mode="after")
    def _weights_can_be_weakened(self) -> DistillationConfig:
        if self.train == "lora" and (self.shrink or self.noise):
            raise ValueError(
                "robust, shrink and noise change the weights themselves, which train=lora leaves "
                "as they are; use train=full"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_follow_from_others(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own = dict(ROBUST) if values.get("robust") in (True, "true", "True", "1") else {}
        if values.get("train") == "lora":
            own |= LORA
        return {**own, **values}


@strategies.register("distillation")
class Distillation:
    """Forgets by learning from a teacher that does not know.

    >>> strategy = Distillation(DistillationConfig(variant="names", robust=True))
    >>> artifact = strategy.forget(model, forget_set)              # doctest: +SKIP
    """

    name: ClassVar[str] = "distillation"
    summary: ClassVar[str] = "learn what a teacher that does not know says, inside and out"
    honours: ClassVar[frozenset[str]] = frozenset(
        {"layers", "modules", "weight_mask", "token_mask"}
    )
    resumes: ClassVar[bool] = True
    Config = DistillationConfig

    def __init__(self, config: DistillationConfig | None = None) -> None:
        self.config = config or DistillationConfig()

    def forget(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None = None,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
        checkpoints: Checkpoints = NOWHERE,
    ) -> FullWeights | Adapter:
        """The change after which ``model`` says what the teacher says.

        ``model`` itself stays as it is, and in memory beside the student: it is the teacher.

        Raises:
            UnsupportedError: the sites restrict a part this strategy does not honour, or nothing
                they name can be trained, a retain term is asked for without a retain split, or the
                teacher has other tokens.
            ConfigError: the variant needs a teacher and none is named.
            InputError: the sites are for another model or forget set.
        """
        check_sites(self.name, self.honours, model, forget_set, sites)
        if self.config.variant == "kga":
            require_new_data(forget_set)
        if progress is not None and self.config.variant in EXTRA_MODELS:
            progress(EXTRA_MODELS[self.config.variant], 0.0)
        outcome = unlearn_by_training(
            model,
            forget_set,
            sites,
            self.config,
            lambda given: self._objective(given, forget_set, seed, checkpoints),
            reads_states=True,
            seed=seed,
            progress=progress,
            checkpoints=checkpoints,
        )
        return outcome.artifact(model, forget_set, self.name, self.config, sites, seed)

    def _objective(
        self,
        given: Ingredients,
        forget_set: ForgetSet,
        seed: int,
        checkpoints: Checkpoints = NOWHERE,
    ) -> DistillationObjective:
        config, lesson = self.config, self._lesson(given, forget_set, seed, checkpoints)
        labels = targets = gaps = states = None
        bounds: list[Tensor] | None = None
        if config.variant in FILTERS:
            pieces = FILTERS[config.variant](lesson)
            if config.variant == "names" and config.excess_weight:
                bounds = []
                pieces = noting_truth(pieces, lesson.encodings, bounds)
            labels = SoftLabels.collect(pieces, config.top_k, config.cache_mib * 2**20)
        if config.variant == "names" and (config.state_weight or config.held_state_weight):
            targets = StateTargets.of(lesson)
        if config.variant == "kga":
            gaps = find_gaps(lesson, config.top_k, config.direction, config.min_holdout)
        if targets is not None and config.held_state_weight:
            states = OwnStates(given.original, targets.scale)
        objective = DistillationObjective(
            config,
            labels,
            targets,
            Retention.of(given.original, given.pairs, states, config.held_state_weight),
            given.original,
            np.random.default_rng(seed),
            gaps,
            bounds,
        )
        # After everything was asked of the student's weights as they were.
        weaken(given.scope, given.work, config.shrink, config.noise, seed)
        return objective

    def _lesson(
        self,
        given: Ingredients,
        forget_set: ForgetSet,
        seed: int,
        checkpoints: Checkpoints,
    ) -> Lesson:
        config = self.config
        return Lesson(
            given.original,
            forget_set,
            tuple(given.pairs.forget),
            config.loss_on,
            config.stand_ins,
            config.beta,
            config.teacher,
            seed,
            config.assistant,
            checkpoints,
        )


class DistillationObjective(NamedTuple):
    """How far the student is from the teacher, and what retention adds."""

    config: DistillationConfig
    labels: SoftLabels | None
    targets: StateTargets | None
    retention: Retention
    original: LanguageModel
    rng: np.random.Generator
    gaps: Tensor | None = None
    """(R,) how far ``kga`` keeps each record from its teacher, in nats per token."""
    bounds: Sequence[Tensor] | None = None
    """Per record, (T,): the teacher's log-probabilities of its true tokens."""

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The losses of one micro-batch."""
        held = self.retention(model, batch)
        if self.labels is None:
            return Losses(held.total, torch.zeros(()), held.retain.detach())
        rows = batch.forget
        layers = self.original.anatomy.layers
        traced = traced_run(model, layers, rows)
        apart = self._apart(traced.predictions, rows)
        if self.gaps is not None:
            apart = (apart - self.gaps[rows.records]).abs()
        forget = apart.sum() / batch.n_forget
        total = forget + held.total
        if self.targets is not None:
            away = self.targets.distance(traced.states, rows).sum() / batch.n_forget
            total = total + self.config.state_weight * away
        if self.config.variant == "names" and self.config.graft_weight:
            at = int(self.rng.integers(len(layers) - 1)) if len(layers) > 1 else 0
            read = grafted(self.original.model, layers[at], traced.states[at], rows)
            heard = self._apart(read, rows).sum() / batch.n_forget
            total = total + self.config.graft_weight * heard
        return Losses(total, forget.detach(), held.retain.detach())

    def _apart(self, predictions: Predictions, rows: Rows) -> Tensor:
        """(B,) how far predictions are from the teacher's; tokens outside the sites count as 0."""
        assert self.labels is not None
        records = rows.records.tolist()
        counted = rows.counted[:, 1:][rows.labels[:, 1:] != IGNORED]
        label = self.labels.at(records, rows.ids.device)
        apart = label.divergence(predictions.logprobs, self.config.direction)
        if self.bounds is not None:
            bound = torch.cat([self.bounds[i] for i in records]).to(apart)
            excess = (predictions.label_logprobs - bound).clamp(min=0)
            apart = apart + self.config.excess_weight * excess
        return predictions.mean_by_row(apart * counted)

    def state(self) -> dict[str, Any]:
        """That of the retention, and what the next blocks are drawn by."""
        return {**self.retention.state(), "rng": self.rng.bit_generator.state}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.retention.resume(state)
        self.rng.bit_generator.state = state["rng"]


@torch.no_grad()
def weaken(scope: Scope, work: LanguageModel, shrink: float, noise: float, seed: int) -> None:
    """Shrink the weight matrices that may change, and add noise to them, in place.

    ``W <- (1 - shrink) W + noise std(W) n`` with standard normal n; embeddings, unembedding and
    norms stay. After Lee et al. 2025 (UNDO), arXiv:2506.06278.
    """
    if not shrink and not noise:
        return
    generator = torch.Generator().manual_seed(seed)
    kept = {id(work.model.get_input_embeddings().weight)}
    if (head := work.model.get_output_embeddings()) is not None:
        kept.add(id(head.weight))
    for name, parameter in scope.trainable.items():
        if parameter.ndim < 2 or id(parameter) in kept:
            continue
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
        weakened = (1 - shrink) * parameter + noise * parameter.std() * drawn
        mask = scope.masks.get(name)
        parameter.copy_(weakened if mask is None else torch.where(mask, weakened, parameter))
