"""Strategies, locators and probes by name, built in or from other packages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from unlearn.errors import ConfigError, UnknownNameError

DEFAULT_LOCATOR = "fact-lookup"
"""What finds sites where nothing else was asked for: it left least to be learned again on the lab,
see docs/locators.md."""

JOINT = "+"
"""Between the names of strategies that run one after the other."""

P = TypeVar("P", bound=type[Any])
ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Registry(Generic[P]):
    """Names to classes of one kind.

    The modules of ``package`` and the entry points of ``group`` are imported at the first look-up,
    so a plug-in is one file (or one entry point) with one line:

        @strategies.register("gradient-ascent")
        class GradientAscent: ...

    Every class has a ``summary``, one line for ``unlearn list``, and says what it ``honours``:
    a strategy the parts of ``Sites`` it obeys, a locator those it fills, a probe the access it
    needs. Strategies and locators have a ``Config`` too. A strategy whose result is not the same
    model with other weights says ``in_place = False``; one that can be gone on with after it was
    cut off says ``resumes = True``, and its ``forget`` takes ``checkpoints``.
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
        raise UnknownNameError(f"there is no {self.kind} {name!r}.{_known(name, self.names())}")

    def create(self, name: str, settings: Mapping[str, str]) -> Any:
        """An instance of the class filed under ``name``, its ``Config`` made of the settings.

        Raises:
            UnknownNameError: there is no such class.
            ConfigError: a setting is unknown or out of range.
        """
        cls = self.get(name)
        return cls(_configure(cls.Config, settings, f"{self.kind} {name!r}"))

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


def parts_of(strategy: str) -> list[str]:
    """The strategies that a name stands for, in order: ``a+b`` for both."""
    return [part.strip() for part in strategy.split(JOINT)]


def _configure(config: type[ConfigT], settings: Mapping[str, str], owner: str) -> ConfigT:
    """The config that settings given as text describe."""
    for key in settings:
        if key not in config.model_fields:
            raise ConfigError(f"{owner} has no setting {key!r}.{_known(key, config.model_fields)}")
    try:
        return config.model_validate(dict(settings))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
    field = ".".join(map(str, detail["loc"]))
    given = f"={settings[field]!r}" if field in settings else ""
    where = f"{owner}, setting {field}{given}" if field else owner
    raise ConfigError(f"{where}: {detail['msg'].removeprefix('Value error, ')}")


def _known(name: str, names: Iterable[str]) -> str:
    """What there is in place of ``name``, the nearest first."""
    known = sorted(names)
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}"


strategies: Registry[Any] = Registry("strategy", "unlearn.strategies", "unlearn.strategies")
locators: Registry[Any] = Registry("locator", "unlearn.locate", "unlearn.locators")
probes: Registry[Any] = Registry("probe", "unlearn.probes", "unlearn.probes")
