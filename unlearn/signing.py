"""Ed25519 keys in PEM files: what ledgers and statements are signed with, and checked by."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from unlearn.errors import InputError

PRIVATE_MODE = 0o600
PUBLIC_SUFFIX = ".pub"


def write_new_key(path: Path) -> Ed25519PrivateKey:
    """A new key in ``path``, readable by its owner alone, and its public half in ``path.pub``.

    Raises:
        InputError: one of the files exists; a key is never written over.
    """
    public = public_path(path)
    taken = next((file for file in (path, public) if file.exists()), None)
    if taken is not None:
        raise InputError(f"{taken} exists; a key is never written over, so give another place")
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    public.write_bytes(public_pem(key.public_key()))
    return key


def public_path(path: Path) -> Path:
    """Where the public half of the key in ``path`` lies."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The public key as a PEM file holds it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file without a passphrase.

    Raises:
        InputError: there is no such file, or it holds another kind of key.
    """
    key = read_pem(path, private=True)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{path} is not a private Ed25519 key in PEM without a passphrase; "
            f"`openssl genpkey -algorithm ed25519 -out {path.name}` makes one"
        )
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file.

    Raises:
        InputError: there is no such file, or it holds another kind of key.
    """
    key = read_pem(path, private=False)
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(
            f"{path} is not a public Ed25519 key in PEM; give the {PUBLIC_SUFFIX} file that was "
            "written beside the private key"
        )
    return key


def read_pem(path: Path, *, private: bool) -> object:
    """The key of whatever kind in a PEM file without a passphrase; ``None`` where there is none."""
    try:
        content = path.read_bytes()
        return load_pem_private_key(content, None) if private else load_pem_public_key(content)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the public key's DER form, in hexadecimal."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
