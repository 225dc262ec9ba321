"""Keys in PEM files: written once, for their owner, and read back; anything else is refused."""

import subprocess

import pytest
from cryptography.exceptions import InvalidSignature

from unlearn.errors import InputError
from unlearn.signing import (
    key_id,
    public_path,
    read_private_key,
    read_public_key,
    write_new_key,
)


def test_a_key_signs_and_its_public_half_checks(tmp_path):
    write_new_key(tmp_path / "keys" / "signing.pem")
    private = read_private_key(tmp_path / "keys" / "signing.pem")
    public = read_public_key(public_path(tmp_path / "keys" / "signing.pem"))
    public.verify(private.sign(b"text"), b"text")
    with pytest.raises(InvalidSignature):
        public.verify(private.sign(b"text"), b"another text")
    assert key_id(public) == key_id(private.public_key())


def test_the_private_half_is_for_its_owner_alone(tmp_path):
    write_new_key(tmp_path / "signing.pem")
    assert (tmp_path / "signing.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_written_over(tmp_path):
    write_new_key(tmp_path / "signing.pem")
    before = (tmp_path / "signing.pem").read_bytes()
    with pytest.raises(InputError, match="exists; a key is never written over"):
        write_new_key(tmp_path / "signing.pem")
    (tmp_path / "signing.pem").unlink()
    with pytest.raises(InputError, match=r"signing\.pem\.pub exists"):
        write_new_key(tmp_path / "signing.pem")
    assert b"PRIVATE KEY" in before and not (tmp_path / "signing.pem").exists()


def test_openssl_reads_the_key_and_we_read_what_openssl_made(tmp_path):
    mine, theirs = tmp_path / "mine.pem", tmp_path / "theirs.pem"
    public = write_new_key(mine).public_key()
    command = ["openssl", "pkey", "-in", str(mine), "-pubout"]
    try:
        pem = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    (tmp_path / "read.pub").write_bytes(pem)
    assert key_id(read_public_key(tmp_path / "read.pub")) == key_id(public)
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(theirs)]
    subprocess.run(make, check=True, capture_output=True)
    read_private_key(theirs)


@pytest.mark.parametrize("content", [None, b"", b"not a key", b"\xff\x00"])
def test_what_is_no_key_is_refused_by_name(tmp_path, content):
    file = tmp_path / "some.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.pem is not a private Ed25519 key"):
        read_private_key(file)
    with pytest.raises(InputError, match=r"some\.pem is not a public Ed25519 key"):
        read_public_key(file)


def test_a_key_of_another_kind_is_refused(tmp_path):
    public = public_path(tmp_path / "signing.pem")
    write_new_key(tmp_path / "signing.pem")
    with pytest.raises(InputError, match="not a private"):
        read_private_key(public)
    with pytest.raises(InputError, match="not a public"):
        read_public_key(tmp_path / "signing.pem")
