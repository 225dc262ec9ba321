"""One run of unlearning by training: copy, train, evaluate, stop, keep the best, round once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.adapter import Adapter
from unlearn.artifact import FullWeights
from unlearn.artifact_manifest import Provenance, SitesSummary
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.checkpoints import NOWHERE, Checkpoints, Phase
from unlearn.strategies.counterfactual import Guess, guesses
from unlearn.strategies.extraction import ExtractionRule
from unlearn.strategies.frozen_prefix import FrozenPrefix, lowest_trained
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.processes import require_one
from unlearn.strategies.sites import Scope, find_tokens, frozen
from unlearn.strategies.stopping import (
    Budget,
    Ceiling,
    Evaluation,
    Evaluator,
    StopRule,
    Target,
    find_targets,
)
from unlearn.strategies.strength import Change, Strength, Sweep, search, survey
from unlearn.strategies.trainee import Trainee, refuse_quantised, to_types_of, trainee
from unlearn.strategies.trainer import train
from unlearn.strategies.training import Objective, Pairs, Step, TrainingConfig
from unlearn.strategies.versions import versions
from unlearn.types import Sites

Progress = Callable[[str, float], None]


class Ingredients(NamedTuple):
    """What an objective may be made of."""

    original: LanguageModel
    """Frozen, as it was given."""
    work: LanguageModel
    """The float32 copy that will be trained; still equal to the original."""
    scope: Scope
    """What may change in it."""
    pairs: Pairs
    targets: tuple[Target, ...] | None
    """Per forget record; None where records stay in the loss whatever they look like."""
    guesses: tuple[Guess | None, ...]
    """Per forget record: what its answer gets for unseen names; None where that is unknown."""


class Outcome(NamedTuple):
    """What was unlearned, and how it came to be."""

    changed: LanguageModel | Adapter
    """The model after it, or the LoRA that turns the original into it."""
    steps: tuple[dict[str, Any], ...]
    stop_reason: str
    tokens: int
    seconds: float
    strength: float
    sweep: tuple[dict[str, Any], ...]

    def artifact(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        strategy: str,
        config: TrainingConfig,
        sites: Sites | None,
        seed: int,
    ) -> FullWeights | Adapter:
        """The artifact of the run, with all there is to say of it."""
        provenance = Provenance(
            strategy=strategy,
            settings=config.model_dump(mode="json"),
            seed=seed,
            sites=SitesSummary.of(sites),
            versions=versions(),
            steps=self.steps,
            stop_reason=self.stop_reason,
            strength=self.strength,
            sweep=self.sweep,
            tokens=self.tokens,
            seconds=self.seconds,
        )
        digest = forget_set.digest
        if isinstance(self.changed, Adapter):
            return self.changed.made_on(model, provenance, forget_set_digest=digest)
        return FullWeights.between(model, self.changed, provenance, forget_set_digest=digest)


def unlearn_by_training(
    model: LanguageModel,
    forget_set: ForgetSet,
    sites: Sites | None,
    config: TrainingConfig,
    make_objective: Callable[[Ingredients], Objective],
    *,
    reads_states: bool = False,
    seed: int,
    progress: Progress | None,
    checkpoints: Checkpoints = NOWHERE,
) -> Outcome:
    """``model`` trained until every forget record looks never trained on; itself it stays.

    The state returned is the best one evaluated, at the strength that ``config`` asks for. Memory:
    the copy in float32, or the LoRA alone; and of whatever may change the gradients, two moments of
    Adam and two snapshots. Blocks below the lowest one that trains are run once for each text,
    unless the objective ``reads_states`` inside the model. What lies in ``checkpoints`` of this run
    is gone on with.

    Raises:
        UnsupportedError: the sites are not trainable, a site took no part in training, or a retain
            term is asked for without a retain split.
        InputError: the token mask does not fit the records, or leaves one without a loss.
    """
    refuse_quantised(model)
    if config.retain == "constraint":
        require_one("retain=constraint, whose weight follows one loss after the other,")
    use_retain = _uses_retain(config, forget_set)
    forget = encode(model, forget_set.forget)
    counted = find_tokens(forget_set, forget, sites, config.loss_on)
    guessed = tuple(guesses(model, forget_set, config.guess_names, seed))
    found = find_targets(model, forget_set, config.agreement_quantile, config.min_holdout, guessed)
    retain = encode(model, forget_set.retain if use_retain else ())
    holds_near = config.near_per_forget and use_retain
    near = encode(model, near_statements(model, forget_set, seed) if holds_near else ())
    pairs = Pairs(forget, retain, config, seed, near, counted)
    evaluator = _evaluator(model, forget_set, found.records, config, seed)
    rule = _stop_rule(config, len(forget_set.forget), use_retain)
    with trainee(model, sites, config, seed) as made:
        work = made.work
        run = Run(work, made.scope, evaluator, rule, pairs, progress or _silent)
        with frozen(model.model), run.scope.applied(work.model):
            run.begin(found.origin)
            if not run.stop_reason:
                gate = found.records if config.stop == "match" else None
                given = Ingredients(made.original, work, run.scope, pairs, gate, guessed)
                phase = checkpoints.phase("training")
                _train(run, make_objective(given), reads_states, seed, phase)
            run.finish()
            sweep = run.strengthen(config.strength)
        adapter = made.adapter()
    changed = _hand_back(run, made, adapter, model)
    left = run.left_by_the_mask(n_masked=sum(only is not None for only in counted))
    reason = "; ".join(filter(None, (run.stop_reason, left, found.warning)))
    return Outcome(
        changed,
        tuple(run.log),
        reason,
        run.tokens,
        run.rule.seconds(),
        run.strength,
        () if sweep is None else sweep.log(),
    )


@dataclass
class Run:
    """Follows one training run step by step."""

    work: LanguageModel
    scope: Scope
    evaluator: Evaluator
    rule: StopRule
    pairs: Pairs
    progress: Progress
    log: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str = ""
    tokens: int = 0
    before: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    strength: float = 1.0

    def begin(self, targets: str) -> None:
        """Evaluate the original; ``stop_reason`` is set if nothing is left to forget."""
        self.kept = self.before = self.scope.snapshot()
        self.log.append({"step": 0, "targets": targets, **self._evaluate(0).summary()})

    def after_step(self, step: Step) -> bool:
        """Log the step, evaluate if it is time to, and say whether to stop."""
        self.tokens = step.tokens
        entry: dict[str, Any] = step._asdict()
        self.log.append(entry)
        budget = self.rule.budget
        spent = budget.spent(step.step, step.tokens, self.rule.seconds())
        if spent or step.step % self.pairs.config.evaluate_every == 0:
            entry.update(self._evaluate(step.step).summary())
        self.stop_reason = self.stop_reason or spent or ""
        self.progress("forget", step.step / budget.max_steps)
        return bool(self.stop_reason)

    def state(self) -> dict[str, Any]:
        """How far the run is, and its best state."""
        return {
            "log": json.dumps(self.log),
            "stop_reason": self.stop_reason,
            "tokens": self.tokens,
            "strikes": self.rule.strikes,
            "seconds": self.rule.seconds(),
            "best": 0 if self.rule.best is None else self.rule.best.step,
            "kept": self.kept,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave; the best state is evaluated again."""
        self.log, self.tokens = json.loads(state["log"]), state["tokens"]
        self.stop_reason, self.rule.strikes = state["stop_reason"], state["strikes"]
        self.rule.started -= state["seconds"]
        if not state["best"]:
            return
        now, self.kept = self.scope.snapshot(), state["kept"]
        self.scope.restore(self.kept)
        self.work.changed()
        self.rule.best = self.evaluator(self.work, state["best"])
        self.scope.restore(now)
        self.kept = {name: tensor.to(now[name].device) for name, tensor in self.kept.items()}

    def finish(self) -> None:
        """Go back to the best state."""
        self.scope.restore(self.kept)
        best = self.rule.best
        if best is not None and best.step != self.log[-1]["step"]:
            self.stop_reason += f"; went back to step {best.step}"
        self.progress("forget", 1.0)

    def strengthen(self, strength: Strength) -> Sweep | None:
        """Go to the strength that is asked for; None where nothing was trained."""
        if not self.tokens:
            return None
        names = self.scope.linear or tuple(self.scope.trainable)
        sides = (self.scope.trainable, self.before, self.kept)
        change = Change(*({name: side[name] for name in names} for side in sides))

        def evaluate(multiple: float) -> Evaluation:
            change.scale(multiple)
            self.work.changed()
            return self.evaluator(self.work, self.log[-1]["step"])

        limit = self.rule.limit
        found = (
            search(evaluate, limit) if strength == "search" else survey(evaluate, limit, strength)
        )
        change.scale(found.chosen)
        self.work.changed()
        self.strength, self.rule.best = found.chosen, found.evaluations[found.chosen]
        if found.chosen != 1:
            self.stop_reason += f"; {found}"
        return found

    def left_by_the_mask(self, n_masked: int) -> str:
        """How many records a run with a token mask left known; empty where it left none."""
        left = 0 if self.rule.best is None else int((~self.rule.best.matched).sum())
        if not n_masked or not left:
            return ""
        return (
            f"only tokens of the mask were pushed in {n_masked} records, and {left} records do not "
            "look never trained on"
        )

    def _evaluate(self, step: int) -> Evaluation:
        evaluation = self.evaluator(self.work, step)
        if self.rule.is_best(evaluation) and step:
            self.kept = self.scope.snapshot()
        self.stop_reason = self.rule.reason(evaluation) or ""
        leaves = self.pairs.config.stop == "match"
        wanted = ~evaluation.matched if leaves else np.ones_like(evaluation.matched)
        self.pairs.want(np.flatnonzero(wanted).tolist())
        return evaluation


def _train(run: Run, objective: Objective, reads_states: bool, seed: int, phase: Phase) -> None:
    with nullcontext() if reads_states else _prefix(run.work, run.scope, run.pairs):
        train(run.work, run.pairs, objective, run.after_step, seed, phase=phase, follower=run)
    run.scope.check_moved(run.before)


def _prefix(work: LanguageModel, scope: Scope, pairs: Pairs) -> AbstractContextManager[None]:
    layer = lowest_trained(work, scope.trainable)
    if not layer:
        return nullcontext()
    encodings = [*pairs.forget, *pairs.retain, *pairs.near]
    return FrozenPrefix(work, layer, encodings, pairs.config.cache_mib * 2**20).skipped()


def _uses_retain(config: TrainingConfig, forget_set: ForgetSet) -> bool:
    if config.retain != "none" and not forget_set.retain:
        raise UnsupportedError(
            f"retain={config.retain} needs a retain split, which forget set {forget_set.name!r} "
            "lacks; add retain.jsonl, or set retain=none"
        )
    return config.retain != "none"


def _evaluator(
    model: LanguageModel,
    forget_set: ForgetSet,
    targets: tuple[Target, ...],
    config: TrainingConfig,
    seed: int,
) -> Evaluator:
    extraction = None
    if config.stop == "extraction":
        extraction = ExtractionRule.of(model, forget_set, config.el_n)
    sample = forget_set.sample("retain", config.retain_sample, seed) if forget_set.retain else ()
    return Evaluator(forget_set.forget, sample, targets, extraction)


def _stop_rule(config: TrainingConfig, n_forget: int, use_retain: bool) -> StopRule:
    return StopRule(
        config.stop != "budget",
        Budget(config.steps(n_forget), config.max_tokens, config.max_seconds),
        Ceiling(config.retain_ceiling, config.retain_floor, config.ceiling_patience),
        use_retain,
    )


def _hand_back(
    run: Run, made: Trainee, adapter: Adapter | None, model: LanguageModel
) -> LanguageModel | Adapter:
    """What was trained, in the types of the original; looked at again where that rounds."""
    if adapter is None:
        if to_types_of(made):
            _look_again(run, made.work)
        return made.work
    if model.dtype.itemsize < torch.float32.itemsize:
        _look_again(run, adapter.merged(model))
    return adapter


def _look_again(run: Run, rounded: LanguageModel) -> None:
    """Evaluates what was rounded, and says where that brought something back."""
    if len(run.log) == 1:
        return
    evaluation = run.evaluator(rounded, run.log[-1]["step"])
    run.log.append({"step": evaluation.step, "rounded": True, **evaluation.summary()})
    if run.stop_reason.startswith(("matched", "extraction")) and not evaluation.forgotten:
        run.stop_reason += f"; after rounding to {rounded.dtype}, {evaluation.left}"


def _silent(what: str, fraction: float) -> None:
    """The progress of a caller who did not ask."""
