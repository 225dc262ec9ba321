"""The vault: nothing is in clear, each request has its own key, and a destroyed key is gone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.deletion.master_key import VARIABLE, MasterKey
from unlearn.deletion.vault import Vault
from unlearn.errors import InputError

MASTER = MasterKey(bytes(range(32)))
ONE, OTHER = "1" * 16, "2" * 16
SECRET = b"Ada Quill was born in Tarn"


@pytest.fixture
def vault(tmp_path):
    made = Vault(tmp_path / "vault", MASTER)
    made.create(ONE)
    made.create(OTHER)
    made.put(ONE, "facts", SECRET)
    return made


def everything(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_is_put_is_got_and_is_nowhere_in_clear(vault):
    assert vault.get(ONE, "facts") == SECRET
    assert b"Quill" not in everything(vault.folder)
    vault.put(ONE, "facts", b"another")
    assert vault.get(ONE, "facts") == b"another"


def test_files_are_for_their_owner_alone(vault):
    files = [path for path in vault.folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.parametrize("position", [0, 12, -1])
def test_a_changed_byte_is_noticed(vault, position):
    file = vault.folder / ONE / "facts"
    raw = bytearray(file.read_bytes())
    raw[position] ^= 1
    file.write_bytes(raw)
    with pytest.raises(InputError, match="does not open") as caught:
        vault.get(ONE, "facts")
    assert "Quill" not in str(caught.value)


def test_contents_cannot_be_swapped_between_names_or_requests(vault):
    facts = (vault.folder / ONE / "facts").read_bytes()
    (vault.folder / ONE / "identity").write_bytes(facts)
    with pytest.raises(InputError, match="does not open"):
        vault.get(ONE, "identity")
    (vault.folder / OTHER / "key").write_bytes((vault.folder / ONE / "key").read_bytes())
    with pytest.raises(InputError, match="does not open"):
        vault.digest(OTHER, "Tarn")


def test_another_master_key_opens_nothing(vault):
    stranger = Vault(vault.folder, MasterKey(bytes(32)))
    with pytest.raises(InputError, match="the master key is another"):
        stranger.get(ONE, "facts")


def test_a_destroyed_key_leaves_nothing_and_touches_no_other(vault):
    vault.put(OTHER, "facts", b"kept")
    kept = (vault.folder / ONE / "facts").read_bytes()
    vault.destroy(ONE)
    vault.destroy(ONE)
    assert vault.requests() == [OTHER] and vault.get(OTHER, "facts") == b"kept"
    # Not even where somebody still has the ciphertext.
    (vault.folder / ONE).mkdir()
    (vault.folder / ONE / "facts").write_bytes(kept)
    with pytest.raises(InputError, match=f"the key of request {ONE} is destroyed"):
        vault.get(ONE, "facts")


def test_digests_differ_between_requests_and_blind_indexes_do_not_depend_on_them(vault):
    assert vault.digest(ONE, "Tarn") == vault.digest(ONE, "Tarn")
    assert vault.digest(ONE, "Tarn") != vault.digest(OTHER, "Tarn")
    assert vault.blind_index("Ada Quill") == Vault(vault.folder, MASTER).blind_index("Ada Quill")
    assert vault.blind_index("Ada Quill") != Vault(vault.folder, MasterKey(bytes(32))).blind_index(
        "Ada Quill"
    )


@pytest.mark.parametrize("same", [" ada  QUILL ", "Ada\tQuill", "Ａda Quill"])
def test_the_spelling_of_an_identifier_does_not_matter(vault, same):
    assert vault.blind_index(same) == vault.blind_index("Ada Quill")


@given(st.binary(max_size=200), st.text(min_size=1, max_size=10))
def test_any_content_comes_back(tmp_path_factory, content, identifier):
    vault = Vault(tmp_path_factory.mktemp("vault"), MASTER)
    vault.create(ONE)
    vault.put(ONE, "facts", content)
    assert vault.get(ONE, "facts") == content
    assert len(vault.blind_index(identifier)) == 64


def test_where_a_master_key_comes_from(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    default, elsewhere = tmp_path / "keys" / "master.key", tmp_path / "elsewhere.key"
    made = MasterKey.make(None, default).derive("x")
    assert MasterKey.read(None, default).derive("x") == made
    assert default.stat().st_mode & 0o777 == 0o600
    other = MasterKey.make(str(elsewhere), default).derive("x")
    assert other != made and MasterKey.read(str(elsewhere), default).derive("x") == other
    monkeypatch.setenv(VARIABLE, "ab" * 32)
    assert MasterKey.read(None, default).derive("x") == MasterKey(b"\xab" * 32).derive("x")
    assert MasterKey.read(str(elsewhere), default).derive("x") == other


@pytest.mark.parametrize("content", ["", "abcd", "no key", "ab" * 33])
def test_what_is_no_master_key_is_refused(tmp_path, monkeypatch, content):
    file = tmp_path / "master.key"
    file.write_text(content)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match="32 random bytes in hexadecimal"):
        MasterKey.read(str(file), file)
    with pytest.raises(InputError, match="--master-key FILE"):
        MasterKey.read(str(tmp_path / "none"), file)


def test_a_key_in_the_systems_keyring(tmp_path, monkeypatch):
    keyring = pytest.importorskip("keyring")
    kept = {}

    class Fake:
        priority = 1

    monkeypatch.setattr(keyring, "get_password", lambda service, name: kept.get((service, name)))
    monkeypatch.setattr(
        keyring, "set_password", lambda service, name, key: kept.update({(service, name): key})
    )
    made = MasterKey.make("keyring:office", tmp_path / "unused").derive("x")
    assert MasterKey.read("keyring:office", tmp_path / "unused").derive("x") == made
    assert list(kept) == [("unlearn", "office")] and not (tmp_path / "unused").exists()
