"""How much of the scored modules is chosen: a share of parameters, some modules, some layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.locate.sites import Candidate, n_parameters

UNITS = ("layers", "modules")


def _read_top(value: Any) -> float | str:
    """A share in 0..1, or ``layers:K`` or ``modules:K``, as it is kept in the settings."""
    unit, colon, count = str(value).partition(":")
    if colon:
        if unit not in UNITS or not count.isdecimal() or int(count) < 1:
            raise ValueError("it is a share such as 0.3, or layers:2, or modules:5")
        return f"{unit}:{int(count)}"
    try:
        share = float(value)
    except (TypeError, ValueError):
        raise ValueError("it is a share such as 0.3, or layers:2, or modules:5") from None
    if not 0 < share <= 1:
        raise ValueError("a share is greater than 0 and at most 1")
    return share


Top = Annotated[float | str, BeforeValidator(_read_top)]
"""A share of the blocks' parameters, ``0.3``; so many modules, ``modules:5``; or the modules that
have a score in so many layers, ``layers:2``."""


def choose(
    among: Sequence[Candidate], scores: Mapping[str, float], top: float | str
) -> tuple[Candidate, ...]:
    """The best candidates up to ``top``, in the model's order.

    Args:
        among: all candidates in the model's order; a share is one of their parameters.
        scores: of those that may be chosen, by name; higher is better. Ties go by model order.
        top: as ``Top``. A layer scores the mean over its scored modules, weighted by size.

    Raises:
        UnsupportedError: nothing has a score.
        ConfigError: more layers or modules than have a score.
    """
    able = [candidate for candidate in among if candidate.name in scores]
    if not able:
        raise UnsupportedError(
            "no module of the blocks stands out, so none can be chosen; use the locator 'all'"
        )
    ranked = sorted(able, key=lambda candidate: -scores[candidate.name])
    if isinstance(top, str):
        unit, _, count = top.partition(":")
        if unit == "modules":
            _check_count(unit, int(count), len(ranked))
            chosen = ranked[: int(count)]
        else:
            layers = _best_layers(able, scores, int(count))
            chosen = [candidate for candidate in able if candidate.layer in layers]
    else:
        chosen = list(take(ranked, top * n_parameters(among)))
    names = {candidate.name for candidate in chosen}
    return tuple(candidate for candidate in among if candidate.name in names)


def take(order: Sequence[Candidate], budget: float) -> tuple[Candidate, ...]:
    """Candidates in the given order until they have about ``budget`` parameters.

    One that would miss the budget by more than leaving it out is skipped, so that any order comes
    within half of the largest candidate. Where even the smallest is too large, the first of that
    size is taken.
    """
    taken: list[Candidate] = []
    size = 0
    for candidate in order:
        if abs(size + candidate.size - budget) < abs(size - budget):
            taken.append(candidate)
            size += candidate.size
    return tuple(taken or [min(order, key=lambda candidate: candidate.size)])


def _best_layers(
    able: Iterable[Candidate], scores: Mapping[str, float], count: int
) -> frozenset[int]:
    weighted: dict[int, float] = {}
    sizes: dict[int, int] = {}
    for candidate in able:
        layer, size = candidate.layer, candidate.size
        weighted[layer] = weighted.get(layer, 0.0) + size * scores[candidate.name]
        sizes[layer] = sizes.get(layer, 0) + size
    _check_count("layers", count, len(sizes))
    best = sorted(sizes, key=lambda layer: -weighted[layer] / sizes[layer])
    return frozenset(best[:count])


def _check_count(unit: str, count: int, have: int) -> None:
    if count > have:
        raise ConfigError(f"top={unit}:{count}, but only {have} {unit} have a score; ask for fewer")
