"""Strategies, locators and probes by name, built in or from other packages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar

from unlearn.errors import UnknownNameError


class Plugin(Protocol):
    """What every registered class says of itself."""

    name: str
    summary: str
    """One line for ``unlearn list``."""
    honours: frozenset[str]
    """Strategies: the parts of ``Sites`` they obey. Locators: the parts they fill. Probes: the
    access they need."""


P = TypeVar("P", bound=type[Any])


class Registry(Generic[P]):
    """Names to classes of one kind.

    The modules of ``package`` and the entry points of ``group`` are imported at the first look-up,
    so a plug-in is one file (or one entry point) with one line:

        @strategies.register("gradient-ascent")
        class GradientAscent: ...
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._classes: dict[str, P] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[P], P]:
        """A decorator that files the class under ``name`` and sets its ``name``."""

        def file(cls: P) -> P:
            if self._classes.setdefault(name, cls) is not cls:
                raise ValueError(f"the {self.kind} {name!r} is registered twice")
            cls.name = name
            return cls

        return file

    def get(self, name: str) -> P:
        """The class filed under ``name``.

        Raises:
            UnknownNameError: there is none; the message lists the names and the nearest one.
        """
        self._load()
        if name in self._classes:
            return self._classes[name]
        close = get_close_matches(name, self._classes, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        known = ", ".join(self.names())
        raise UnknownNameError(f"there is no {self.kind} {name!r}.{hint} Known: {known}")

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._classes)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for entry in entry_points(group=self.group):
            self.register(entry.name)(entry.load())


strategies: Registry[Any] = Registry("strategy", "unlearn.strategies", "unlearn.strategies")
locators: Registry[Any] = Registry("locator", "unlearn.locate", "unlearn.locators")
probes: Registry[Any] = Registry("probe", "unlearn.audit", "unlearn.probes")
