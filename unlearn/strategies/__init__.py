"""Ways to forget: each turns a model and a forget set into an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from unlearn.errors import ConfigError
from unlearn.registry import strategies
from unlearn.types import Sites

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel

__all__ = ["forget"]

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def forget(
    model: LanguageModel,
    forget_set: ForgetSet,
    *,
    strategy: str = "gradient-ascent",
    sites: Sites | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Artifact:
    """The artifact that makes ``model`` forget; ``model`` itself stays as it is.

    >>> artifact = forget(model, forget_set, settings={"max_steps": "60"})  # doctest: +SKIP
    >>> unlearned = artifact.apply(model)                                   # doctest: +SKIP

    Raises:
        UnknownNameError: there is no such strategy.
        ConfigError: a setting is unknown or out of range.
        UnsupportedError: the strategy does not honour a part of the sites.
        InputError: the sites were found for another model or forget set.
    """
    from unlearn.strategies.sites import check_sites

    chosen = strategies.get(strategy)
    config = build_config(chosen.Config, settings or {}, f"strategy {strategy!r}")
    check_sites(strategy, chosen.honours, model, forget_set, sites)
    artifact: Artifact = chosen(config).forget(
        model, forget_set, sites, seed=seed, progress=progress
    )
    return artifact


def build_config(config: type[ConfigT], settings: Mapping[str, str], owner: str) -> ConfigT:
    """The config that settings given as text describe.

    Raises:
        ConfigError: a setting is unknown (the message names the nearest) or out of range.
    """
    for key in settings:
        if key not in config.model_fields:
            close = get_close_matches(key, config.model_fields, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            known = ", ".join(sorted(config.model_fields))
            raise ConfigError(f"{owner} has no setting {key!r}.{hint} Known: {known}")
    try:
        return config.model_validate(dict(settings))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(map(str, detail["loc"]))
        given = f"={settings[field]!r}" if field in settings else ""
        where = f"{owner}, setting {field}{given}" if field else owner
        raise ConfigError(f"{where}: {detail['msg']}") from None
