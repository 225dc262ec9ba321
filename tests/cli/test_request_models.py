"""Models made from others, and kits for audits after the end."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from unlearn.deletion.kit import open_kit, seal_kit
from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet

Run = Callable[..., Result]


@pytest.fixture
def call(run: Run, tmp_path: Path) -> Callable[..., object]:
    def call(*words: object) -> object:
        result = run("request", *words, "--store", tmp_path / "office", "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return call


@pytest.fixture
def opened(call: Callable[..., dict], births: str, knowing: str) -> str:
    scope = ("--forget-set", births, "--model", knowing)
    return call("open", "--subject", "Ada Quill", *scope)["id"]


def test_what_was_made_from_a_model_is_listed_with_its_scope(
    call: Callable[..., dict], opened: str, births: str, knowing: str, other: str
) -> None:
    digest = "ab" * 32
    merge = ("--parent", knowing, "--relation", "merge")
    call("models", "add", other, *merge)
    quantised = ("--parent", other, "--relation", "quantised", "--digest", digest)
    call("models", "add", "models/a-int4", *quantised)
    (scoped,) = call("show", opened)["scope"]
    assert [(m["relation"], m["scope"]) for m in scoped["derived"]] == [
        ("merge", "out of scope"),
        ("quantised", "out of scope"),
    ]
    call("scope", opened, "--forget-set", births, "--model", knowing, "--model", other)
    first, second = call("show", opened)["scope"]
    assert [m["scope"] for m in first["derived"]] == ["in scope", "out of scope"]
    assert [m["scope"] for m in second["derived"]] == ["out of scope"]
    assert [m["relation"] for m in call("models", "list")] == ["base", "merge", "quantised"]
    assert call("verify")["flaws"] == []


def test_an_artifact_is_registered_as_what_it_makes_of_its_parent(
    call: Callable[..., dict], run: Run, births: str, knowing: str, tmp_path: Path, opened: str
) -> None:
    made = tmp_path / "artifact"
    quick = ("--set", "max_steps=2", "--set", "stop=budget", "-q")
    assert run("forget", knowing, births, "-o", made, *quick).exit_code == 0
    added = call("models", "add", made, "--parent", knowing, "--relation", "adapter")
    provenance = json.loads((made / "artifact.json").read_text())["provenance"]
    assert added["digest"] == provenance["result_digest"]


def test_a_digest_that_is_none_is_refused(
    refused: Callable[..., str], opened: str, knowing: str, tmp_path: Path
) -> None:
    words = ("--parent", knowing, "--relation", "copy", "--digest", "abc")
    line = refused("request", "models", "add", "x", *words, "--store", tmp_path / "office")
    assert "--digest is no SHA-256" in line


def keys(folder: Path) -> tuple[Path, Path]:
    private, public = folder / "kit.pem", folder / "kit.pub"
    try:
        make = ["openssl", "genpkey", "-algorithm", "x25519", "-out", str(private)]
        subprocess.run(make, check=True, capture_output=True)
        half = ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)]
        subprocess.run(half, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return private, public


def test_a_kit_outlives_its_request_for_one_key_only(
    call: Callable[..., dict],
    run: Run,
    refused: Callable[..., str],
    opened: str,
    births: str,
    tmp_path: Path,
) -> None:
    private, public = keys(tmp_path)
    call("deny", opened, "--reason", "no data of theirs")
    kit = tmp_path / "kit"
    call("close", opened, "--kit", kit, public)
    assert b"Quill" not in kit.read_bytes()
    done = run("request", "unseal", kit, "--key", private, "-o", tmp_path / "facts")
    assert done.exit_code == 0, done.output
    read, given = ForgetSet.read(tmp_path / "facts"), ForgetSet.read(births)
    assert [r.text for r in read.forget] == [r.text for r in given.forget]
    assert read.name == opened
    (tmp_path / "other").mkdir()
    stranger, _ = keys(tmp_path / "other")
    assert "for another key" in refused(
        "request", "unseal", kit, "--key", stranger, "-o", tmp_path / "more"
    )


def test_a_kit_that_cannot_be_written_leaves_the_request_open(
    call: Callable[..., dict], refused: Callable[..., str], opened: str, tmp_path: Path
) -> None:
    call("deny", opened, "--reason", "no data of theirs")
    words = ("request", "close", opened, "--store", tmp_path / "office", "--kit")
    assert "no public X25519 key" in refused(*words, tmp_path / "kit", tmp_path / "none.pub")
    assert call("show", opened)["state"] == "denied" and not (tmp_path / "kit").exists()


def test_a_changed_kit_does_not_open(births: str) -> None:
    key = X25519PrivateKey.generate()
    kit = bytearray(seal_kit(ForgetSet.read(births), key.public_key()))
    assert open_kit(bytes(kit), key) == ForgetSet.read(births)
    kit[-1] ^= 1
    with pytest.raises(InputError, match="does not open"):
        open_kit(bytes(kit), key)
