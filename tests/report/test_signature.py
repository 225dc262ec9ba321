"""Signed audits: what is signed holds, and every change of it is found and named."""

import base64
import html
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import run

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unlearn.errors import InputError
from unlearn.report import read, report, sign_audit, verify_audit
from unlearn.report.signature import STATEMENT, signature_of
from unlearn.report.statement import LIMITS, PREDICATE_TYPE, AuditStatement, code_digest
from unlearn.types import Verdict

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def audit(result, tmp_path):
    report(result, tmp_path / "audit", ("json",))
    return tmp_path / "audit"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "config.json").write_text("{}")
    (folder / "onnx" / "graph").write_bytes(b"")
    return folder


@pytest.fixture
def signed(audit, model):
    sign_audit(audit, KEY, model, "3f9c")
    return audit


def mismatches(folder, model=None, key=KEY):
    return [tuple(one) for one in verify_audit(folder, key.public_key(), model)]


def statement_of(folder):
    envelope = json.loads((folder / STATEMENT).read_text())
    return json.loads(base64.b64decode(envelope["payload"]))


def test_what_was_signed_and_not_touched_is_good(signed, model):
    assert mismatches(signed, model) == []
    assert mismatches(signed) == []


def test_the_statement_is_in_toto_and_binds_what_it_should(signed, model, result):
    statement = statement_of(signed)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    names = [one["name"] for one in statement["subject"]]
    files = ["model/config.json", "model/model.safetensors", "model/onnx/graph"]
    assert names == ["audit.json", *files]
    said = statement["predicate"]
    assert said["request"] == "3f9c" and said["verdict"] == "FAIL" and said["label"] == "none"
    assert said["models"]["original"]["digest"] == result.models["original"].digest
    assert said["models"]["unlearned"]["digest"] == result.models["unlearned"].digest
    assert {one["id"]: one["verdict"] for one in said["claims"]} == {
        claim.id: claim.verdict for claim in result.claims
    }
    assert said["seeds"] == {"audit": 7} and said["tier"] == "standard"
    assert said["configuration"]["strategy"] == "gradient-ascent"
    assert said["signed_with"] == {"version": "0.1.0", "code": code_digest()}
    assert said["limits"] == list(LIMITS) and len(LIMITS) >= 5


def test_the_digests_are_those_that_sha256sum_finds(signed, model):
    (file,) = (
        one for one in statement_of(signed)["subject"] if one["name"] == "model/model.safetensors"
    )
    shown = run(["sha256sum", model / "model.safetensors"], capture_output=True, text=True)
    assert shown.stdout.split()[0] == file["digest"]["sha256"]


def test_the_signature_is_ed25519_over_the_pre_authentication_encoding(signed):
    """By the DSSE specification, with nothing but the primitive."""
    envelope = json.loads((signed / STATEMENT).read_text())
    body, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)
    (signature,) = envelope["signatures"]
    KEY.public_key().verify(base64.b64decode(signature["sig"]), encoded)


def test_the_same_audit_and_key_give_the_same_bytes(signed, model):
    before = (signed / STATEMENT).read_bytes()
    sign_audit(signed, KEY, model, "3f9c")
    assert (signed / STATEMENT).read_bytes() == before
    assert [path.name for path in signed.iterdir() if path.name.startswith(".")] == []


def test_nothing_of_a_record_or_a_path_is_in_the_statement(signed):
    text = json.dumps(statement_of(signed))
    for private in ("Quill", "one-person", "lab:full", "artifacts/", "ada-quill", "e7702d4c"):
        assert private not in text


@pytest.mark.parametrize("place", range(0, 10240, 1023))
def test_a_flipped_bit_of_the_weights_is_found_and_its_file_named(signed, model, place):
    file = model / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    file.write_bytes(raw)
    ((where, problem),) = mismatches(signed, model)
    assert where == str(file) and "was signed" in problem
    assert mismatches(signed) == []


def test_a_file_that_is_missing_or_new_is_named(signed, model):
    (model / "config.json").unlink()
    (model / "model-00001-of-00002.safetensors").write_bytes(b"another")
    found = dict(mismatches(signed, model))
    assert found[str(model / "config.json")] == "is missing"
    assert "not named" in found[str(model / "model-00001-of-00002.safetensors")]
    assert len(found) == 2


def test_a_changed_audit_is_found(signed, result):
    report(result.model_copy(update={"verdict": Verdict.PASS}), signed, ("json",))
    ((where, problem),) = mismatches(signed)
    assert where == "audit.json" and "was signed" in problem
    (signed / "audit.json").unlink()
    assert mismatches(signed) == [("audit.json", "is missing")]


def test_another_key_is_told_from_a_changed_statement(signed):
    ((where, problem),) = mismatches(signed, key=OTHER)
    assert where == STATEMENT and "another key" in problem
    envelope = json.loads((signed / STATEMENT).read_text())
    body = base64.b64decode(envelope["payload"]).replace(b'"verdict":"FAIL"', b'"verdict":"PASS"')
    envelope["payload"] = base64.b64encode(body).decode()
    (signed / STATEMENT).write_text(json.dumps(envelope))
    ((where, problem),) = mismatches(signed)
    assert where == STATEMENT and "changed after it was signed" in problem


def test_no_flipped_bit_of_the_statement_passes(signed, model):
    file = signed / STATEMENT
    raw = file.read_bytes()
    for place in range(0, len(raw), 37):
        changed = bytearray(raw)
        changed[place] ^= 1
        if bytes(changed).split() == raw.split():
            continue  # only the layout of the JSON
        file.write_bytes(changed)
        with suppress(InputError):
            assert mismatches(signed, model)


def test_a_signer_whose_verdict_is_not_the_audits_is_found_out(signed, model, monkeypatch):
    def lie(self):
        said = json.loads(self.model_dump_json(by_alias=True))
        said["predicate"]["verdict"] = "PASS"
        return json.dumps(said).encode()

    with monkeypatch.context() as patch:
        patch.setattr(AuditStatement, "payload", lie)
        sign_audit(signed, KEY, model)
    assert mismatches(signed, model) == [(STATEMENT, "does not say what audit.json says: verdict")]


def test_an_audit_that_was_signed_without_the_model_says_nothing_of_it(audit, model):
    sign_audit(audit, KEY)
    assert mismatches(audit) == []
    ((_, problem),) = mismatches(audit, model)
    assert "names no model files" in problem


def test_audits_of_earlier_requests_are_signed_with_it(audit, result):
    report(result, audit / "after" / "1", ("json",))
    sign_audit(audit, KEY)
    assert mismatches(audit) == []
    report(result.model_copy(update={"seed": 8}), audit / "after" / "1", ("json",))
    report(result, audit / "after" / "2", ("json",))
    assert [where for where, _ in mismatches(audit)] == [
        "after/1/audit.json",
        "after/2/audit.json",
    ]


def test_a_signature_of_the_model_by_other_means_is_named(audit, model):
    (audit / "model.sig").write_text("{}")
    sign_audit(audit, KEY, model, model_signature=audit / "model.sig")
    assert mismatches(audit, model) == []
    (audit / "model.sig").write_text("{ }")
    assert [where for where, _ in mismatches(audit)] == ["model.sig"]
    with pytest.raises(InputError, match="where it is found again"):
        sign_audit(audit, KEY, model, model_signature=model / "config.json")


def test_model_and_audit_may_share_a_folder(model, result):
    report(result, model)
    sign_audit(model, KEY, model)
    report(result, model, ("html", "md"))
    assert mismatches(model, model) == []


def test_the_request_is_an_id_and_the_audits_own(audit, result):
    for name in ("Ada Quill", "", "a/b", "x" * 65, "é", "a\n"):
        with pytest.raises(InputError, match="must not be a name"):
            sign_audit(audit, KEY, request=name)
    with_request = result.model_copy(update={"provenance": {"request": "3f9c"}})
    report(with_request, audit, ("json",))
    with pytest.raises(InputError, match="made for request 3f9c"):
        sign_audit(audit, KEY, request="aaaa")
    sign_audit(audit, KEY)
    assert statement_of(audit)["predicate"]["request"] == "3f9c"


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"payload": 1, "payloadType": "x", "signatures": []}',
        b'{"payload": "", "payloadType": "x", "signatures": {}}',
        b'{"payload": "YQ==", "payloadType": "x", "signatures": [{"keyid": 1, "sig": "YQ=="}]}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_statement_is_unusable_and_no_crash(signed, damaged):
    (signed / STATEMENT).write_bytes(damaged)
    with pytest.raises(InputError, match=STATEMENT):
        mismatches(signed)
    with pytest.raises(InputError, match=STATEMENT):
        signature_of(signed)


def test_a_signed_statement_of_another_kind_is_refused(signed, monkeypatch):
    for payload in (b"{}", b"not json", b'{"_type": "https://in-toto.io/Statement/v1"}'):
        with monkeypatch.context() as patch:
            patch.setattr(AuditStatement, "payload", lambda self, payload=payload: payload)
            sign_audit(signed, KEY)
        with pytest.raises(InputError, match="no statement about an audit"):
            mismatches(signed)


def test_a_statement_cannot_lead_out_of_its_folder(signed, monkeypatch):
    for name in ("../secret", "/etc/passwd", "a/../../b"):

        def lead(self, name=name):
            said = json.loads(self.model_dump_json(by_alias=True))
            said["subject"][0]["name"] = name
            return json.dumps(said).encode()

        with monkeypatch.context() as patch:
            patch.setattr(AuditStatement, "payload", lead)
            sign_audit(signed, KEY)
        with pytest.raises(InputError, match="leads out of the folder"):
            signature_of(signed)


def test_a_folder_without_statement_audit_or_model_is_named(audit, model, tmp_path):
    with pytest.raises(InputError, match=f"holds no {STATEMENT}"):
        mismatches(audit)
    with pytest.raises(InputError, match="no such file"):
        sign_audit(tmp_path / "nothing", KEY)
    with pytest.raises(InputError, match="is no folder"):
        sign_audit(audit, KEY, model / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        sign_audit(audit, KEY, tmp_path / "empty")
    (model / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match="link to a folder"):
        sign_audit(audit, KEY, model)
    assert not (audit / STATEMENT).exists()


def test_what_has_no_digest_or_no_name_is_refused(audit, model):
    os.mkfifo(model / "pipe")
    with pytest.raises(InputError, match="no ordinary file"):
        sign_audit(audit, KEY, model)
    (model / "pipe").unlink()
    (model / "dangling").symlink_to(model / "nothing")
    with pytest.raises(InputError, match="no ordinary file"):
        sign_audit(audit, KEY, model)
    (model / "dangling").unlink()
    Path(os.fsdecode(os.fsencode(model) + b"/\xff")).write_text("")
    with pytest.raises(InputError, match="not UTF-8"):
        sign_audit(audit, KEY, model)


def test_a_link_to_a_file_is_signed_by_what_it_holds(audit, model, tmp_path):
    (tmp_path / "blob").write_bytes(b"weights")
    (model / "linked").symlink_to(tmp_path / "blob")
    sign_audit(audit, KEY, model)
    assert mismatches(audit, model) == []
    (tmp_path / "blob").write_bytes(b"weighty")
    assert [where for where, _ in mismatches(audit, model)] == [str(model / "linked")]


def test_what_is_signed_is_told_as_long_as_the_audit_is_the_same(signed, result):
    assert signature_of(signed).fits
    for reader in ("officer", "regulator"):
        written = report(result, signed, ("html", "md"), reader)
        for path in written.values():
            shown = " ".join(html.unescape(path.read_text()).replace("\\", "").split())
            assert "unlearn report verify DIR --key KEY.pub --model MODEL_DIR" in shown
            assert all(limit in shown for limit in LIMITS)
    other = result.model_copy(update={"seed": 8})
    shown = report(other, signed, ("html",))["html"].read_text()
    assert "belongs to another version" in shown and LIMITS[0] not in shown
    report(other, signed, ("json",))
    assert not signature_of(signed).fits
    assert read(signed) == other


def test_signing_needs_no_torch(tmp_path):
    code = "import sys, unlearn.report; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code]).returncode == 0


def test_the_docs_say_what_signing_does_not_prove():
    docs = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    assert all(f"- {limit}\n" in docs for limit in LIMITS)
    assert PREDICATE_TYPE in docs and STATEMENT in docs
