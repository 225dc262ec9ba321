"""What an interrupted audit had measured: figures and ids, never a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from unlearn.probes.probe import Curve, Measurement
from unlearn.types import Role

Known = dict[str, list[Measurement]]


class Store(Protocol):
    """Where finished pieces go: a journal on disk, or nowhere."""

    def get(self, key: str) -> Any:
        """The value kept under the key; None where there is none."""

    def add(self, key: str, value: Any) -> None:
        """Keeps a value."""


class Kept:
    """Finished measurements by model, precision and probe.

    The store belongs to one forget set, seed and version of the code; a model is part of the key
    by its digest, so a changed model never gets old figures.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store
        self._tokens: dict[str, str] = {}

    def get(self, label: str, names: Iterable[str]) -> Known | None:
        """All of the named probes' figures, or None where one is lacking."""
        found = {name: self._find(f"{label} {name}") for name in names}
        tokens = None if self.store is None else self.store.get(f"{label} tokens")
        if tokens is None or any(value is None for value in found.values()):
            return None
        self._tokens[label] = tokens
        return {name: _read(value) for name, value in found.items()}

    def add(self, label: str, known: Known, tokens: str) -> None:
        """Keeps the figures of one pass."""
        self._tokens[label] = tokens
        if self.store is None or not _finite(known.values()):
            return
        for name, measurements in known.items():
            self.store.add(f"{label} {name}", [_written(m) for m in measurements])
        self.store.add(f"{label} tokens", tokens)

    def tokens(self, label: str) -> str:
        """The digest of the tokens that were scored."""
        return self._tokens[label]

    def get_roles(self, label: str, name: str) -> dict[Role, list[Measurement]] | None:
        """A model probe's figures by role, or None."""
        value = self._find(f"{label} {name}")
        return None if value is None else {role: _read(list_) for role, list_ in value.items()}

    def add_roles(self, label: str, name: str, known: Mapping[Role, list[Measurement]]) -> None:
        """Keeps a model probe's figures."""
        if self.store is not None and _finite(known.values()):
            value = {role: [_written(m) for m in list_] for role, list_ in known.items()}
            self.store.add(f"{label} {name}", value)

    def _find(self, key: str) -> Any:
        return None if self.store is None else self.store.get(key)


def _finite(known: Iterable[list[Measurement]]) -> bool:
    """Whether all is well with the figures; those that are not end the audit and are not kept."""
    return all(
        math.isfinite(value)
        for measurements in known
        for one in measurements
        for value in (*one.values.values(), *(one.contrast or {}).values())
    )


def _written(measurement: Measurement) -> dict[str, Any]:
    fields = measurement._asdict()
    if measurement.curve is not None:
        fields["curve"] = measurement.curve._asdict()
    # JSON has no infinity.
    fields["bounds"] = [None if abs(b) == float("inf") else b for b in measurement.bounds]
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in fields.items()}


def _read(values: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    found = []
    for value in values:
        low, high = value["bounds"]
        curve = value["curve"]
        if curve is not None:
            curve = Curve(curve["axis"], tuple((x, y) for x, y in curve["points"]))
        bounds = (-float("inf") if low is None else low, float("inf") if high is None else high)
        found.append(Measurement(**{**value, "bounds": bounds, "curve": curve}))
    return found
