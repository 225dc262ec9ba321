"""The models and forget sets that come with the package."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from unlearn.errors import InputError
from unlearn.lab.facts import FORGET_SETS
from unlearn.types import Calibration

MODELS = ("full", "reference", "reference-2")
"""Trained on everything; on everything but the forget groups, from two seeds."""

TRAINABLE = (*MODELS, "reference-3", "reference-4")
"""Those, and two more references that margins are calibrated with; too large to ship them all."""

_DATA = Path(str(files("unlearn.lab"))) / "data"
_CHECKOUT = Path(__file__).parents[2] / "forget_sets"


def model_path(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        InputError: there is no such model.
    """
    if name not in MODELS:
        raise InputError(f"there is no bundled model 'lab:{name}'. Known: {_known('lab:', MODELS)}")
    return _DATA / name


def forget_set_path(name: str) -> Path:
    """The folder of a bundled forget set.

    A wheel holds the sets beside the models, a checkout in its top-level ``forget_sets/``.

    Raises:
        InputError: there is no such forget set.
    """
    if name not in FORGET_SETS:
        known = _known("lab:", FORGET_SETS)
        raise InputError(f"there is no bundled forget set 'lab:{name}'. Known: {known}")
    packaged = _DATA / "forget_sets" / name
    return packaged if packaged.is_dir() else _CHECKOUT / name


def calibration_of(forget_set_digest: str, reference_digest: str) -> Calibration | None:
    """The margins of a bundled forget set, for audits against one of the lab's references."""
    for path in sorted((_DATA / "calibration").glob("*.json")):
        found = Calibration.model_validate_json(path.read_bytes())
        if found.forget_set_digest == forget_set_digest and reference_digest in found.references:
            return found
    return None


def export(directory: Path) -> None:
    """Copy every bundled model and forget set into ``directory`` as ordinary folders."""
    for name in MODELS:
        shutil.copytree(model_path(name), directory / name)
    for name in FORGET_SETS:
        shutil.copytree(forget_set_path(name), directory / "forget_sets" / name)


def card() -> str:
    """The lab's card, in Markdown."""
    return (_DATA / "card.md").read_text(encoding="utf-8")


def _known(prefix: str, names: tuple[str, ...]) -> str:
    return ", ".join(prefix + name for name in names)
