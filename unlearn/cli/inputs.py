"""From the words of a command line to models, forget sets, artifacts and sites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from unlearn.cli.options import Options
from unlearn.errors import InputError, UnlearnError
from unlearn.types import Sites

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel


def read_model(source: str, options: Options) -> LanguageModel:
    """The model that a folder, a hub name or ``lab:NAME`` stands for."""
    import unlearn.lab  # noqa: F401 - importing it makes lab: known
    from unlearn.model.language_model import LanguageModel

    return LanguageModel.load(
        source,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
    )


def read_forget_set(source: str) -> ForgetSet:
    """The forget set in a folder, or the bundled one that ``lab:NAME`` stands for."""
    from unlearn.forget_set import ForgetSet

    if source.startswith("lab:"):
        from unlearn.lab.bundled import forget_set_path

        return ForgetSet.read(forget_set_path(source.removeprefix("lab:")))
    return ForgetSet.read(Path(source))


def is_artifact(source: str) -> bool:
    """Whether the source is the folder of an artifact."""
    return (Path(source) / "artifact.json").is_file()


def read_artifact(source: str) -> Artifact:
    """The artifact in a folder.

    Raises:
        InputError: the folder holds none.
        ArtifactError: it is damaged.
    """
    from unlearn.artifact import Artifact

    if not is_artifact(source):
        what = "has no artifact.json" if Path(source).is_dir() else "does not exist"
        raise InputError(
            f"{source} is not an artifact: it {what}. An artifact is the folder that "
            "`unlearn forget MODEL FORGET_SET -o ARTIFACT` writes"
        )
    return Artifact.load(Path(source))


def read_base(artifact: Artifact, source: str, options: Options) -> LanguageModel:
    """The model that an artifact was made from, found at the source it recorded.

    Raises:
        InputError: nothing can be loaded from there any more.
    """
    recorded = artifact.provenance.base_source
    try:
        return read_model(recorded, options)
    except UnlearnError as error:
        raise InputError(
            f"the artifact {source} was made from {recorded!r}, which cannot be loaded from here "
            f"({error}); say where that model is now with --original MODEL"
        ) from error


def read_sites(path: Path) -> Sites:
    """The sites in a file that ``unlearn locate`` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise InputError(f"there is no sites file {path}; `unlearn locate` writes one")
    try:
        return Sites.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is not a sites file: {where}: {first['msg']}") from error
