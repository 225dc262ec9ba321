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
from typing import ClassVar

import torch

from unlearn.adapter import Adapter
from unlearn.artifact import FullWeights
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.registry import strategies
from unlearn.strategies.ascent_config import GradientAscentConfig
from unlearn.strategies.ascent_objective import (
    Alternatives,
    AscentObjective,
    Gate,
    Guesses,
    scores_by_token,
)
from unlearn.strategies.checkpoints import NOWHERE, Checkpoints
from unlearn.strategies.matching import Ingredients, unlearn_by_training
from unlearn.strategies.retention import Retention
from unlearn.strategies.rmu import RmuObjective, default_sites
from unlearn.strategies.sites import check_sites
from unlearn.strategies.training import Objective
from unlearn.types import Sites

WEIGHTS = frozenset({"layers", "modules", "weight_mask"})
"""The parts of sites that say which weights move."""


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
    resumes: ClassVar[bool] = True
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
        checkpoints: Checkpoints = NOWHERE,
    ) -> FullWeights | Adapter:
        """The change after which ``model`` does not know the forget records; it stays as it is.

        Raises:
            UnsupportedError: the sites restrict a part this strategy does not honour, or nothing
                they name can be trained, or a retain term is asked for without a retain split.
            InputError: the sites are for another model or forget set, or their token mask does not
                fit the records or leaves one without a token that carries a loss.
        """
        config = self.config
        check_sites(self.name, self.honours, model, forget_set, sites)
        if config.variant == "rmu" and (sites is None or not sites.parts & WEIGHTS):
            found = default_sites(model, config.layer)
            sites = found if sites is None else sites.model_copy(update={"modules": found.modules})
        outcome = unlearn_by_training(
            model,
            forget_set,
            sites,
            config,
            lambda given: self._objective(given, forget_set, seed),
            reads_states=config.variant == "rmu",
            seed=seed,
            progress=progress,
            checkpoints=checkpoints,
        )
        return outcome.artifact(model, forget_set, self.name, config, sites, seed)

    def _objective(self, given: Ingredients, forget_set: ForgetSet, seed: int) -> Objective:
        if self.config.variant == "rmu":
            return RmuObjective.of(given, self.config, seed)
        config, device, encodings = self.config, given.work.device, given.pairs.forget
        on = {"npo": config.on, "altpo": "log-prob"}.get(config.variant)
        gate = None
        if given.targets is not None:
            gate = Gate(
                torch.tensor([t.nll_per_token for t in given.targets], device=device),
                torch.tensor([t.agreement for t in given.targets], device=device),
                torch.tensor([t.guess is not None for t in given.targets], device=device),
            )
        return AscentObjective(
            config,
            scores_by_token(given.work, encodings, config.loss_on, on) if on else torch.zeros(0, 0),
            gate,
            Guesses.of(given, device),
            Retention.of(given.original, given.pairs),
            Alternatives.of(given, forget_set, seed) if config.variant == "altpo" else None,
        )
