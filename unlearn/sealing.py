"""Sealed payloads: encryption, and what an artifact keeps under a key that lies beside it."""

from __future__ import annotations

import base64
import binascii
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unlearn.artifact_manifest import POLICY_KEY
from unlearn.errors import ArtifactError

KEY_BYTES = 32
_NONCE_BYTES = 12
_BOUND_TO = b"unlearn policy 1"


def new_key() -> bytes:
    """A random key for one artifact."""
    return secrets.token_bytes(KEY_BYTES)


def naming_key(key: bytes) -> bytes:
    """The key that terms are hashed with; it says nothing of the one that texts are sealed with."""
    return _derived(key, b"names")


def seal(content: bytes, key: bytes) -> str:
    """The content under AES-256-GCM with a fresh nonce, as base64."""
    return base64.b64encode(encrypt(content, _derived(key, b"contents"), _BOUND_TO)).decode("ascii")


def unseal(text: str, key: bytes) -> bytes:
    """What was sealed.

    Raises:
        ArtifactError: it is another key, or the text was changed.
    """
    try:
        raw = base64.b64decode(text, validate=True)
        return decrypt(raw, _derived(key, b"contents"), _BOUND_TO)
    except (InvalidTag, binascii.Error, ValueError):
        raise ArtifactError(
            f"{POLICY_KEY} does not open this policy: it belongs to another artifact, or the "
            f"sealed part was changed; put back the {POLICY_KEY} that was written with it"
        ) from None


def encrypt(content: bytes, key: bytes, bound_to: bytes) -> bytes:
    """The content under AES-GCM, a fresh nonce in front; it opens only ``bound_to`` the same."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, bound_to)


def decrypt(sealed: bytes, key: bytes, bound_to: bytes) -> bytes:
    """What ``encrypt`` was given.

    Raises:
        InvalidTag, ValueError: the key or what it is bound to is another, or it was changed.
    """
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)


def read_policy_key(folder: Path) -> bytes:
    """The key of the sealed policy in a folder.

    Raises:
        ArtifactError: it is gone, or no key.
    """
    file = folder / POLICY_KEY
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise ArtifactError(
            f"the policy in {folder} is sealed and its {POLICY_KEY} is not there; nobody can use "
            "it without, so put the key back beside policy.json"
        ) from None
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ArtifactError(f"{file} is not a key of {KEY_BYTES} bytes in hexadecimal; restore it")
    return key


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(key)
