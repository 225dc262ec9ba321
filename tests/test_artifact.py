"""Artifacts: bit-exact both ways, whole on disk or absent, silent about who was forgotten."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn import artifact as module
from unlearn import atomic_folder
from unlearn.artifact import Artifact, FullWeights, Manifest, Provenance, SitesSummary, keyed_hash
from unlearn.artifact_manifest import checksum_of
from unlearn.errors import ArtifactError
from unlearn.model.language_model import LanguageModel
from unlearn.types import Sites

SET_DIGEST = hashlib.sha256(b"a forget set").hexdigest()


def build(*, tied=True, dtype=torch.float32):
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LlamaForCausalLM(config).to(dtype)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    return LanguageModel(network, tokenizer, "tiny")


def changed_copy(model):
    """A copy with two changed tensors: one everywhere, one in a single hard value."""
    changed = model.copy()
    network = changed.model
    with torch.no_grad():
        network.model.layers[1].mlp.down_proj.weight.mul_(1.5)
        network.model.embed_tokens.weight[3, 2] = float("nan")
    return changed


def bits(model):
    return {
        name: tensor.reshape(-1).view(torch.uint8).clone()
        for name, tensor in model.model.state_dict().items()
    }


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def provenance(**fields):
    return Provenance(strategy="by-hand", settings={"lr": 0.1}, **fields)


@pytest.fixture
def original():
    return build()


@pytest.fixture
def changed(original):
    return changed_copy(original)


@pytest.fixture
def artifact(original, changed):
    return FullWeights.between(original, changed, provenance(), forget_set_digest=SET_DIGEST)


@pytest.fixture
def saved(artifact, tmp_path):
    artifact.save(tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_apply_and_revert_are_bit_exact_after_a_trip_to_disk(tmp_path, tied, dtype):
    original = build(tied=tied, dtype=dtype)
    changed = changed_copy(original)
    FullWeights.between(original, changed, provenance()).save(tmp_path / "a")
    loaded = Artifact.load(tmp_path / "a")
    applied = loaded.apply(original)
    assert same(bits(applied), bits(changed))
    assert not same(bits(applied), bits(original))
    assert same(bits(loaded.revert(applied)), bits(original))


def test_neither_argument_of_any_operation_is_touched(original, changed, artifact):
    before, after = bits(original), bits(changed)
    applied = artifact.apply(original)
    artifact.revert(applied)
    assert same(bits(original), before) and same(bits(changed), after)
    assert same(bits(applied), after)


def test_a_tied_weight_is_kept_once_and_stays_tied(original, artifact):
    assert set(artifact.delta) == {
        "lm_head.weight",
        "model.layers.1.mlp.down_proj.weight",
    }
    applied = artifact.apply(original).model
    assert applied.lm_head.weight is applied.model.embed_tokens.weight


def test_only_changed_tensors_are_kept_and_an_empty_change_is_an_artifact(original, tmp_path):
    nothing = FullWeights.between(original, original.copy(), provenance())
    assert nothing.delta == {}
    nothing.save(tmp_path / "nothing")
    assert same(bits(Artifact.load(tmp_path / "nothing").apply(original)), bits(original))


def test_the_delta_alone_is_the_xor_of_the_bits(original, changed, artifact):
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(artifact.delta[name], bits(original)[name] ^ bits(changed)[name])


def test_provenance_survives_the_trip_with_facts_filled_in(original, changed, tmp_path):
    sites = Sites(method="fixed", layers=(1,), token_mask={"record-7": (1, 2)})
    given = provenance(
        seed=3,
        sites=SitesSummary.of(sites),
        versions={"torch": "2"},
        steps=({"step": 0, "loss": 1.25}, {"step": 1, "note": "å\u2028"}),
        stop_reason="max_steps",
        tokens=40,
        seconds=0.1 + 0.2,
    )
    made = FullWeights.between(original, changed, given)
    made.save(tmp_path / "a")
    loaded = Artifact.load(tmp_path / "a")
    assert loaded.provenance == made.provenance
    assert loaded.provenance.base_source == "tiny"
    assert loaded.provenance.base_digest == original.digest
    assert loaded.provenance.result_digest == changed.digest
    assert loaded.provenance.sites.parts == ("layers", "token_mask")
    assert "record-7" not in (tmp_path / "a" / "artifact.json").read_text()
    assert (loaded.kind, loaded.threat_model) == ("full-weights", "weights")
    assert SitesSummary.of(None) is None


def test_a_stale_digest_of_the_changed_model_is_not_believed(original):
    changed = original.copy()
    stale = changed.digest
    with torch.no_grad():
        changed.model.lm_head.weight.add_(1)
    made = FullWeights.between(original, changed, provenance())
    assert made.provenance.result_digest != stale
    assert same(bits(made.apply(original)), bits(changed))


def test_another_model_is_refused_with_both_digests(original, changed, artifact):
    for operation, wrong, needed in (
        (artifact.apply, changed, original.digest),
        (artifact.revert, original, changed.digest),
        (artifact.apply, build(dtype=torch.bfloat16), original.digest),
    ):
        with pytest.raises(ArtifactError) as caught:
            operation(wrong)
        assert needed[:12] in str(caught.value) and wrong.digest[:12] in str(caught.value)


def test_models_of_different_architecture_make_no_artifact(original):
    for other in (build(tied=False), build(dtype=torch.float16)):
        with pytest.raises(ArtifactError, match="differ in names, types, shapes or ties"):
            FullWeights.between(original, other, provenance())


def test_a_delta_that_does_not_lead_to_the_promised_result_is_refused(original, artifact):
    name = "lm_head.weight"
    artifact.delta[name] = artifact.delta[name] ^ 1
    with pytest.raises(ArtifactError, match="came out with digest"):
        artifact.apply(original)
    artifact.delta[name] = artifact.delta[name][:-1]
    with pytest.raises(ArtifactError, match="does not fit the model"):
        artifact.apply(original)


@pytest.mark.parametrize("name", ["delta.safetensors", "artifact.json"])
def test_one_flipped_bit_in_a_file_is_noticed(saved, name):
    content = bytearray((saved / name).read_bytes())
    at = content.index(b"by-hand") if name == "artifact.json" else len(content) // 2
    content[at] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name}.*damaged"):
        Artifact.load(saved)


def test_an_artifact_of_an_older_version_opens_without_the_fields_it_did_not_have(saved, original):
    file = saved / "artifact.json"
    written = json.loads(file.read_text())
    del written["provenance"]["sweep"], written["provenance"]["strength"]
    file.write_text(json.dumps(written | {"checksum": checksum_of(written)}))
    older = Artifact.load(saved)
    assert older.provenance.strength == 1 and older.provenance.sweep == ()
    assert same(bits(older.revert(older.apply(original))), bits(original))


def test_missing_files_and_folders_are_named(saved, tmp_path):
    (saved / "delta.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"lacks delta\.safetensors"):
        Artifact.load(saved)
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match=r"has no artifact\.json"):
            Artifact.load(place)


def rewrite(folder, **changes):
    """Changes the manifest and makes its checksum right again, as someone careful would."""
    manifest = Manifest.model_validate_json((folder / "artifact.json").read_bytes())
    manifest = manifest.model_copy(update=changes)
    manifest = manifest.model_copy(update={"checksum": manifest.computed_checksum()})
    (folder / "artifact.json").write_text(manifest.model_dump_json())


def test_an_unknown_kind_or_schema_or_field_is_refused(saved):
    rewrite(saved, kind="spell")
    with pytest.raises(ArtifactError, match=r"unknown kind 'spell'; known: .*full-weights"):
        Artifact.load(saved)
    written = json.loads((saved / "artifact.json").read_text())
    for change, field in (({"schema_version": "9"}, "schema_version"), ({"x": 1}, "x")):
        content = written | change
        (saved / "artifact.json").write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match=f"does not read: {field}"):
            Artifact.load(saved)
    (saved / "artifact.json").write_text("{")
    with pytest.raises(ArtifactError, match="does not read"):
        Artifact.load(saved)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/file", "forget_set.key"])
def test_a_manifest_cannot_reach_outside_its_folder(saved, name):
    rewrite(saved, files={name: "0" * 64})
    with pytest.raises(ArtifactError, match="outside its own folder"):
        Artifact.load(saved)


def test_a_payload_that_is_not_safetensors_is_refused(saved):
    (saved / "delta.safetensors").write_bytes(b"not tensors")
    rewrite(saved, files={"delta.safetensors": hashlib.sha256(b"not tensors").hexdigest()})
    with pytest.raises(ArtifactError, match="does not read as safetensors"):
        Artifact.load(saved)


def test_the_key_ties_artifact_and_forget_set_until_it_is_deleted(original, artifact, saved):
    everything = b"".join(file.read_bytes() for file in saved.iterdir())
    assert SET_DIGEST.encode() not in everything
    assert oct((saved / "forget_set.key").stat().st_mode)[-3:] == "600"
    loaded = Artifact.load(saved)
    assert loaded.concerns(SET_DIGEST)
    assert not loaded.concerns("0" * 64)
    (saved / "forget_set.key").unlink()
    shredded = Artifact.load(saved)
    assert same(bits(shredded.apply(original)), bits(artifact.apply(original)))
    with pytest.raises(ArtifactError, match="cannot be tied to a forget set"):
        shredded.concerns(SET_DIGEST)


def test_a_damaged_key_is_named(saved):
    (saved / "forget_set.key").write_text("zz")
    with pytest.raises(ArtifactError, match=r"forget_set\.key is damaged"):
        Artifact.load(saved)


def test_two_artifacts_of_one_forget_set_have_different_hashes(original, changed):
    one, two = (
        FullWeights.between(original, changed, provenance(), forget_set_digest=SET_DIGEST)
        for _ in range(2)
    )
    assert one.provenance.forget_set_hash != two.provenance.forget_set_hash


def test_the_keyed_hash_is_hmac_sha256_by_its_definition():
    key = b"k" * 64
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + SET_DIGEST.encode()).digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).hexdigest()
    assert keyed_hash(SET_DIGEST, key) == outer


def snapshot(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(params=["exchange", "two renames"])
def way_of_replacing(request, monkeypatch):
    if request.param == "two renames":
        monkeypatch.setattr(atomic_folder.ctypes, "CDLL", lambda name: object())


@pytest.mark.usefixtures("way_of_replacing")
def test_saving_replaces_an_older_artifact_and_leaves_nothing_beside_it(original, saved):
    newer = FullWeights.between(original, original.copy(), provenance(seed=9))
    newer.save(saved)
    assert Artifact.load(saved).provenance.seed == 9
    assert {file.name for file in saved.iterdir()} == {"artifact.json", "delta.safetensors"}
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("over_an_older_one", [True, False])
@pytest.mark.parametrize("failing", ["save_file", "sha256_of"])
def test_a_save_that_fails_leaves_everything_as_it_was(
    artifact, tmp_path, monkeypatch, failing, over_an_older_one
):
    target = tmp_path / "artifact"
    if over_an_older_one:
        artifact.save(target)
    before = snapshot(target) if over_an_older_one else None

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        artifact.save(target)
    assert list(tmp_path.iterdir()) == ([target] if over_an_older_one else [])
    assert before is None or snapshot(target) == before


def test_a_failed_second_rename_brings_the_older_artifact_back(artifact, saved, monkeypatch):
    before = snapshot(saved)
    monkeypatch.setattr(atomic_folder.ctypes, "CDLL", lambda name: object())
    rename = os.rename

    def fail_into_place(source, target, **_):
        if str(source).endswith(".partial"):
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_into_place)
    with pytest.raises(OSError, match="no"):
        artifact.save(saved)
    assert snapshot(saved) == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_folder_that_is_not_only_an_artifact_is_not_overwritten(artifact, saved, tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    (saved / "notes.txt").write_text("mine")
    for target, reason in (
        (thesis, "holds something that is not an artifact"),
        (saved, r"also holds notes\.txt"),
        (thesis / "chapter.txt", "is a file"),
    ):
        with pytest.raises(ArtifactError, match=reason):
            artifact.save(target)
    assert snapshot(thesis) == {"chapter.txt": b"years of work"}
    assert (saved / "notes.txt").read_text() == "mine"


def test_saving_into_an_empty_or_a_deep_new_folder_works(artifact, tmp_path):
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        artifact.save(target)
        assert Artifact.load(target).provenance == artifact.provenance


def test_saving_twice_writes_the_same_bytes(artifact, tmp_path):
    artifact.save(tmp_path / "one")
    artifact.save(tmp_path / "two")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_new_kind_is_saved_and_loaded_without_touching_the_others(
    original, tmp_path, monkeypatch
):
    monkeypatch.setattr(Artifact, "KINDS", dict(Artifact.KINDS))

    class Note(Artifact):
        kind = "note"
        threat_model = "served-only"

        def apply(self, model):
            return model.copy()

        revert = apply

        def write_payload(self, folder):
            save_file({"note": torch.arange(3)}, folder / "note.safetensors")

        @classmethod
        def read_payload(cls, folder, provenance, forget_set_key):
            assert load_file(folder / "note.safetensors")["note"].tolist() == [0, 1, 2]
            return cls(provenance, forget_set_key)

    Note(provenance()).save(tmp_path / "note")
    loaded = Artifact.load(tmp_path / "note")
    assert type(loaded) is Note and loaded.threat_model == "served-only"
    with pytest.raises(ValueError, match="registered twice"):
        type("Other", (FullWeights,), {"kind": "note"})
