"""The master key of a store: where it is, and what is derived from it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unlearn.errors import InputError

KEY_BYTES = 32
VARIABLE = "UNLEARN_MASTER_KEY"
KEYRING = "keyring:"
"""``keyring:NAME`` is the entry NAME of the operating system's keyring, service ``unlearn``."""
_SERVICE = "unlearn"


class MasterKey:
    """The key that wraps the keys of all requests. Whoever has it reads every open request."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def derive(self, purpose: str) -> bytes:
        """A key for one purpose, that says nothing of the others."""
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(self._secret)

    @classmethod
    def read(cls, source: str | None, default: Path) -> MasterKey:
        """The key that ``source`` names: a file, or ``keyring:NAME``.

        Without one it is what the environment variable ``UNLEARN_MASTER_KEY`` holds, or the file
        ``default``.

        Raises:
            InputError: there is none, or it is no key.
        """
        if source is None and (text := os.environ.get(VARIABLE)):
            return cls(_decoded(text, f"the environment variable {VARIABLE}"))
        if source is not None and source.startswith(KEYRING):
            return cls(_decoded(_from_keyring(source), source))
        path = default if source is None else Path(source)
        try:
            return cls(_decoded(path.read_text(encoding="ascii"), str(path)))
        except (OSError, UnicodeDecodeError):
            raise InputError(
                f"the master key is not in {path}; give it by --master-key FILE, --master-key "
                f"{KEYRING}NAME or the variable {VARIABLE}. Without it no request can be read"
            ) from None

    @classmethod
    def make(cls, source: str | None, default: Path) -> MasterKey:
        """The key of a new store: what ``source`` or the environment has, else a new one.

        A new one is written to the file, or put into the keyring, that ``source`` names.

        Raises:
            InputError: what is there is no key, or no new one can be written.
        """
        if source is None and os.environ.get(VARIABLE):
            return cls.read(None, default)
        if source is not None and source.startswith(KEYRING):
            if not _from_keyring(source):
                _keyring().set_password(_SERVICE, source[len(KEYRING) :], _new())
            return cls.read(source, default)
        path = default if source is None else Path(source)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(_new() + "\n")
                file.flush()
                os.fsync(file.fileno())
        return cls.read(str(path), default)


def _new() -> str:
    return secrets.token_hex(KEY_BYTES)


def _decoded(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InputError(
            f"{where} holds no master key: it has to be {KEY_BYTES} random bytes in hexadecimal, "
            f"such as `openssl rand -hex {KEY_BYTES}` prints"
        )
    return key


def _from_keyring(source: str) -> str:
    found: str | None = _keyring().get_password(_SERVICE, source[len(KEYRING) :])
    return found or ""


def _keyring() -> Any:
    try:
        import keyring
    except ImportError:
        raise InputError(
            "keys in the system's keyring need the extra: pip install 'unlearn-toolkit[keyring]'"
        ) from None
    return keyring
