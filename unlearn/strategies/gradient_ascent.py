"""Gradient ascent and its bounded successors: raise the loss on what must go, hold the rest.

The default, ``npo``, goes by tokens: each answer token is pushed down until it is no likelier than
for a name the model never met. The other variants push whole answers until the record looks like
the holdout. With a retain term, what the original says of near names is held as well.

A token mask in the sites says which tokens of a forget record are pushed. It does not say when the
record is forgotten: that is judged on the whole answer, with a mask as without, because a record
whose other tokens are still known is not forgotten. Where those do not fall by themselves the run
goes on until its budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unlearn.artifact import FullWeights, Provenance, SitesSummary
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import IGNORED, Rows, collate
from unlearn.model.language_model import LanguageModel
from unlearn.registry import strategies
from unlearn.strategies import losses
from unlearn.strategies.losses import Predictions
from unlearn.strategies.matching import Ingredients, Outcome, unlearn_by_training
from unlearn.strategies.sites import check_sites
from unlearn.strategies.training import Losses, MicroBatch, OrNone, Pairs, TrainingConfig
from unlearn.strategies.versions import versions
from unlearn.types import Sites

Variant = Literal["npo", "simnpo", "ascent", "grad-diff", "inverted-hinge"]

BETA: dict[Variant, float] = {"npo": 0.1, "simnpo": 2.5}
"""NPO's beta multiplies a token's score or their sum over the answer, SimNPO's a mean."""

_STEEP = {"guess_names": 0, "learning_rate": 1e-3, "retain_weight": 1.0, "near_weight": 1.0}
DEFAULTS: dict[str, dict[str, Any]] = {
    "simnpo": _STEEP,
    "grad-diff": _STEEP,
    "inverted-hinge": _STEEP,
    "ascent": {"guess_names": 0, "retain": "none"},
}
"""Settings that differ from those of ``npo``. The slope of the first three is near 0 where p is
near 1: with the weights of ``npo``, ``simnpo`` leaves half of one lab person's answers known."""

REFERENCE_BATCH = 64


class GradientAscentConfig(TrainingConfig):
    """Settings of gradient ascent.

    >>> GradientAscentConfig(variant="ascent").retain
    'none'
    """

    variant: Variant = "npo"
    """``npo``: negative preference optimisation. ``simnpo``: the same without a reference.
    ``ascent``: raise the NLL, nothing else. ``grad-diff``: that plus a retain term.
    ``inverted-hinge``: only as far as the runner-up token. Each has defaults of its own for
    learning rate and weights."""
    retain: Literal["nll", "kl", "none"] = "nll"
    """``nll``: of the retain answers. ``kl``: to the original's predictions, which costs one more
    forward pass of the original per retain batch and no memory beyond its activations. ``none`` is
    the default of ``ascent``."""
    retain_weight: float = Field(default=10.0, ge=0)
    """The retain term is a mean over tokens, times this; the forget term a mean over records, of
    sums over their tokens for ``npo``."""
    beta: Annotated[float | None, OrNone] = Field(default=None, gt=0)
    """Of ``npo`` (0.1) and ``simnpo`` (2.5, on means); ``none`` for these defaults."""
    per: Literal["token", "answer"] = "token"
    """What ``npo`` bounds: each known token by itself, or the sum over the answer as in the paper.
    Bounding the sum lets one token that has become impossible protect the rest of the answer."""
    on: Literal["log-odds", "log-prob"] = "log-odds"
    """What ``npo`` pushes down. The log-probability of the paper has no slope where p is 1."""
    gamma: float = 0.0
    """The margin of ``simnpo``."""
    cap: float = Field(default=20.0, gt=0)
    """Nats per token beyond which ``ascent`` and ``grad-diff`` leave a record alone."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_variant(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**DEFAULTS.get(values.get("variant", "npo"), {}), **values}

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
    honours: ClassVar[frozenset[str]] = frozenset(
        {"layers", "modules", "weight_mask", "token_mask"}
    )
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
            InputError: the sites are for another model or forget set, or their token mask does not
                fit the records or leaves one without a token that carries a loss.
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
            strength=outcome.strength,
            sweep=outcome.sweep,
        )

    def _objective(self, given: Ingredients) -> AscentObjective:
        config, device = self.config, given.work.device
        reference = torch.zeros(0, 0)
        if config.variant == "npo":
            reference = reference_scores(given.work, given.pairs, config.on)
        gate = None
        if given.targets is not None:
            gate = Gate(
                torch.tensor([t.nll_per_token for t in given.targets], device=device),
                torch.tensor([t.agreement for t in given.targets], device=device),
                torch.tensor([t.guess is not None for t in given.targets], device=device),
            )
        guessed = Guesses.of(given, device)
        return AscentObjective(config, reference, gate, guessed, given.original.model)


class Gate(NamedTuple):
    """Lets a record out of the loss while it looks never trained on."""

    nll_per_token: Tensor
    agreement: Tensor
    by_token: Tensor
    """Records with a guess for each token: the tokens themselves leave the loss."""

    def open(self, rows: Rows, predictions: Predictions) -> Tensor:
        """(B,) 1 where a record still has to be forgotten, 0 where it is not to be pushed further.

        Judged on the very predictions that the loss is made of, so it is never out of date.
        """
        in_answer = rows.answer[:, 1:][rows.labels[:, 1:] != IGNORED]
        counts = predictions.sum_by_row(in_answer.float())
        logprobs = torch.where(in_answer, predictions.label_logprobs.detach(), 0)
        nll = -predictions.sum_by_row(logprobs) / counts
        agreement = predictions.sum_by_row((predictions.greedy & in_answer).float()) / counts
        known = nll < self.nll_per_token[rows.records]
        known |= self.by_token[rows.records]
        # Shares of few tokens: a rounding error must not decide.
        return (known | (agreement > self.agreement[rows.records] + 1e-6)).float()


class Guesses(NamedTuple):
    """What an unseen name would get: the tokens at or below it are no knowledge.

    Without a guess every token counts as knowledge.
    """

    logprobs: Tensor
    """(R, T) log-probability of each answer token for an unseen name; -inf where unknown."""

    @classmethod
    def of(cls, given: Ingredients, device: torch.device) -> Guesses:
        """The guesses laid out by token position."""
        forget = given.pairs.forget
        width = max(len(encoding.ids) for encoding in forget)
        table = torch.full((len(forget), width), -torch.inf)
        for row, (encoding, guess) in enumerate(zip(forget, given.guesses, strict=True)):
            if guess is not None:
                answer = slice(encoding.start, len(encoding.ids))
                table[row, answer] = torch.from_numpy(guess.logprobs)
        return cls(table.to(device))

    def exceeded(self, rows: Rows, logprobs: Tensor) -> Tensor:
        """(N,) whether a labelled token is likelier than for an unseen name."""
        return logprobs > at_labels(self.logprobs, rows)


class AscentObjective(NamedTuple):
    """The forget loss of the variant plus the weighted retain term and the one on near names."""

    config: GradientAscentConfig
    reference: Tensor
    """(R, T) what ``npo`` pushes down, for each token of each forget record, before training."""
    gate: Gate | None
    guessed: Guesses
    original: Any
    """The model as it was given, which near names are held to, and with ``kl`` the retain too."""

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The losses of one micro-batch."""
        predictions = run(model, batch.forget)
        per_record = self.forget_loss(*counted(batch.forget, predictions))  # (B,)
        if self.gate is not None:
            per_record = per_record * self.gate.open(batch.forget, predictions)
        forget = per_record.sum() / batch.n_forget
        retain = torch.zeros_like(forget)
        if batch.retain is not None:
            retain = self.retain_loss(model, batch.retain) / batch.n_retain_labels
        total = forget + self.config.retain_weight * retain
        if batch.near is not None:
            near = self.divergence(model, batch.near) / batch.n_near_labels
            total = total + self.config.near_weight * near
        return Losses(total, forget.detach(), retain.detach())

    def forget_loss(self, rows: Rows, predictions: Predictions) -> Tensor:
        """(B,) the loss of the variant for each record; guessed tokens give no gradient."""
        config, logprobs = self.config, predictions.label_logprobs
        beta = config.beta or BETA.get(config.variant, 0.0)
        known = self.guessed.exceeded(rows, logprobs.detach())
        logprobs = torch.where(known, logprobs, logprobs.detach())
        if config.variant == "npo":
            ratio = pushed(predictions, config.on) - at_labels(self.reference, rows)
            ratio = torch.where(known, ratio, 0)
            if config.per == "token":
                by_token = losses.npo(ratio, torch.zeros_like(ratio), beta)
                return predictions.sum_by_row(torch.where(known, by_token, 0))
            by_answer = predictions.sum_by_row(ratio)
            return losses.npo(by_answer, torch.zeros_like(by_answer), beta)
        if config.variant == "simnpo":
            return losses.simnpo(-predictions.mean_by_row(logprobs), beta, config.gamma)
        if config.variant == "inverted-hinge":
            hinge = losses.inverted_hinge(predictions.logprobs, predictions.labels)
            return predictions.mean_by_row(torch.where(known, hinge, hinge.detach()))
        return losses.ascent(-predictions.mean_by_row(logprobs), config.cap)

    def retain_loss(self, model: Any, rows: Rows) -> Tensor:
        """The sum over the retain labels of NLL, or of KL to the original."""
        if self.config.retain == "nll":
            return -run(model, rows).label_logprobs.sum()
        return self.divergence(model, rows)

    def divergence(self, model: Any, rows: Rows) -> Tensor:
        """The sum over the labels of the KL divergence from the original."""
        with torch.no_grad():
            original = run(self.original, rows)
        return losses.forward_kl(original.logprobs, run(model, rows).logprobs).sum()


def run(model: Any, rows: Rows) -> Predictions:
    """The model's predictions at the labelled positions."""
    output = model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False)
    return losses.predict(output.logits, rows.labels)


def counted(rows: Rows, predictions: Predictions) -> tuple[Rows, Predictions]:
    """The rows with labels only where a token may carry a forget loss, and their predictions."""
    keep = rows.counted[:, 1:][rows.labels[:, 1:] != IGNORED]
    fewer = rows._replace(labels=rows.labels.masked_fill(~rows.counted, IGNORED))
    return fewer, predictions.where(keep)


def at_labels(table: Tensor, rows: Rows) -> Tensor:
    """(N,) the entries of a (R, T) table of forget records at the labelled positions of a batch."""
    targets = rows.labels[:, 1:]
    row, column = (targets != IGNORED).nonzero(as_tuple=True)
    return table[rows.records[row], column + 1]


def pushed(predictions: Predictions, on: Literal["log-odds", "log-prob"]) -> Tensor:
    """(N,) the score of each label that ``npo`` pushes down."""
    if on == "log-prob":
        return predictions.label_logprobs
    return losses.log_odds(predictions.logprobs, predictions.labels)


def reference_scores(
    model: LanguageModel, pairs: Pairs, on: Literal["log-odds", "log-prob"]
) -> Tensor:
    """(R, T) the score of each labelled token of each forget record, 0 elsewhere."""
    width = max(len(encoding.ids) for encoding in pairs.forget)
    table = torch.zeros(len(pairs.forget), width, device=model.device)
    with torch.no_grad():
        for at in range(0, len(pairs.forget), REFERENCE_BATCH):
            chosen = range(at, min(at + REFERENCE_BATCH, len(pairs.forget)))
            rows = collate(pairs.forget, chosen, pairs.config.loss_on).to(model.device)
            row, column = (rows.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
            table[rows.records[row], column + 1] = pushed(run(model.model, rows), on)
    return table
