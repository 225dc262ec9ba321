"""Subtraction: an adapter learns the forget records better still, and is taken away instead.

Zhang et al. 2023, arXiv:2306.14870: a parameter-efficient module trained on what is to go is a
direction in which the model knows it better, ``theta + delta``; the other way, at
``theta - s delta``, it should know it less. Nothing is held while it is trained: what keeps the
rest is that the module is small, and that ``s`` is no larger than the retain records bear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from unlearn.adapter import Adapter
from unlearn.artifact import Provenance, SitesSummary
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import LossOn
from unlearn.model.language_model import LanguageModel
from unlearn.registry import strategies
from unlearn.strategies.checkpoints import NOWHERE, Checkpoints
from unlearn.strategies.sites import check_sites
from unlearn.strategies.subtraction_run import Outcome, subtract
from unlearn.strategies.training import OrNone, Tracker, TrainingConfig
from unlearn.strategies.versions import versions
from unlearn.types import Noun, Sites

Variant = Literal["lora", "ia3", "ext-sub"]


def _paths(value: Any) -> Any:
    """Paths given as one text, with commas between."""
    if isinstance(value, str):
        return tuple(Path(part.strip()) for part in value.split(",") if part.strip())
    return value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_paths)]

PIECE = 32
"""Records of one forward and backward pass, unless told."""

DEFAULTS: dict[str, dict[str, Any]] = {"ia3": {"learning_rate": 5e-3}}
"""Settings that differ from those of ``lora``."""


class SubtractionConfig(Noun):
    """Settings of subtraction.

    >>> SubtractionConfig(variant="ia3").learning_rate
    0.005
    """

    variant: Variant = "lora"
    """``lora``: low-rank updates. ``ia3``: scales of what modules give. ``ext-sub``: LoRA, without
    what a second one, trained on the retain records, does as well."""
    rank: int = Field(default=16, ge=1)
    """Of the LoRA; ``ext-sub`` gives an artifact of twice that rank, which loses nothing."""
    alpha: int = Field(default=32, ge=1)
    """The LoRA is scaled by ``alpha / rank``."""
    adapter: Annotated[Path | None, OrNone] = None
    """A LoRA in peft's format that was trained on what is to go, in place of training one."""
    weighting: Literal["record", "none"] = "record"
    """``record``: each record's NLL is divided by what it was at the start, because what a model
    knows best pulls least. ``none``: the mean over records, as in the paper."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Of AdamW, without weight decay, constant after the warm-up; 5e-3 for ``ia3``."""
    warmup_steps: int = Field(default=5, ge=0)
    max_steps: int = Field(default=30, ge=1)
    forget_batch: Annotated[int | None, OrNone] = Field(default=None, ge=1)
    """Records per optimiser step; ``none`` for all of them: what one batch says of the others'
    records goes into the module too, and comes out again as damage."""
    accumulation: Annotated[int | None, OrNone] = Field(default=None, ge=1)
    """Micro-batches a step is cut into; ``none`` for pieces of up to 32 records."""
    loss_on: LossOn = "answer"
    """The tokens that carry labels: those of the answer, or of prompt and answer."""
    report_to: Tracker = "none"
    """The tracker that gets the figures of each step, of those that ``transformers`` knows."""

    strength: Literal["search"] | Annotated[float, Field(gt=0, le=100)] = "search"
    """How often the module is subtracted: ``search`` for the least that forgets everything within
    the retain ceiling, or a number."""
    retain_ceiling: float = Field(default=0.05, ge=0)
    """How far the retain NLL may rise, as a share of the original's."""
    retain_floor: float = Field(default=0.2, ge=0)
    """The original's retain NLL counts as at least this many nats per token for the ceiling."""
    retain_sample: int = Field(default=64, ge=1)
    """Retain records the ceiling is measured on, whole subjects."""
    guess_names: int = Field(default=6, ge=0)
    """Unseen names whose guesses are the targets of single tokens; 0 for targets of whole records
    from the holdout."""
    agreement_quantile: float = Field(default=0.9, ge=0, le=1)
    """A record without a guess may agree with the greedy answer as much as this quantile of the
    holdout does."""
    min_holdout: int = Field(default=3, ge=1)
    """A relation with fewer holdout records takes its target from the whole holdout."""

    orthogonal_to: Paths = ()
    """Artifacts of earlier requests, with commas between: the rows of A are kept orthogonal to
    theirs."""
    merge_with: Paths = ()
    """Artifacts of earlier requests, with commas between, that the result is merged with."""
    merge: Literal["cat", "ties", "ties_svd"] = "cat"
    """``cat``: the sum. ``ties``, ``ties_svd``: TIES of the factors, or of their products, at
    ``density``."""
    density: float = Field(default=0.8, gt=0, lt=1)
    """The share of each adapter's entries that TIES keeps."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_variant(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**DEFAULTS.get(values.get("variant", "lora"), {}), **values}

    @model_validator(mode="after")
    def _fits_the_variant(self) -> SubtractionConfig:
        low_rank = (self.adapter, self.orthogonal_to, self.merge_with)
        if self.variant == "ia3" and any(low_rank):
            raise ValueError(
                "adapter, orthogonal_to and merge_with are of low-rank adapters; use variant=lora"
            )
        if self.adapter and (self.variant != "lora" or self.orthogonal_to):
            raise ValueError("with adapter=PATH nothing is trained; use variant=lora alone")
        return self

    def training(self, n_records: int) -> TrainingConfig:
        """What the shared loop is told."""
        batch = self.forget_batch or n_records
        return TrainingConfig(
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            max_steps=self.max_steps,
            forget_batch=batch,
            accumulation=self.accumulation or math.ceil(batch / PIECE),
            loss_on=self.loss_on,
            near_per_forget=0,
            report_to=self.report_to,
        )


@strategies.register("subtraction")
class Subtraction:
    """Forgets by training an adapter on the forget records and subtracting it.

    >>> strategy = Subtraction(SubtractionConfig(variant="lora", rank=8))
    >>> artifact = strategy.forget(model, forget_set)              # doctest: +SKIP
    """

    name: ClassVar[str] = "subtraction"
    summary: ClassVar[str] = "train an adapter (LoRA, IA3) on the forget records and subtract it"
    honours: ClassVar[frozenset[str]] = frozenset({"layers", "modules", "token_mask"})
    resumes: ClassVar[bool] = True
    Config = SubtractionConfig

    def __init__(self, config: SubtractionConfig | None = None) -> None:
        self.config = config or SubtractionConfig()

    def forget(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None = None,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
        checkpoints: Checkpoints = NOWHERE,
    ) -> Adapter:
        """The negated adapter after which ``model`` does not know the forget records.

        ``model`` itself stays as it is.

        Raises:
            UnsupportedError: the sites restrict a part this strategy does not honour or hold no
                linear module; an adapter is of a kind that cannot be added; or subtracting the
                module would not make the forget records less likely.
            InputError: the sites are for another model or forget set, or their token mask does not
                fit the records or leaves one without a token that carries a loss.
            ArtifactError: an earlier artifact does not read, or was made on another model.
        """
        config = self.config
        check_sites(self.name, self.honours, model, forget_set, sites)
        if config.variant == "ext-sub" and not forget_set.retain:
            raise UnsupportedError(
                f"variant=ext-sub trains an expert on the retain split, which forget set "
                f"{forget_set.name!r} lacks; add retain.jsonl, or use variant=lora"
            )
        if config.adapter and sites is not None:
            raise UnsupportedError(
                "sites say where an adapter is trained, and adapter=PATH is trained already; "
                "leave one of the two out"
            )
        outcome = subtract(model, forget_set, sites, config, seed, progress, checkpoints)
        provenance = self._provenance(outcome, sites, seed)
        with outcome.saved() as folder:
            return Adapter.on(model, folder, provenance, forget_set_digest=forget_set.digest)

    def _provenance(self, outcome: Outcome, sites: Sites | None, seed: int) -> Provenance:
        return Provenance(
            strategy=self.name,
            settings=self.config.model_dump(mode="json"),
            seed=seed,
            sites=SitesSummary.of(sites),
            versions=versions(),
            steps=outcome.steps,
            stop_reason=outcome.stop_reason,
            tokens=outcome.tokens,
            seconds=outcome.seconds,
            strength=outcome.strength,
            sweep=outcome.sweep,
        )
