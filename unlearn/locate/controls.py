"""Sites that no measurement chose: what a localised result has to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
from pydantic import field_validator, model_validator

from unlearn.errors import ConfigError
from unlearn.forget_set import ForgetSet
from unlearn.locate.selection import Top, choose
from unlearn.locate.sites import build_sites, candidates
from unlearn.model.language_model import LanguageModel
from unlearn.registry import locators
from unlearn.types import Noun, Sites

Progress = Callable[[str, float], None] | None


class RandomConfig(Noun):
    """Settings of the random control."""

    top: Top = 0.5
    """How much to choose; take ``share_of_parameters`` of the sites to compare with."""


@locators.register("random")
class RandomSites:
    """Modules drawn at random, of the same size as a localised choice.

    >>> control = RandomSites(RandomConfig(top=0.1)).locate(model, forget_set, seed=1)
    ... # doctest: +SKIP
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "modules at random, of the same size: the control for any locator"
    honours: ClassVar[frozenset[str]] = frozenset({"modules"})
    Config = RandomConfig

    def __init__(self, config: RandomConfig | None = None) -> None:
        self.config = config or RandomConfig()

    def locate(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        *,
        seed: int = 0,
        progress: Progress = None,
    ) -> Sites:
        """Modules that the seed alone chose."""
        among = candidates(model)
        drawn = np.random.default_rng(seed).random(len(among))
        scores = {c.name: float(score) for c, score in zip(among, drawn, strict=True)}
        chosen = choose(among, scores, self.config.top)
        return build_sites(self.name, model, forget_set, self.config, seed, chosen=chosen)


class FixedConfig(Noun):
    """Settings of fixed sites; with both, only what lies in both may change.

    >>> FixedConfig.model_validate({"layers": "0,2-4"}).layers
    (0, 2, 3, 4)
    """

    layers: tuple[int, ...] | None = None
    """Blocks, from 0: ``3``, ``0,4`` or ``2-5``."""
    modules: tuple[str, ...] | None = None
    """Module names, separated by commas; ``*`` stands for anything: ``*.mlp.down_proj``."""

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        layers: set[int] = set()
        for part in value.split(","):
            first, _, last = part.strip().partition("-")
            if not first.isdecimal() or not (last or first).isdecimal():
                raise ValueError("layers are numbers and ranges, for example 0,2-5")
            layers.update(range(int(first), int(last or first) + 1))
        return tuple(sorted(layers))

    @field_validator("modules", mode="before")
    @classmethod
    def _modules_from_text(cls, value: Any) -> Any:
        return tuple(map(str.strip, value.split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_is_fixed(self) -> FixedConfig:
        if not self.layers and not self.modules:
            raise ValueError("give layers, modules or both; for every layer there is 'all'")
        return self


@locators.register("fixed")
class FixedSites:
    """Layers and modules that the user named, checked against the model.

    >>> FixedSites(FixedConfig(layers=(2, 3))).locate(model, forget_set)   # doctest: +SKIP
    """

    name: ClassVar[str] = "fixed"
    summary: ClassVar[str] = "the layers and modules you name"
    honours: ClassVar[frozenset[str]] = frozenset({"layers", "modules"})
    Config = FixedConfig

    def __init__(self, config: FixedConfig) -> None:
        self.config = config

    def locate(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        *,
        seed: int = 0,
        progress: Progress = None,
    ) -> Sites:
        """What was named.

        Raises:
            ConfigError: the model has no such layer or module.
        """
        layers, modules = self.config.layers, self.config.modules
        if layers is not None:
            layers = _known_layers(model, layers)
        if modules is not None:
            modules = _known_modules(model, modules)
        return build_sites(
            self.name, model, forget_set, self.config, seed, layers=layers, modules=modules
        )


class AllConfig(Noun):
    """The locator ``all`` has no settings."""


@locators.register("all")
class AllSites:
    """Every decoder block: the control without localisation. Embeddings stay out."""

    name: ClassVar[str] = "all"
    summary: ClassVar[str] = "every decoder block: the control without localisation"
    honours: ClassVar[frozenset[str]] = frozenset({"layers"})
    Config = AllConfig

    def __init__(self, config: AllConfig | None = None) -> None:
        self.config = config or AllConfig()

    def locate(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        *,
        seed: int = 0,
        progress: Progress = None,
    ) -> Sites:
        """All layers of the model."""
        layers = tuple(range(model.anatomy.n_layers))
        return build_sites(self.name, model, forget_set, self.config, seed, layers=layers)


def _known_layers(model: LanguageModel, layers: tuple[int, ...]) -> tuple[int, ...]:
    n_layers = model.anatomy.n_layers
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise ConfigError(
                f"there is no layer {layer}: {model.source} has layers 0 to {n_layers - 1}"
            )
    return tuple(sorted(set(layers)))


def _known_modules(model: LanguageModel, patterns: tuple[str, ...]) -> tuple[str, ...]:
    names = [
        name
        for name, module in model.model.named_modules()
        if name and next(module.parameters(), None) is not None
    ]
    chosen: set[str] = set()
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            shown = ", ".join(_similar(pattern, names))
            raise ConfigError(
                f"no module of {model.source} with parameters is called {pattern!r}; "
                f"similar: {shown}"
            )
        chosen.update(matching)
    return tuple(name for name in names if name in chosen)


def _similar(pattern: str, names: list[str]) -> list[str]:
    return get_close_matches(pattern, names, n=3, cutoff=0.0)
