"""Ways to find where a model keeps something: each turns a model and a forget set into sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from unlearn.registry import locators
from unlearn.types import Sites

if TYPE_CHECKING:
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel

__all__ = ["locate"]


def locate(
    model: LanguageModel,
    forget_set: ForgetSet,
    *,
    method: str = "gradient-contrast",
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Sites:
    """Where an update should act to forget ``forget_set``; ``model`` is untouched.

    >>> sites = locate(model, forget_set, settings={"top": "0.1"})           # doctest: +SKIP
    >>> control = locate(model, forget_set, method="random", settings={"top": "0.1"}, seed=1)
    ... # doctest: +SKIP

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: a setting is unknown or out of range, or does not fit the model.
        UnsupportedError: the method cannot work with this model or forget set.
    """
    locator = locators.create(method, settings or {})
    sites: Sites = locator.locate(model, forget_set, seed=seed, progress=progress)
    return sites
