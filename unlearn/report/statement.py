"""What a signature vouches for: an in-toto Statement v1 with an audit as its predicate.

The form is that of https://github.com/in-toto/attestation, spec/v1: subjects are files, named by
their SHA-256, and the predicate says what is claimed of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

import unlearn
from unlearn.artifact_manifest import sha256_of
from unlearn.errors import InputError
from unlearn.types import AuditResult, Noun, Role, Text, Verdict

PREDICATE_TYPE: Literal["https://unlearn-toolkit/audit/v1"] = "https://unlearn-toolkit/audit/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MODEL = "model/"
"""What names of model files start with, so that no model file can pass for an audit."""

LIMITS = (
    "The signature shows that somebody who holds the key signed these digests and verdicts. Whose "
    "key it is has to be known from elsewhere.",
    "It does not show that the figures are right, or that the audit was run as described; running "
    "it again does. Whoever signs usually is who made the model forget, and knew what to ask.",
    "It does not show when it was signed. Dates in it are the signer's own.",
    "It holds for the files named by their digests, and for no copy that differs in one bit: not "
    "for rounded, further trained or merged ones, and not for caches and back-ups.",
    "Weights cannot show how they came to be. That these came from the named change of the named "
    "base model is the signer's word, unless the change is applied again.",
    "It is no legal conclusion.",
)
"""What signing does not prove. Printed beside every signature, and signed with it."""

REQUEST = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Short and without spaces, so that it is an id and no name."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RequestId = Annotated[str, Field(pattern=REQUEST)]


class Digests(Noun):
    """The digests of one file."""

    sha256: Sha256


class Subject(Noun):
    """One file that the statement is about."""

    name: Text
    """Its path below the audit's folder, or ``model/`` and its path below the model's."""
    digest: Digests

    @field_validator("name")
    @classmethod
    def _stays_below(cls, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ValueError("leads out of the folder")
        return name


class Judged(Noun):
    """One claim, as it was judged."""

    id: str
    statement: str
    verdict: Verdict


class ModelDigest(Noun):
    """Which model played a role: the digest over its tensors, and the number format it ran in."""

    digest: str
    dtype: str


class Tool(Noun):
    """The program that did something."""

    version: str
    code: Sha256 | None = None
    """Over the source files of the package; None where nobody recorded it."""


class Predicate(Noun):
    """What is stated of the subjects."""

    request: RequestId | None
    created: str
    """When the audit was made, by its own clock."""
    audited_with: Tool
    signed_with: Tool
    tier: str
    seeds: Mapping[str, int | str]
    models: Mapping[Role, ModelDigest]
    configuration: Mapping[str, str]
    """Strategy, settings and sites, as the audit recorded them; no paths."""
    verdict: Verdict
    label: str
    claims: tuple[Judged, ...]
    assurance: Mapping[str, str]
    """Rung of the ladder to its state."""
    limits: tuple[str, ...]


class AuditStatement(Noun):
    """An in-toto Statement v1 about an audit."""

    model_config = ConfigDict(validate_by_name=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field(
        default="https://in-toto.io/Statement/v1", alias="_type"
    )
    subject: Annotated[tuple[Subject, ...], Field(min_length=1)]
    predicate_type: Literal["https://unlearn-toolkit/audit/v1"] = Field(
        default=PREDICATE_TYPE, alias="predicateType"
    )
    predicate: Predicate

    def payload(self) -> bytes:
        """The bytes that are signed: JSON with sorted keys, the same for the same statement."""
        plain = self.model_dump(mode="json", by_alias=True)
        text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return text.encode()

    def digest_of(self, name: str) -> str | None:
        """The digest of the subject of this name; None where it is no subject."""
        return next((one.digest.sha256 for one in self.subject if one.name == name), None)


def state(result: AuditResult, subjects: Sequence[Subject], request: str | None) -> AuditStatement:
    """The statement about an audit.

    Raises:
        InputError: ``request`` is not the one that the audit was made for.
    """
    return AuditStatement(
        subject=tuple(sorted(subjects, key=lambda one: one.name)),
        predicate=_predicate(result, _request(result, request)),
    )


def _predicate(result: AuditResult, request: str | None) -> Predicate:
    recorded = result.provenance
    seeds: dict[str, int | str] = {"audit": result.seed}
    if "seed" in recorded:
        seeds["forget"] = recorded["seed"]
    return Predicate(
        request=request,
        created=result.created,
        audited_with=Tool(version=result.tool_version),
        signed_with=Tool(version=unlearn.__version__, code=code_digest()),
        tier=result.tier,
        seeds=seeds,
        models={
            role: ModelDigest(digest=model.digest, dtype=model.dtype)
            for role, model in result.models.items()
        },
        configuration={key: text for key, text in recorded.items() if key not in _ELSEWHERE},
        verdict=result.verdict,
        label=result.label,
        claims=tuple(
            Judged(id=claim.id, statement=claim.statement, verdict=claim.verdict)
            for claim in result.claims
        ),
        assurance={rung.id: rung.state for rung in result.assurance},
        limits=LIMITS,
    )


_ELSEWHERE = {"request", "seed", "base"}
"""Provenance that has its own field, and the base model's path, which may hold a name."""


def _request(result: AuditResult, given: str | None) -> str | None:
    recorded = result.provenance.get("request")
    if given is not None and recorded is not None and given != recorded:
        raise InputError(
            f"the audit was made for request {recorded}, not for {given}; leave --request out, or "
            "give the folder of the other audit"
        )
    request = recorded if given is None else given
    if request is not None and not re.fullmatch(REQUEST, request):
        raise InputError(
            "the request's id may hold letters, digits, '.', '_' and '-', at most 64; it goes into "
            "a statement that outlives the request, so it must not be a name"
        )
    return request


def subject_of(name: str, file: Path) -> Subject:
    """The file, as a subject under this name."""
    return Subject(name=name, digest=Digests(sha256=sha256_of(file)))


def model_subjects(model_dir: Path, apart: Sequence[Path] = ()) -> tuple[Subject, ...]:
    """Every file below a model folder, links followed to what they hold.

    Args:
        model_dir: the folder.
        apart: files that are not the model's, for example the statement itself.

    Raises:
        InputError: there is no such folder, it holds no file, or not all of it can be read.
    """
    if not model_dir.is_dir():
        raise InputError(f"{model_dir} is no folder; give the folder of the model")
    others = {path.resolve() for path in apart}
    try:
        found = tuple(
            subject_of(MODEL + file.relative_to(model_dir).as_posix(), file)
            for file in _files(model_dir)
            if file.resolve() not in others
        )
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if not found:
        raise InputError(f"{model_dir} holds no file; give the folder of the model")
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise InputError(
                f"{path} is a link to a folder, whose content could change unseen; copy it here"
            )
        if path.is_dir():
            continue
        if not path.is_file():
            raise InputError(f"{path} is no ordinary file, so it has no digest; remove it")
        if not _is_text(path.relative_to(folder).as_posix()):
            raise InputError(f"{folder} holds a file whose name is not UTF-8; rename it")
        yield path


def _is_text(name: str) -> bool:
    """Whether a name is text that JSON can hold, and no bytes of another encoding."""
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def code_digest() -> str:
    """SHA-256 over names and bytes of the installed package's source files, in order of name."""
    root = Path(unlearn.__file__).parent
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        name = file.relative_to(root).as_posix()
        total.update(f"{name} {sha256_of(file)}\n".encode())
    return total.hexdigest()
