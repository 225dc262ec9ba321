"""From the words of a command line to models, forget sets, artifacts and sites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from unlearn.cli.options import Options
from unlearn.errors import InputError, TextError, UnlearnError
from unlearn.types import SPLITS, Record, Sites, Statement, first_problem

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

    return ForgetSet.read(source)


@contextmanager
def naming(records: ForgetSet) -> Iterator[None]:
    """Makes an error about a text say which record and field of a forget set the text is from."""
    try:
        yield
    except InputError as error:
        # A method may have named the record, but not the split and field, around the same error.
        text = error if isinstance(error, TextError) else error.__context__
        if not isinstance(text, TextError):
            raise
        named = next((name for name, asked in _asked(records) if asked == text.digest), None)
        if named is None:
            raise
        raise InputError(f"{named}: {text.reason}") from error


def _asked(records: ForgetSet) -> Iterator[tuple[str, str]]:
    """What models are asked: record and field in words, and the digest of the text."""
    for split in SPLITS:
        for record in records.split(split):
            for field, prompt, completion in _fields(record):
                name = f"{split} record {record.id!r}, field '{field}'"
                yield name, TextError.digest_of(prompt, completion)
                yield name, TextError.digest_of(prompt, "")


def _fields(record: Record) -> Iterator[tuple[str, str, str]]:
    yield "answer", record.prompt, record.completion
    for index, prompt in enumerate(record.paraphrases):
        yield f"paraphrases[{index}]", prompt, record.completion
    for index, wrong in enumerate(record.alternatives):
        yield f"alternatives[{index}]", record.prompt, record.separator + wrong
    for field in ("implications", "translations"):
        statements: tuple[Statement, ...] = getattr(record, field)
        for index, statement in enumerate(statements):
            yield f"{field}[{index}]", statement.prompt, statement.completion


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
        problem = first_problem(error, Sites)
        raise InputError(
            f"{path} is not a sites file: {problem}; `unlearn locate` writes one"
        ) from error
