"""Intervention: try the strategy's own first step on each module alone, and see what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from unlearn.errors import NumericalError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.locate.answers import answers, batches, encode
from unlearn.locate.selection import Top, choose
from unlearn.locate.sites import Candidate, build_sites, candidates
from unlearn.model.forward import forward_only
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.registry import locators, strategies
from unlearn.types import Noun, Sites

Progress = Callable[[str, float], None] | None


class InterventionConfig(Noun):
    """Settings of intervention."""

    strategy: str = "gradient-ascent"
    """Whose first step is tried, with its default settings; it must have a ``max_steps``."""
    steps: float = Field(default=20.0, gt=0)
    """The change that is tried, in first steps. A warm-up makes the first one small."""
    damage_weight: float = Field(default=1.0, ge=0)
    """What a share of the damage counts against as large a share of the gain."""
    top: Top = 0.5
    """How much to choose."""
    max_records: int = Field(default=64, ge=1)
    """Of each split; whole subjects are drawn by the seed."""
    max_batch_tokens: int = Field(default=2048, ge=1)
    """Padding counted; a longer record is a batch of its own."""


class Effect(NamedTuple):
    """What the change of one module alone does, in nats of log-odds per answer token."""

    gain: float
    """Mean over forget records of what their answers lose."""
    damage: float
    """Mean over retain records of what their answers lose; one that gains makes up for no other."""


@locators.register("intervention")
class Intervention:
    """Ranks modules by what the strategy's own first step, taken there alone, forgets and breaks.

    The strategy takes one step without sites. For each module its part of that change, ``steps``
    times as long, is written into the weights, and the log-odds of answers are read before and
    after. A module scores

        gain / sum of all gains - damage_weight * damage / sum of all damages,

    higher: a better place to act. Shares, because what is forgotten and what is broken differ by
    orders of magnitude. After the idea that a support should be judged by the update that will use
    it ("Storage is not strategy", 2026).

    Cost: a forward pass over both samples of records for every module.

    Known failure: one step looks along one direction. What a long training run does in a module
    that starts slowly is not seen.

    >>> Intervention(InterventionConfig(top=0.3)).locate(model, forget_set)    # doctest: +SKIP
    """

    name: ClassVar[str] = "intervention"
    summary: ClassVar[str] = "where the strategy's own first step forgets most and breaks least"
    honours: ClassVar[frozenset[str]] = frozenset({"modules"})
    Config = InterventionConfig

    def __init__(self, config: InterventionConfig | None = None) -> None:
        self.config = config or InterventionConfig()

    def locate(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        *,
        seed: int = 0,
        progress: Progress = None,
    ) -> Sites:
        """The best modules up to ``top``, and the scores of all of them.

        Raises:
            UnsupportedError: the forget set has no retain split, the strategy cannot be stopped
                after a step, or its step changes no module.
            InputError: a record does not fit the model's context.
        """
        if not forget_set.retain:
            raise UnsupportedError(
                f"intervention needs a retain split, which forget set {forget_set.name!r} lacks; "
                "add retain.jsonl, or use the locator 'all' or 'fixed'"
            )
        among = candidates(model)
        step = first_step(model, forget_set, self.config.strategy, seed)
        found = self.effects(model, forget_set, among, step, seed, progress)
        scores = dict(zip([c.name for c in among], self._scores(found), strict=True))
        moved = {c.name: scores[c.name] for c in among if any(n in step for n in _own(model, c))}
        chosen = choose(among, moved, self.config.top)
        return build_sites(
            self.name, model, forget_set, self.config, seed, chosen=chosen, scores=scores
        )

    def effects(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        among: Sequence[Candidate],
        step: Mapping[str, Tensor],
        seed: int,
        progress: Progress = None,
    ) -> list[Effect]:
        """What the step does in each candidate alone, in order; the model is as it was after."""
        config = self.config
        samples = [
            encode(model, forget_set.sample(split, config.max_records, seed))
            for split in ("forget", "retain")
        ]
        before = [self._log_odds(model, sample) for sample in samples]
        found = []
        for done, candidate in enumerate(among, start=1):
            change = {name: config.steps * step[name] for name in _own(model, candidate) & {*step}}
            with shifted(model, change):
                after = [self._log_odds(model, sample) for sample in samples]
            forget, retain = (b - a for b, a in zip(before, after, strict=True))
            found.append(Effect(float(forget.mean()), float(retain.clamp(min=0).mean())))
            if progress is not None:
                progress("interventions", done / len(among))
        return found

    def _log_odds(self, model: LanguageModel, sample: Sequence[Encoding]) -> Tensor:
        with forward_only(model.model):
            parts = [
                answers(model, batch).log_odds()
                for batch in batches(sample, self.config.max_batch_tokens)
            ]
        odds = torch.cat(parts).double()
        if not bool(odds.isfinite().all()):
            raise NumericalError(
                "an answer's log-odds are not finite; load the model with dtype float32, or lower "
                "steps"
            )
        return odds

    def _scores(self, found: Sequence[Effect]) -> list[float]:
        gain = sum(max(0.0, effect.gain) for effect in found) or 1.0
        damage = sum(effect.damage for effect in found) or 1.0
        weight = self.config.damage_weight
        return [effect.gain / gain - weight * effect.damage / damage for effect in found]


def first_step(
    model: LanguageModel, forget_set: ForgetSet, strategy: str, seed: int
) -> dict[str, Tensor]:
    """Parameter name to the change that the strategy's first step makes to it; zeros left out.

    Raises:
        UnknownNameError: there is no such strategy.
        UnsupportedError: it does not train in steps, or its first one changes no weights.
    """
    made = strategies.get(strategy)
    try:
        config = made.Config.model_validate({"max_steps": 1})
    except ValidationError:
        raise UnsupportedError(
            f"strategy {strategy!r} has no max_steps, so its first step cannot be tried; set "
            "strategy= to one that trains"
        ) from None
    artifact = made(config).forget(model, forget_set, seed=seed)
    after: Any = artifact.apply(model).model
    stepped = dict(after.named_parameters())
    change = {}
    for name, parameter in model.model.named_parameters():
        difference = (stepped[name] - parameter).detach()
        if bool(difference.any()):
            change[name] = difference
    if not change:
        raise UnsupportedError(
            f"the first step of {strategy!r} changes no weights: nothing is left to forget, "
            "it works without weights, or they are too narrow for one step (try float32)"
        )
    return change


def _own(model: LanguageModel, candidate: Candidate) -> frozenset[str]:
    """The names of the candidate's own parameters."""
    module = model.model.get_submodule(candidate.name)
    return frozenset(f"{candidate.name}.{n}" for n, _ in module.named_parameters(recurse=False))


@contextmanager
def shifted(model: LanguageModel, change: Mapping[str, Tensor]) -> Iterator[None]:
    """A block in which these parameters have something added; then they have their bits back."""
    kept = {name: model.model.get_parameter(name).detach().clone() for name in change}
    try:
        with torch.no_grad():
            for name, difference in change.items():
                model.model.get_parameter(name).add_(difference)
        yield
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                model.model.get_parameter(name).copy_(values)
