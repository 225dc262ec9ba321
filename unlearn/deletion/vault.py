"""Vault: what is personal about requests, encrypted under one key each.

A request's key is random, and lies wrapped by the master key in the request's folder. ``destroy``
makes away with it, so that nothing the key had encrypted can be read again by anybody, not even
from a backup of the folder that lacks the key, and the request's HMACs cannot be linked to facts.
A backup that holds the wrapped key and the master key undoes that: keep the ``key`` files out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import unicodedata
from pathlib import Path

from cryptography.exceptions import InvalidTag

from unlearn.atomic_folder import sync, write_whole
from unlearn.deletion.master_key import KEY_BYTES, MasterKey
from unlearn.errors import InputError
from unlearn.sealing import decrypt, encrypt

_KEY = "key"


class Vault:
    """The folder of all requests' encrypted contents."""

    def __init__(self, folder: Path, master: MasterKey) -> None:
        self.folder = folder
        self._wrapping = master.derive("unlearn vault: request keys 1")
        self._indexing = master.derive("unlearn vault: blind indexes 1")

    def create(self, request: str) -> None:
        """A key and a place for a new request."""
        place = self.folder / request
        place.mkdir(parents=True, mode=0o700)
        key = secrets.token_bytes(KEY_BYTES)
        write_whole(place / _KEY, encrypt(key, self._wrapping, _place(request, _KEY)), mode=0o600)

    def put(self, request: str, name: str, content: bytes) -> None:
        """Keeps a content under a name, over what was there before."""
        sealed = encrypt(content, self._key(request), _place(request, name))
        write_whole(self.folder / request / name, sealed, mode=0o600)

    def get(self, request: str, name: str) -> bytes:
        """What was put under a name.

        Raises:
            InputError: the request has no such content, its key is destroyed, the master key is
                another, or the file was changed.
        """
        key = self._key(request)
        try:
            sealed = (self.folder / request / name).read_bytes()
        except FileNotFoundError:
            raise InputError(f"the vault holds no {name} of request {request}") from None
        return _opened(sealed, key, request, name)

    def holds(self, request: str, name: str) -> bool:
        """Whether something was put under a name, and can still be read."""
        place = self.folder / request
        return (place / _KEY).is_file() and (place / name).is_file()

    def digest(self, request: str, content: str) -> str:
        """HMAC-SHA256 of a content under the request's key: it names, and says nothing.

        Once the key is destroyed nobody can find out what it was made of.
        """
        return hmac.new(self._key(request), content.encode(), hashlib.sha256).hexdigest()

    def blind_index(self, identifier: str) -> str:
        """What a person is found by again, without being named: an HMAC under the master key.

        Case, spacing and Unicode composition do not matter.
        """
        normal = " ".join(unicodedata.normalize("NFKC", identifier).casefold().split())
        raw = normal.encode("utf-8", "surrogatepass")  # a shell passes on what is no UTF-8 so
        return hmac.new(self._indexing, raw, hashlib.sha256).hexdigest()

    def destroy(self, request: str) -> None:
        """Destroys a request's key, then everything that it had encrypted.

        The key goes first: whoever is interrupted after that leaves noise behind. To call it again
        is no error.
        """
        place = self.folder / request
        key = place / _KEY
        if key.exists():
            _overwrite(key)
            key.unlink()
            sync(place)
        shutil.rmtree(place, ignore_errors=True)

    def requests(self) -> list[str]:
        """The requests that have a place here."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def _key(self, request: str) -> bytes:
        try:
            wrapped = (self.folder / request / _KEY).read_bytes()
        except FileNotFoundError:
            raise InputError(
                f"the key of request {request} is destroyed: what it had encrypted cannot be read"
            ) from None
        return _opened(wrapped, self._wrapping, request, _KEY)


def _opened(sealed: bytes, key: bytes, request: str, name: str) -> bytes:
    try:
        return decrypt(sealed, key, _place(request, name))
    except (InvalidTag, ValueError):
        what = "the master key is another" if name == _KEY else "it was encrypted elsewhere"
        raise InputError(
            f"the {name} of request {request} does not open: {what}, or the file was changed"
        ) from None


def _place(request: str, name: str) -> bytes:
    """What a content is bound to, so that it cannot be put in another's place."""
    return f"{request}/{name}".encode()


def _overwrite(path: Path) -> None:
    """Puts random bytes where a file's content is, as far as the disk writes in place."""
    with path.open("r+b") as file:
        file.write(secrets.token_bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
