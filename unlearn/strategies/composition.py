"""Several strategies one after the other: each forgets on the model that the one before it left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from unlearn.artifact import Artifact, FullWeights
from unlearn.artifact_manifest import Provenance, SitesSummary
from unlearn.errors import ConfigError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.registry import parts_of, strategies
from unlearn.strategies.checkpoints import NOWHERE, Checkpoints
from unlearn.strategies.versions import versions
from unlearn.types import Sites


def run_part(
    strategy: Any,
    model: LanguageModel,
    forget_set: ForgetSet,
    sites: Sites | None,
    seed: int,
    progress: Callable[[str, float], None] | None,
    checkpoints: Checkpoints,
) -> Artifact:
    """What one strategy makes of a model, from where it was cut off if it can go on from there."""
    own: dict[str, Any] = {}
    if getattr(strategy, "resumes", False):
        own["checkpoints"] = checkpoints
    else:
        checkpoints.nothing_to_resume(strategy.name)
    made: Artifact = strategy.forget(model, forget_set, sites, seed=seed, progress=progress, **own)
    return made


class Composition:
    """What ``a+b`` names: strategy ``a``, then ``b`` on its result, as one change of weights.

    A setting belongs to the part before its dot: ``gradient-ascent.max_steps``.

    >>> both = Composition("subtraction+distillation", {"distillation.max_steps": "100"})
    >>> both.name, both.parts[1].config.max_steps
    ('subtraction+distillation', 100)
    """

    resumes: ClassVar[bool] = True

    def __init__(self, name: str, settings: Mapping[str, str]) -> None:
        """Makes the parts.

        Raises:
            UnknownNameError: a part is not a strategy.
            ConfigError: a setting belongs to no part, is unknown to it, or is out of range.
            UnsupportedError: a part does more or less than change weights.
        """
        self.name = name
        names = parts_of(name)
        own: dict[str, dict[str, str]] = {part: {} for part in names}
        for key, value in settings.items():
            part, _, setting = key.partition(".")
            if part not in own or not setting:
                raise ConfigError(
                    f"setting {key!r} belongs to no part of {name!r}; a setting of "
                    f"{names[0]} is named {names[0]}.SETTING"
                )
            own[part][setting] = value
        for part in names:
            if not getattr(strategies.get(part), "in_place", True):
                raise UnsupportedError(
                    f"{part} does not give the same model with other weights, so {name} cannot be "
                    "one artifact; run the parts one by one, with `unlearn apply` between them"
                )
        self.parts = [strategies.create(part, own[part]) for part in names]

    @property
    def honours(self) -> frozenset[str]:
        """The parts of sites that every strategy in it obeys."""
        return frozenset.intersection(*(part.honours for part in self.parts))

    def forget(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None = None,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
        checkpoints: Checkpoints = NOWHERE,
    ) -> FullWeights:
        """The change of weights after which all parts have run; ``model`` stays as it is.

        Memory: of the models in between, one beside what the part at work needs. A part that is
        done is not run again where ``checkpoints`` are gone on from.

        Raises:
            Whatever a part raises.
        """
        current, done = model, []
        for number, part in enumerate(self.parts, 1):
            own = checkpoints.part(f"{number}-{part.name}")
            run = partial(run_part, part, current, forget_set, sites, seed, progress, own)
            artifact = own.artifact(run)
            current = artifact.apply(current)
            # A part from elsewhere may not say that it only wraps a model.
            current.require_bare("composition")
            done.append(artifact.provenance)
            # Found for the model as it came; that was checked, and the shapes are still the same.
            sites = sites and sites.model_copy(update={"model_digest": ""})
        provenance = self._provenance(done, SitesSummary.of(sites), seed)
        digest = forget_set.digest
        return FullWeights.between(model, current, provenance, forget_set_digest=digest)

    def _provenance(
        self, done: list[Provenance], sites: SitesSummary | None, seed: int
    ) -> Provenance:
        """All parts in one log; each step says whose it is."""
        settings: dict[str, Any] = {}
        for one in done:
            settings |= {f"{one.strategy}.{key}": value for key, value in one.settings.items()}
        return Provenance(
            strategy=self.name,
            settings=settings,
            seed=seed,
            sites=sites,
            versions=versions(),
            steps=tuple({"part": one.strategy, **step} for one in done for step in one.steps),
            stop_reason="; then ".join(f"{one.strategy}: {one.stop_reason}" for one in done),
            tokens=sum(one.tokens for one in done),
            seconds=sum(one.seconds for one in done),
        )
