"""Ways to find where a model keeps something: each turns a model and a forget set into sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unlearn.locate.trace import Trace
from unlearn.registry import DEFAULT_LOCATOR, locators
from unlearn.types import Sites, Tokens

if TYPE_CHECKING:
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel

__all__ = ["Located", "locate", "locate_and_trace"]


def locate(
    model: LanguageModel,
    forget_set: ForgetSet,
    *,
    method: str = DEFAULT_LOCATOR,
    tokens: Tokens | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Sites:
    """Where an update should act to forget ``forget_set``; ``model`` is untouched.

    ``tokens`` adds which tokens of each forget record count, whatever the method: ``subject`` in
    the prompt, the ``answer``, or of the answer the tokens of the ``fact``, which depend on who
    the subject is.

    >>> sites = locate(model, forget_set, settings={"top": "0.1"})           # doctest: +SKIP
    >>> control = locate(model, forget_set, method="random", settings={"top": "0.1"}, seed=1)
    ... # doctest: +SKIP

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: a setting is unknown or out of range, or does not fit the model.
        UnsupportedError: the method cannot work with this model or forget set.
    """
    return locate_and_trace(
        model,
        forget_set,
        method=method,
        tokens=tokens,
        settings=settings,
        seed=seed,
        progress=progress,
    ).sites


class Located(NamedTuple):
    """Sites, and what they rest on."""

    sites: Sites
    trace: Trace | None
    """Of the methods that trace; None of all others."""


def locate_and_trace(
    model: LanguageModel,
    forget_set: ForgetSet,
    *,
    method: str = "causal-trace",
    tokens: Tokens | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    journal: Path | None = None,
    also: Sequence[str] = (),
) -> Located:
    """``locate``, with the trace behind the sites.

    ``journal`` names a file that keeps what an interrupted trace has done; a later call with the
    same model, forget set, settings and seed goes on from there. It holds token ids. ``also`` are
    ids of records to trace whatever is drawn; neither sites nor averages change by them.
    """
    model.require_bare("locating")
    locator = locators.create(method, settings or {})
    if hasattr(locator, "trace"):
        asked: Mapping[str, Sequence[str]] = {"also": also} if also else {}
        trace = locator.trace(
            model, forget_set, seed=seed, progress=progress, journal=journal, **asked
        )
        sites = locator.sites(model, forget_set, trace)
    else:
        trace = None
        sites = locator.locate(model, forget_set, seed=seed, progress=progress)
    if tokens is not None:
        from unlearn.locate.token_sites import with_tokens

        sites = with_tokens(sites, model, forget_set, tokens, seed=seed, progress=progress)
    return Located(sites, trace)
