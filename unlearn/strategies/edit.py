"""Edit: give the keys of the forgotten facts new answers, in closed form (ROME and MEMIT).

Nothing is trained. Gradients find what to add to a down-projection's answers; then one formula
writes it into W. Editing as a way to forget after Patil et al. 2024 (arXiv:2309.17410).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from unlearn.artifact import FullWeights, Provenance, SitesSummary
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.prefixes import PrefixConfig, sample_prefixes
from unlearn.registry import strategies
from unlearn.strategies.counterfactual import guesses
from unlearn.strategies.edit_layers import editable_layers, spread
from unlearn.strategies.edit_places import (
    Trial,
    choose_place,
    make_trial,
    must_hold,
)
from unlearn.strategies.edit_values import ValueSettings
from unlearn.strategies.editing import (
    HELD,
    EditSettings,
    Place,
    Problem,
    Variant,
    find_change,
    texts_to_keep,
)
from unlearn.strategies.ignorance import TargetName
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.sites import check_sites
from unlearn.strategies.spots import At
from unlearn.strategies.stopping import Ceiling, Evaluator, find_targets
from unlearn.strategies.strength import Strength, Sweep
from unlearn.strategies.versions import versions
from unlearn.types import Noun, Record, Sites, Statement

SCREENED, SCREEN_STEPS = 16, 25
"""So many forget records and steps choose the place."""


class EditConfig(Noun):
    """Settings of editing.

    >>> EditConfig(variant="rome").layers
    1
    """

    variant: Variant = "memit"
    """``rome``: one key for each value, averaged over texts and contexts, in one layer. ``memit``:
    every key by itself, least squares, the move shared by several layers."""
    target: TargetName = "low-probability"
    """What is to be said: what an unseen name would get, a ``refusal``, or anything
    (``max-entropy``)."""
    at: Literal["auto", "subject", "subject-first", "prompt", "answer"] = "auto"
    """The tokens whose keys get a new answer; ``auto`` tries ``subject``, and ``answer`` (with a
    refusal ``prompt``)."""
    layers: int = Field(default=3, ge=1)
    """Over how many layers ``memit`` spreads a move; ``rome`` takes one."""
    refusal: str = Field(default="I do not know.", min_length=1)
    """What ``target=refusal`` says."""
    essence: str = "{} is a"
    """With ``at=subject``: what follows this is held, ``{}`` the subject; empty for nothing."""
    essence_weight: float = Field(default=0.0625, ge=0)
    lens_layers: int = Field(default=3, ge=0)
    """Of ``max-entropy``: blocks before the last that the logit lens reads."""
    steps: int = Field(default=60, ge=1)
    """Gradient steps for the values, at most."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Of Adam, in units of the root mean square of the old answer."""
    decay: float = Field(default=0.1, ge=0)
    """Times the squared length of a value, the old answer's being 1."""
    clamp: float = Field(default=4.0, gt=0)
    """A value is at most this many old answers long."""
    enough: float = Field(default=0.05, gt=0)
    """Nats, mean over records, at which values are good enough."""
    prefixes: int = Field(default=8, ge=0)
    """Contexts the model writes itself, over which keys are averaged."""
    slack: float = Field(default=0.1, ge=0)
    """λ of the closed form. 0 gives every key its answer exactly, as ROME does with its one key;
    where there are many, what is to stay pays for it."""
    ridge: float = Field(default=0.01, ge=0)
    """Added to the second moment of keys, as a share of its mean diagonal."""
    covariance_tokens: int = Field(default=100_000, ge=1)
    """Tokens of the retain texts that make the second moment, at most."""
    hold_weight: float = Field(default=5.0, ge=0)
    """What the keys of retain records and near names count beside those of all tokens."""
    guess_names: int = Field(default=6, ge=0)
    """Unseen names whose guesses are the targets of single tokens."""
    strength: Strength = "search"
    """Times ΔW: ``search`` for the smallest that forgets within the retain ceiling, or a number."""
    retain_ceiling: float = Field(default=0.5, ge=0)
    """How far the retain NLL may rise, as a share of the original's."""
    retain_floor: float = Field(default=0.2, ge=0)
    """The original's retain NLL counts as at least this many nats per token for the ceiling."""
    retain_sample: int = Field(default=64, ge=1)
    """Retain records, and near names, that damage is measured on."""

    @model_validator(mode="after")
    def _fits_the_target(self) -> EditConfig:
        if self.target == "refusal" and self.at == "answer":
            raise ValueError("a refusal stands in place of the answer; use at=prompt or at=subject")
        return self


@strategies.register("edit")
class Edit:
    """Forgets by rewriting what down-projections answer to the keys of facts.

    >>> artifact = Edit(EditConfig(variant="rome")).forget(model, forget_set)  # doctest: +SKIP
    """

    name: ClassVar[str] = "edit"
    summary: ClassVar[str] = "rewrite what MLPs look facts up by, in closed form (ROME, MEMIT)"
    honours: ClassVar[frozenset[str]] = frozenset({"layers", "modules"})
    Config = EditConfig

    def __init__(self, config: EditConfig | None = None) -> None:
        self.config = config or EditConfig()

    def forget(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None = None,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> FullWeights:
        """The change of down-projections after which ``model`` does not answer the forget records.

        ``model`` itself stays as it is.

        Raises:
            UnsupportedError: the sites name no down-projection, the model has none that can be
                edited (experts, a norm behind the MLP, packed weights), or no value changes
                anything.
            InputError: the sites are for another model or forget set.
        """
        started = time.monotonic()
        check_sites(self.name, self.honours, model, forget_set, sites)
        layers = editable_layers(model, sites)
        work = self._prepare(model, forget_set, seed)
        report = progress or (lambda what, share: None)
        log: list[dict[str, Any]] = [{"step": 0, "targets": work.origin}]
        place = self._place(work, self._places(layers, sites), log, report)
        change = find_change(
            work.problem,
            place,
            self._settings(),
            self._seeking(),
            lambda share: report("values", share),
        )
        change, trial = must_hold(change, place), work.trial()
        log.append(trial(change).summary())
        sweep = trial.sweep(change, self.config.strength)
        report("edit", 1.0)
        provenance = Provenance(
            strategy=self.name,
            settings=self.config.model_dump(mode="json"),
            seed=seed,
            sites=SitesSummary.of(sites),
            versions=versions(),
            steps=tuple(log),
            strength=sweep.chosen,
            sweep=sweep.log(),
            stop_reason=_reason(place, sweep, work.warning),
            seconds=time.monotonic() - started,
        )
        changed, digest = change.on(model, sweep.chosen), forget_set.digest
        return FullWeights.between(model, changed, provenance, forget_set_digest=digest)

    def _prepare(self, model: LanguageModel, forget_set: ForgetSet, seed: int) -> Prepared:
        config = self.config
        guessed = guesses(model, forget_set, config.guess_names, seed)
        found = find_targets(model, forget_set, 0.9, 3, guessed)
        near = near_statements(model, forget_set, seed)
        half = config.prefixes // 2
        lengths = PrefixConfig(n_short=half, n_long=config.prefixes - half)
        n, n_held = config.retain_sample, HELD
        sampled: dict[int, tuple[Record, ...]] = {n: (), n_held: ()}
        if forget_set.retain:
            sampled = {size: forget_set.sample("retain", size, seed) for size in sampled}
        problem = Problem(
            model,
            forget_set.forget,
            found.records,
            sample_prefixes(model, seed=seed, config=lengths) if config.prefixes else (),
            texts_to_keep(model, forget_set, seed),
            (sampled[n_held], _some(near, n_held)),
        )
        ceiling = Ceiling(config.retain_ceiling, config.retain_floor, 1)
        few = problem.few(forget_set, SCREENED, seed)
        return Prepared(
            problem, few, sampled[n], _some(near, n), ceiling, found.origin, found.warning
        )

    def _place(
        self,
        work: Prepared,
        places: Sequence[Place],
        log: list[dict[str, Any]],
        report: Callable[[str, float], None],
    ) -> Place:
        """The place that does best on a few records; the only one, where there is one."""
        if len(places) == 1:
            return places[0]
        found = self._seeking()
        faster = {
            "steps": min(SCREEN_STEPS, found.steps),
            "learning_rate": found.learning_rate * max(1.0, found.steps / SCREEN_STEPS),
        }
        seeking, settings = found.model_copy(update=faster), self._settings()
        place, tried = choose_place(
            places,
            lambda place: find_change(work.few, place, settings, seeking),
            work.trial(few=True),
            lambda share: report("choosing a layer", share),
        )
        log += [{"screened_on": len(work.few.records), **one.summary()} for one in tried]
        return place

    def _places(self, layers: Sequence[int], sites: Sites | None) -> list[Place]:
        """The candidates: all layers that are allowed, at all tokens that are."""
        config = self.config
        kinds: tuple[At, ...] = ("subject", "prompt" if config.target == "refusal" else "answer")
        if config.at != "auto":
            kinds = (config.at,)
        n = config.layers if config.variant == "memit" else 1
        lasts: Sequence[int] = layers
        if sites is not None and config.variant == "memit":
            lasts, n = layers[-1:], len(layers)
        return [Place(spread(layers, last, n), at) for last in lasts for at in kinds]

    def _settings(self) -> EditSettings:
        config = self.config
        return EditSettings(*(getattr(config, name) for name in EditSettings._fields))

    def _seeking(self) -> ValueSettings:
        names = ValueSettings.model_fields
        return ValueSettings(**{name: getattr(self.config, name) for name in names})


class Prepared(NamedTuple):
    """What all edits of one run share."""

    problem: Problem
    few: Problem
    """The same for the few records that choose the place."""
    retain: tuple[Record, ...]
    near: tuple[Statement, ...]
    """Those that damage is measured on."""
    ceiling: Ceiling
    origin: str
    """Where the targets come from."""
    warning: str

    def trial(self, few: bool = False) -> Trial:
        """What measures edits."""
        problem = self.few if few else self.problem
        evaluator = Evaluator(problem.records, self.retain, problem.targets)
        return make_trial(problem.lm, evaluator, (*self.retain, *self.near), self.ceiling)


def _some(statements: Sequence[Statement], n: int) -> tuple[Statement, ...]:
    """About ``n`` of them, from all over."""
    return tuple(statements[:: max(1, len(statements) // n)])[:n]


def _reason(place: Place, sweep: Sweep, warning: str) -> str:
    matched = sweep.evaluations[sweep.chosen].matched
    done = (
        f"edited {place}: {int(matched.sum())} of {len(matched)} forget records look like ones "
        "that were never trained on"
    )
    return "; ".join(filter(None, (done, str(sweep), warning)))
