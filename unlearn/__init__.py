"""Make language models forget, and prove how far that went.

>>> import unlearn                                                       # doctest: +SKIP
>>> model = unlearn.load("lab:full")                                     # doctest: +SKIP
>>> forget_set = unlearn.ForgetSet.read("lab:one-person")                # doctest: +SKIP
>>> sites = unlearn.locate(model, forget_set)                            # doctest: +SKIP
>>> artifact = unlearn.forget(model, forget_set, sites=sites)            # doctest: +SKIP
>>> result = unlearn.audit(artifact.apply(model), forget_set, original=model,
...                        reference=unlearn.load("lab:reference"))      # doctest: +SKIP
>>> unlearn.report(result, "reports/one-person")                         # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.audit import audit
    from unlearn.errors import UnlearnError
    from unlearn.forget_set import ForgetSet
    from unlearn.locate import locate
    from unlearn.model.language_model import LanguageModel
    from unlearn.report import report
    from unlearn.strategies import forget
    from unlearn.types import AuditResult, Record, Sites, Verdict

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "AuditResult",
    "ForgetSet",
    "LanguageModel",
    "Record",
    "Sites",
    "UnlearnError",
    "Verdict",
    "__version__",
    "audit",
    "forget",
    "load",
    "locate",
    "report",
]

_HOMES = {
    "Artifact": "unlearn.artifact",
    "AuditResult": "unlearn.types",
    "ForgetSet": "unlearn.forget_set",
    "LanguageModel": "unlearn.model.language_model",
    "Record": "unlearn.types",
    "Sites": "unlearn.types",
    "UnlearnError": "unlearn.errors",
    "Verdict": "unlearn.types",
    "forget": "unlearn.strategies",
}
"""Where each name lives that is imported at its first use: torch takes seconds to import."""

_CALLABLE = ("audit", "locate", "report")
"""Packages whose main function has their own name, so that the package itself is called."""


def load(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> LanguageModel:
    """The model that a folder, a hub id (``id@revision``) or ``lab:NAME`` names.

    Raises:
        ModelError: there is none, or it is no causal language model with a fast tokenizer.
        UnsafeModelError: it needs pickle or its own code, and that was not allowed.
        ConfigError: an unknown device or dtype.
    """
    import unlearn.lab  # noqa: F401 - importing it makes lab: known
    from unlearn.model.language_model import LanguageModel

    return LanguageModel.load(
        source,
        revision=revision,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return import_module(f"unlearn.{name}")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'unlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallablePackage(ModuleType):
    """A package that is called like the function of its own name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        """The function, which ``inspect.signature`` and editors ask for."""
        return getattr(self, self.__name__.rpartition(".")[2])


class _Package(ModuleType):
    """This package, with sub-packages that can be called."""

    def __setattr__(self, name: str, value: object) -> None:
        # Importing a sub-package sets it as an attribute here, over any function of its name; so
        # unlearn.audit(...) would be an error or not depending on what was imported before.
        if name in _CALLABLE and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
