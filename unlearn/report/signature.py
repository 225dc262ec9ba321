"""Signing an audit and checking it offline: the statement in a DSSE envelope.

>>> from unlearn.signing import read_private_key, read_public_key        # doctest: +SKIP
>>> sign_audit(folder, read_private_key(key), model_dir=model)           # doctest: +SKIP
>>> verify_audit(folder, read_public_key(public), model_dir=model)       # doctest: +SKIP
[]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

from unlearn.errors import InputError
from unlearn.report.files import AUDIT, read, write
from unlearn.report.statement import (
    MODEL,
    PAYLOAD_TYPE,
    AuditStatement,
    Subject,
    model_subjects,
    state,
    subject_of,
)
from unlearn.signing import key_id
from unlearn.types import first_problem

STATEMENT = "statement.dsse.json"
"""The signed statement's file, beside ``audit.json``."""

LATER = "after/[0-9]*/audit.json"
"""Audits of earlier requests on the same model."""


class Mismatch(NamedTuple):
    """Something that is not as it was signed."""

    where: str
    """The file."""
    problem: str


class Signature(NamedTuple):
    """What a report prints of a signature. Nobody has checked it yet."""

    key_ids: tuple[str, ...]
    statement: AuditStatement
    fits: bool
    """Whether the statement names the very ``audit.json`` that lies beside it."""


def sign_audit(
    folder: Path,
    key: Ed25519PrivateKey,
    model_dir: Path | None = None,
    request: str | None = None,
    model_signature: Path | None = None,
) -> Path:
    """Writes the signed statement beside ``audit.json``, and returns where it is.

    The same files and key give the same bytes. That ``model_dir`` holds the model that was audited
    is for the caller to know: a digest over tensors needs them loaded.

    Args:
        folder: of an audit.
        key: what to sign with.
        model_dir: the model's files, to be named by their digests.
        request: id of the request that the audit was made for, unless the audit says it.
        model_signature: a signature of the model by other means; its digest is named too.

    Raises:
        InputError: there is no audit, the model cannot be read, or the request is another.
    """
    result = read(folder)
    subjects = [subject_of(AUDIT, folder / AUDIT)]
    subjects += [subject_of(_name(path, folder), path) for path in sorted(folder.glob(LATER))]
    if model_signature is not None:
        subjects.append(_signature_subject(folder, model_signature))
    if model_dir is not None:
        subjects += model_subjects(model_dir, apart=_own(folder))
    statement = state(result, subjects, request)
    envelope = Envelope(statement.payload(), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key, _public(key.public_key())))
    write({folder / STATEMENT: json.dumps(envelope.to_dict(), indent=1) + "\n"})
    return folder / STATEMENT


def _signature_subject(folder: Path, file: Path) -> Subject:
    if not file.is_file() or file.resolve().parent != folder.resolve():
        raise InputError(
            f"{file} is no file in {folder}; put the model's signature beside {AUDIT}, where it is "
            "found again"
        )
    return subject_of(file.name, file)


def verify_audit(
    folder: Path, public_key: Ed25519PublicKey, model_dir: Path | None = None
) -> list[Mismatch]:
    """What is not as it was signed; nothing, if all is. Needs no network.

    Where the signature itself does not hold, nothing else in the statement means anything, so that
    is the only mismatch then.

    Raises:
        InputError: there is no statement, it does not read, or a folder cannot be read.
    """
    envelope = _envelope(folder)
    try:
        envelope.verify([_public(public_key)], 1)
    except VerificationError:
        return [Mismatch(STATEMENT, _why_not(envelope, public_key))]
    statement = _statement(folder, envelope)
    found = [*_files(folder, statement)]
    if not any(one.where == AUDIT for one in found):
        found += _words(folder, statement)
    if model_dir is not None:
        found += _model(folder, statement, model_dir)
    return found


def signature_of(folder: Path) -> Signature | None:
    """What the statement in a folder says, unchecked; None where there is none.

    Raises:
        InputError: it does not read.
    """
    if not (folder / STATEMENT).is_file():
        return None
    envelope = _envelope(folder)
    statement = _statement(folder, envelope)
    fits = not any(one.where == AUDIT for one in _files(folder, statement))
    return Signature(tuple(sorted(envelope.signatures)), statement, fits)


def _why_not(envelope: Envelope, public_key: Ed25519PublicKey) -> str:
    given, made_by = key_id(public_key), sorted(envelope.signatures)
    if given in made_by:
        return "was changed after it was signed: the signature does not fit the content"
    others = ", ".join(f"{one[:16]}…" for one in made_by) or "no key at all"
    return f"was signed with another key: {others}, and the key given is {given[:16]}…"


def _files(folder: Path, statement: AuditStatement) -> Iterator[Mismatch]:
    if statement.digest_of(AUDIT) is None:
        yield Mismatch(AUDIT, "is not named in the statement")
    for one in statement.subject:
        if not one.name.startswith(MODEL):
            yield from _compared(one, folder / one.name, one.name)
    for path in sorted(folder.glob(LATER)):
        if statement.digest_of(_name(path, folder)) is None:
            yield Mismatch(_name(path, folder), "is not named in the statement")


def _model(folder: Path, statement: AuditStatement, model_dir: Path) -> Iterator[Mismatch]:
    signed = {one.name: one for one in statement.subject if one.name.startswith(MODEL)}
    if not signed:
        yield Mismatch(STATEMENT, "names no model files: the audit was signed without --model")
        return
    found = {one.name for one in model_subjects(model_dir, apart=_own(folder))}
    for name, one in signed.items():
        file = model_dir / name.removeprefix(MODEL)
        yield from _compared(one, file, str(file))
    for name in sorted(found - set(signed)):
        file = model_dir / name.removeprefix(MODEL)
        yield Mismatch(str(file), "is not named in the statement: it came after the signature")


def _compared(signed: Subject, file: Path, where: str) -> Iterator[Mismatch]:
    if not file.is_file():
        yield Mismatch(where, "is missing")
        return
    try:
        digest = subject_of(signed.name, file).digest.sha256
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    if digest != signed.digest.sha256:
        expected = signed.digest.sha256
        yield Mismatch(where, f"has SHA-256 {digest[:16]}…, and {expected[:16]}… was signed")


def _words(folder: Path, statement: AuditStatement) -> Iterator[Mismatch]:
    """What the statement says of the audit and the audit does not say."""
    said = statement.predicate
    is_said = _essence(state(read(folder), statement.subject, said.request))
    for name, value in _essence(statement).items():
        if value != is_said[name]:
            yield Mismatch(STATEMENT, f"does not say what {AUDIT} says: {name}")


def _essence(statement: AuditStatement) -> dict[str, Any]:
    """The predicate without what depends on who signs, and when."""
    return statement.predicate.model_dump(exclude={"signed_with", "limits", "request"})


def _envelope(folder: Path) -> Envelope:
    path = folder / STATEMENT
    try:
        text = path.read_bytes()
        raw = json.loads(text)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} holds no {STATEMENT}; `unlearn report sign {folder} --key FILE` writes one"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON; the file is damaged") from error
    try:
        envelope = Envelope.from_dict(raw)
    except (KeyError, TypeError, ValueError, AttributeError, FormatError) as error:
        raise InputError(f"{path} is no DSSE envelope; the file is damaged") from error
    # Base64 may be written in more than one way, and what reads it skips strange characters.
    if envelope.to_dict() != json.loads(text):
        raise InputError(f"{path} is not written as a DSSE envelope is; the file is damaged")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InputError(f"{path} holds no in-toto statement, but something else that was signed")
    return envelope


def _statement(folder: Path, envelope: Envelope) -> AuditStatement:
    try:
        return AuditStatement.model_validate_json(envelope.payload)
    except ValidationError as error:
        problem = first_problem(error, AuditStatement)
        raise InputError(
            f"{folder / STATEMENT} is no statement about an audit that this unlearn reads: "
            f"{problem}"
        ) from error


def _public(key: Ed25519PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(key, keyid=key_id(key))


def _own(folder: Path) -> list[Path]:
    """Files of the audit itself, which are not the model's where both share a folder."""
    return [*folder.glob("audit.*"), *folder.glob(LATER), folder / STATEMENT]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
