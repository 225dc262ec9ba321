"""One subtraction: train the module, check that it leads anywhere, search how often to take it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import collate, encode
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.strategies import adapter_arithmetic as arithmetic
from unlearn.strategies import orthogonal, peft_modules
from unlearn.strategies.ascent_objective import counted
from unlearn.strategies.checkpoints import NOWHERE, Checkpoints
from unlearn.strategies.counterfactual import guesses
from unlearn.strategies.predictions import run
from unlearn.strategies.sites import find_tokens
from unlearn.strategies.stopping import Ceiling, Evaluation, Evaluator, find_targets
from unlearn.strategies.strength import Change, Sweep, search
from unlearn.strategies.trainee import refuse_quantised, to_masters
from unlearn.strategies.trainer import train
from unlearn.strategies.training import Losses, MicroBatch, Pairs, Step
from unlearn.strategies.unshared import factored, unshared
from unlearn.types import Sites

if TYPE_CHECKING:
    from unlearn.strategies.subtraction import SubtractionConfig

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
"""Of a module that changed little, more than its double may be needed."""

PROBE = 0.05
"""The strengths, to both sides of 0, between which the slope is measured."""

FLAT = 0.1
"""A relative slope below which the NLL would not double before strength 7."""

REFERENCE_BATCH = 64


class Outcome(NamedTuple):
    """The negated adapter and how it came to be."""

    network: Any
    name: str
    steps: tuple[dict[str, Any], ...]
    stop_reason: str
    tokens: int
    seconds: float
    strength: float
    sweep: tuple[dict[str, Any], ...]

    def saved(self) -> AbstractContextManager[Path]:
        """A folder with the adapter in peft's format."""
        return peft_modules.saved(self.network, self.name)


def subtract(
    model: LanguageModel,
    forget_set: ForgetSet,
    sites: Sites | None,
    config: SubtractionConfig,
    seed: int,
    progress: Callable[[str, float], None] | None,
    checkpoints: Checkpoints = NOWHERE,
) -> Outcome:
    """The module that knows the forget records better, negated; see ``Subtraction.forget``."""
    started = time.monotonic()
    refuse_quantised(model)
    for folder in (*config.orthogonal_to, *config.merge_with):
        peft_modules.read_earlier(folder, model)
    encodings = encode(model, forget_set.forget)
    tokens = find_tokens(forget_set, encodings, sites, config.loss_on)
    guessed = guesses(model, forget_set, config.guess_names, seed)
    found = find_targets(
        model, forget_set, config.agreement_quantile, config.min_holdout, tuple(guessed)
    )
    sample = forget_set.sample("retain", config.retain_sample, seed) if forget_set.retain else ()
    work = model.copy()
    to_masters(work)
    lesson = Lesson(work, encodings, tokens, config, seed, progress or _silent, checkpoints)
    name = lesson.learn(model, sites, encode(model, forget_set.retain))
    evaluator = Evaluator(forget_set.forget, sample, found.records)
    lesson.log.insert(0, {"step": 0, "targets": found.origin})
    subtracted = Subtracted(lesson, evaluator, name, model.dtype)
    subtracted.refuse_flat()
    reasons = [lesson.ended, subtracted.strengthen(), *subtracted.merge(model)]
    subtracted.log_result()
    (progress or _silent)("forget", 1.0)
    return Outcome(
        lesson.network,
        subtracted.result,
        tuple(lesson.log),
        "; ".join(filter(None, [*reasons, found.warning])),
        lesson.tokens,
        time.monotonic() - started,
        subtracted.strength,
        () if subtracted.sweep is None else subtracted.sweep.log(),
    )


@dataclass
class Lesson:
    """The training of the module, on a float32 copy whose own weights stay."""

    work: LanguageModel
    forget: list[Encoding]
    counted: tuple[tuple[int, ...] | None, ...]
    config: SubtractionConfig
    seed: int
    progress: Callable[[str, float], None]
    checkpoints: Checkpoints = NOWHERE
    network: Any = None
    tokens: int = 0
    ended: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)

    def learn(self, model: LanguageModel, sites: Sites | None, retain: list[Encoding]) -> str:
        """Train what the variant asks for; the name of the adapter that is to be negated."""
        config = self.config
        if config.adapter is not None:
            given = peft_modules.read_lora(config.adapter)
            self.network = peft_modules.attach(
                self.work, peft_modules.config_of(given), "module", self.seed
            )
            peft_modules.load(self.network, given, "module")
            self.ended = "the module was given, not trained"
            return "module"
        modules = peft_modules.linear_modules(model, sites)
        if config.variant == "ia3":
            scales = peft_modules.scales_config(model, modules)
            self.network = peft_modules.attach(self.work, scales, "module", self.seed)
            self._train("module", self.forget, self.counted)
            peft_modules.begin(self.network, scales, "ones", self.seed)
            return "module"
        lora = peft_modules.lora_config(model, modules, config.rank, config.alpha)
        self.network = peft_modules.attach(self.work, lora, "module", self.seed)
        taken = self._taken(model)
        self._train("module", self.forget, self.counted, taken)
        if config.variant == "lora":
            return "module"
        peft_modules.begin(self.network, lora, "expert", self.seed)
        self._train("expert", retain, (), taken)
        return self._unshared(model, modules)

    def state(self) -> dict[str, Any]:
        """The steps so far."""
        return {"log": json.dumps(self.log)}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.log = json.loads(state["log"])

    def _unshared(self, model: LanguageModel, modules: tuple[str, ...]) -> str:
        """The module without what the expert does too, as an adapter of its own."""
        expert, anti = (arithmetic.deltas(self.network, name) for name in ("expert", "module"))
        rank = 2 * self.config.rank
        wanted = {module: unshared(expert[module], anti[module]) for module in anti}
        found = factored(wanted, rank)
        again = peft_modules.lora_config(model, modules, rank, rank)
        peft_modules.put(self.network, again, "unshared", found.factors)
        left = sum(float(d.square().sum()) for d in wanted.values()) ** 0.5
        whole = sum(float(d.square().sum()) for d in anti.values()) ** 0.5
        self.log.append({"unshared": left / max(whole, 1e-12), "cut_off": found.error})
        return "unshared"

    def _taken(self, model: LanguageModel) -> Mapping[str, Tensor]:
        """What the adapters of earlier requests read, for each module."""
        names = []
        for index, folder in enumerate(self.config.orthogonal_to):
            names.append(f"before{index}")
            peft_modules.load(self.network, peft_modules.read_earlier(folder, model), names[-1])
        return orthogonal.occupied(self.network, names, self.config.rank)

    def _train(
        self,
        name: str,
        encodings: list[Encoding],
        tokens: tuple[tuple[int, ...] | None, ...],
        taken: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Lower the NLL of these texts by this adapter alone."""
        self.network.set_adapter(name)
        orthogonal.project(self.network, name, taken or {})
        training = self.config.training(len(self.forget))
        pairs = Pairs(encodings, (), training, self.seed, (), tokens)
        weights = torch.ones(len(encodings), device=self.work.device)
        if self.config.weighting == "record":
            weights = 1 / nll_by_record(self.work, pairs).clamp(min=1e-6)

        n_before = sum("forget_loss" in entry for entry in self.log)

        def after(step: Step) -> bool:
            orthogonal.project(self.network, name, taken or {})
            self.log.append({"adapter": name, **step._asdict()})
            steps = self.config.max_steps * (2 if self.config.variant == "ext-sub" else 1)
            self.progress("forget", 0.9 * (n_before + step.step) / steps)
            return False

        before = self.tokens
        phase = self.checkpoints.phase(name)
        train(self.work, pairs, Learning(weights), after, self.seed, phase=phase, follower=self)
        self.tokens = before + int(self.log[-1]["tokens"])
        self.ended = f"trained for {self.log[-1]['step']} steps"


class Learning(NamedTuple):
    """The NLL of the records, each times its weight; lower = better known."""

    weights: Tensor
    """(R,)"""

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The loss of one micro-batch."""
        _, predictions = counted(batch.forget, run(model, batch.forget))
        nll = -predictions.sum_by_row(predictions.label_logprobs)
        loss = (self.weights[batch.forget.records] * nll).sum() / batch.n_forget
        return Losses(loss, loss.detach(), torch.zeros_like(loss))


@torch.no_grad()
def nll_by_record(model: LanguageModel, pairs: Pairs) -> Tensor:
    """(R,) the NLL of the tokens that count, summed over each record."""
    found = []
    for at in range(0, len(pairs.forget), REFERENCE_BATCH):
        chosen = range(at, min(at + REFERENCE_BATCH, len(pairs.forget)))
        rows = collate(pairs.forget, chosen, pairs.config.loss_on, pairs.counted)
        rows = rows.to(model.device)
        _, predictions = counted(rows, run(model.model, rows))
        found.append(-predictions.sum_by_row(predictions.label_logprobs))
    return torch.cat(found)


class Subtracted:
    """The base with multiples of the module taken away, and the adapter that does the same."""

    def __init__(self, lesson: Lesson, evaluator: Evaluator, name: str, dtype: torch.dtype) -> None:
        self.lesson, self.evaluator, self.name, self.dtype = lesson, evaluator, name, dtype
        self.network = lesson.network
        self.change = self._change(arithmetic.change_of(self.network, name), -1.0)
        self.result = "negated"
        self.strength = 0.0
        self.sweep: Sweep | None = None

    def evaluate(self, strength: float) -> Evaluation:
        """The records at ``theta - strength * delta``, merged, the adapters switched off."""
        self.change.scale(strength)
        return self._evaluation()

    def refuse_flat(self) -> None:
        """Nothing, if taking the module away makes the forget records less likely from the start.

        Raises:
            UnsupportedError: it does not; says what was measured.
        """
        below, at, above = (
            float(self.evaluate(s).nll_per_token.mean()) for s in (-PROBE, 0.0, PROBE)
        )
        slope = (above - below) / (2 * PROBE)
        relative = slope / at if at > 0 else 0.0
        self.lesson.log.append({"nll_at_0": at, "slope_at_0": slope, "relative_slope": relative})
        if relative < FLAT:
            raise UnsupportedError(
                f"subtracting the module does not lead away from the forget records: their NLL of "
                f"{at:.2g} nats per token changes by {slope:.2g} per unit of strength "
                f"({relative:.2g} of it, and {FLAT} is the least). A model that fits them so well "
                "leaves training no slope; train longer (max_steps, learning_rate), or use another "
                "strategy, such as gradient-ascent"
            )

    def strengthen(self) -> str:
        """Find the strength that is asked for, and negate the adapter by it; a clause on it."""
        wanted, clause = self.lesson.config.strength, ""
        if wanted == "search":
            retain_nll = self.evaluate(0.0).retain_nll
            ceiling = Ceiling(self.lesson.config.retain_ceiling, self.lesson.config.retain_floor, 1)
            self.sweep = search(self.evaluate, ceiling.limit(retain_nll), GRID)
            wanted, clause = self.sweep.chosen, str(self.sweep)
        self.strength = wanted
        if self.lesson.config.variant == "ia3":
            arithmetic.negate_scales(self.network, self.name, "ones", wanted, self.result)
        else:
            arithmetic.negate(self.network, self.name, wanted, self.result)
        return clause

    def merge(self, model: LanguageModel) -> Iterator[str]:
        """Merge the negated adapter with those of earlier requests; a clause on it, if any."""
        config = self.lesson.config
        if not config.merge_with:
            return
        names = [self.result]
        for index, folder in enumerate(config.merge_with):
            names.append(f"merged{index}")
            earlier = peft_modules.read_earlier(folder, model)
            peft_modules.load(self.network, earlier, names[-1])
        weights = dict.fromkeys(names, 1.0)
        density = None if config.merge == "cat" else config.density
        arithmetic.combine(self.network, weights, "merged", config.merge, density=density)
        self.result = "merged"
        yield f"merged with {len(config.merge_with)} earlier artifacts ({config.merge})"

    def log_result(self) -> None:
        """Evaluate what the adapter gives once merged and rounded to the type of the base."""
        self.change.scale(0.0)
        change = self._change(arithmetic.change_of(self.network, self.result), 1.0)
        with torch.no_grad():
            for name, parameter in change.parameters.items():
                parameter.copy_(change.after[name].to(self.dtype))
        entry = self._evaluation().summary()
        self.lesson.log.append({"applied": True, **entry})

    def _change(self, delta: Mapping[str, Tensor], sign: float) -> Change:
        live = arithmetic.parameters_of(self.network, delta)
        before = {name: parameter.detach().clone() for name, parameter in live.items()}
        return Change(live, before, {n: before[n] + sign * delta[n].to(before[n]) for n in live})

    def _evaluation(self) -> Evaluation:
        self.lesson.work.changed()
        with self.network.disable_adapter():
            return self.evaluator(self.lesson.work, self.lesson.log[-1].get("step", 0))


def _silent(what: str, fraction: float) -> None:
    """The progress of a caller who did not ask."""
