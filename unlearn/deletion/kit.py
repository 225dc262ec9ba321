"""Re-audit kits: the records of a closed request, for whoever has a private key kept elsewhere.

A kit is encrypted to an X25519 public key by HPKE (RFC 9180; HKDF-SHA256, AES-256-GCM). Whoever
closes a request cannot open the kit; whoever has the private key can audit a later model.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from unlearn.deletion.records import from_bytes, to_bytes
from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet
from unlearn.signing import read_pem

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_BOUND_TO = b"unlearn re-audit kit 1"
_HOW = "`openssl genpkey -algorithm x25519` makes one, `openssl pkey -pubout` its public half"


def seal_kit(forget_set: ForgetSet, key: X25519PublicKey) -> bytes:
    """The records, for the owner of the key."""
    sealed: bytes = _SUITE.encrypt(to_bytes(forget_set), key, info=_BOUND_TO)
    return sealed


def open_kit(kit: bytes, key: X25519PrivateKey) -> ForgetSet:
    """The records in a kit.

    Raises:
        InputError: it was sealed for another key, or changed.
    """
    try:
        return from_bytes(_SUITE.decrypt(kit, key, info=_BOUND_TO))
    except (InvalidTag, ValueError):
        raise InputError("the kit does not open: it is for another key, or was changed") from None


def read_kit_key(path: Path) -> X25519PublicKey:
    """The public key in a PEM file.

    Raises:
        InputError: there is none.
    """
    key = read_pem(path, private=False)
    if not isinstance(key, X25519PublicKey):
        raise InputError(f"{path} is no public X25519 key in PEM; {_HOW}")
    return key


def read_kit_private_key(path: Path) -> X25519PrivateKey:
    """The private key in a PEM file without a passphrase.

    Raises:
        InputError: there is none.
    """
    key = read_pem(path, private=True)
    if not isinstance(key, X25519PrivateKey):
        raise InputError(f"{path} is no private X25519 key in PEM; {_HOW}")
    return key
