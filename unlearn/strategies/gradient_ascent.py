"""Gradient ascent and its bounded successors: raise the loss on what must go, hold the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unlearn.artifact import FullWeights, Provenance, SitesSummary
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.registry import strategies
from unlearn.strategies import losses
from unlearn.strategies.losses import Predictions
from unlearn.strategies.matching import Ingredients, Outcome, unlearn_by_training
from unlearn.strategies.sites import check_sites
from unlearn.strategies.training import (
    Losses,
    MicroBatch,
    OrNone,
    Pairs,
    Rows,
    TrainingConfig,
    collate,
)
from unlearn.strategies.versions import versions
from unlearn.types import Sites

Variant = Literal["npo", "simnpo", "ascent", "grad-diff", "inverted-hinge"]

BETA: dict[Variant, float] = {"npo": 0.1, "simnpo": 2.5}
"""The reductions differ: NPO's beta multiplies a sum over the answer, SimNPO's a mean."""

REFERENCE_BATCH = 64


class GradientAscentConfig(TrainingConfig):
    """Settings of gradient ascent.

    >>> GradientAscentConfig(variant="ascent").retain
    'none'
    """

    variant: Variant = "npo"
    """``npo``: negative preference optimisation. ``simnpo``: the same without a reference.
    ``ascent``: raise the NLL, nothing else. ``grad-diff``: that plus a retain term.
    ``inverted-hinge``: only as far as the runner-up token."""
    retain: Literal["nll", "kl", "none"] = "nll"
    """``nll``: of the retain answers. ``kl``: to the original's predictions, which costs one more
    forward pass of the original per retain batch and no memory beyond its activations. ``none`` is
    the default of ``ascent``."""
    retain_weight: float = Field(default=1.0, ge=0)
    """The retain term is a mean over tokens, times this; the forget term a mean over records."""
    beta: Annotated[float | None, OrNone] = Field(default=None, gt=0)
    """Of ``npo`` (0.1, on sums) and ``simnpo`` (2.5, on means); ``none`` for these defaults."""
    gamma: float = 0.0
    """The margin of ``simnpo``."""
    cap: float = Field(default=20.0, gt=0)
    """Nats per token beyond which ``ascent`` and ``grad-diff`` leave a record alone."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_variant(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("variant") == "ascent":
            return {"retain": "none", **values}
        return values

    @model_validator(mode="after")
    def _retain_fits_the_variant(self) -> GradientAscentConfig:
        if self.variant == "ascent" and self.retain != "none":
            raise ValueError("variant 'ascent' has no retain term; use variant=grad-diff")
        if self.variant == "grad-diff" and self.retain == "none":
            raise ValueError("variant 'grad-diff' has a retain term; use variant=ascent")
        return self


@strategies.register("gradient-ascent")
class GradientAscent:
    """Forgets by training against the forget records.

    >>> strategy = GradientAscent(GradientAscentConfig(variant="npo", retain="kl"))
    >>> artifact = strategy.forget(model, forget_set)              # doctest: +SKIP
    """

    name: ClassVar[str] = "gradient-ascent"
    summary: ClassVar[str] = "raise the loss on the forget records (NPO and kin), hold the rest"
    honours: ClassVar[frozenset[str]] = frozenset({"layers", "modules", "weight_mask"})
    Config = GradientAscentConfig

    def __init__(self, config: GradientAscentConfig | None = None) -> None:
        self.config = config or GradientAscentConfig()

    def forget(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None = None,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> FullWeights:
        """The change of weights after which ``model`` does not know the forget records.

        ``model`` itself stays as it is.

        Raises:
            UnsupportedError: the sites restrict a part this strategy does not honour, or nothing
                they name can be trained, or a retain term is asked for without a retain split.
            InputError: the sites are for another model or forget set.
        """
        config = self.config
        check_sites(self.name, self.honours, model, forget_set, sites)
        if config.retain != "none" and not forget_set.retain:
            raise UnsupportedError(
                f"retain={config.retain} needs a retain split, which forget set "
                f"{forget_set.name!r} lacks; add retain.jsonl, or set retain=none"
            )
        outcome = unlearn_by_training(
            model,
            forget_set,
            sites,
            config,
            self._objective,
            use_retain=config.retain != "none",
            seed=seed,
            progress=progress,
        )
        provenance = self._provenance(outcome, sites, seed)
        return FullWeights.between(
            model, outcome.model, provenance, forget_set_digest=forget_set.digest
        )

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
        )

    def _objective(self, given: Ingredients) -> AscentObjective:
        config, device = self.config, given.work.device
        reference = torch.zeros(0)
        if config.variant == "npo":
            reference = sequence_logprobs(given.work, given.pairs)
        gate = None
        if given.targets is not None:
            gate = Gate(
                torch.tensor([t.nll_per_token for t in given.targets], device=device),
                torch.tensor([t.agreement for t in given.targets], device=device),
            )
        original = given.original.model if config.retain == "kl" else None
        return AscentObjective(config, reference, gate, original)


class Gate(NamedTuple):
    """Lets a record out of the loss while it looks never trained on."""

    nll_per_token: Tensor
    agreement: Tensor

    def open(self, rows: Rows, predictions: Predictions) -> Tensor:
        """(B,) 1 where a record still has to be forgotten, 0 where it is not to be pushed further.

        Judged on the very predictions that the loss is made of, so it is never out of date.
        """
        in_answer = rows.answer[:, 1:][rows.labels[:, 1:] != losses.IGNORED]
        counts = predictions.sum_by_row(in_answer.float())
        logprobs = torch.where(in_answer, predictions.label_logprobs.detach(), 0)
        nll = -predictions.sum_by_row(logprobs) / counts
        agreement = predictions.sum_by_row((predictions.greedy & in_answer).float()) / counts
        known = nll < self.nll_per_token[rows.records]
        # Shares of few tokens: a rounding error must not decide.
        return (known | (agreement > self.agreement[rows.records] + 1e-6)).float()


class AscentObjective(NamedTuple):
    """The forget loss of the variant plus the weighted retain term."""

    config: GradientAscentConfig
    reference: Tensor
    """Per forget record: sum of log-probabilities before training, one float each."""
    gate: Gate | None
    original: Any

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The losses of one micro-batch."""
        predictions = run(model, batch.forget)
        per_record = self.forget_loss(batch.forget, predictions)  # (B,)
        if self.gate is not None:
            per_record = per_record * self.gate.open(batch.forget, predictions)
        forget = per_record.sum() / batch.n_forget
        retain = torch.zeros_like(forget)
        if batch.retain is not None:
            retain = self.retain_loss(model, batch.retain) / batch.n_retain_labels
        total = forget + self.config.retain_weight * retain
        return Losses(total, forget.detach(), retain.detach())

    def forget_loss(self, rows: Rows, predictions: Predictions) -> Tensor:
        """(B,) the loss of the variant for each record."""
        config, logprobs = self.config, predictions.label_logprobs
        beta = config.beta or BETA.get(config.variant, 0.0)
        if config.variant == "npo":
            reference = self.reference[rows.records]
            return losses.npo(predictions.sum_by_row(logprobs), reference, beta)
        if config.variant == "simnpo":
            return losses.simnpo(-predictions.mean_by_row(logprobs), beta, config.gamma)
        if config.variant == "inverted-hinge":
            hinge = losses.inverted_hinge(predictions.logprobs, predictions.labels)
            return predictions.mean_by_row(hinge)
        return losses.ascent(-predictions.mean_by_row(logprobs), config.cap)

    def retain_loss(self, model: Any, rows: Rows) -> Tensor:
        """The sum over the retain labels of NLL, or of KL to the original."""
        predictions = run(model, rows)
        if self.config.retain == "nll":
            return -predictions.label_logprobs.sum()
        with torch.no_grad():
            original = run(self.original, rows)
        return losses.forward_kl(original.logprobs, predictions.logprobs).sum()


def run(model: Any, rows: Rows) -> Predictions:
    """The model's predictions at the labelled positions."""
    output = model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False)
    return losses.predict(output.logits, rows.labels)


def sequence_logprobs(model: LanguageModel, pairs: Pairs) -> Tensor:
    """Per forget record: the sum of the log-probabilities of its labels, before any training."""
    sums = []
    with torch.no_grad():
        for at in range(0, len(pairs.forget), REFERENCE_BATCH):
            chosen = range(at, min(at + REFERENCE_BATCH, len(pairs.forget)))
            rows = collate(pairs.forget, chosen, pairs.config.loss_on).to(model.device)
            predictions = run(model.model, rows)
            sums.append(predictions.sum_by_row(predictions.label_logprobs))
    return torch.cat(sums)
