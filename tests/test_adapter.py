"""Adapters: W + scale B A by hand, the same from disk, and every adapter that cannot be merged."""

import hashlib
import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_artifact import SET_DIGEST, bits, build, changed_copy, provenance, same

from unlearn.adapter import Adapter
from unlearn.artifact import Artifact
from unlearn.errors import ArtifactError
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.types import Statement

TARGETS = ["q_proj", "down_proj"]
IDS = torch.tensor([[0, 1, 2, 1, 0]])


def trained(model, folder, **settings):
    """An adapter folder as peft writes it, with a LoRA that does something."""
    config = LoraConfig(**({"r": 2, "lora_alpha": 6, "target_modules": TARGETS} | settings))
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(5)
        network = get_peft_model(model.copy().model, config)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        network.save_pretrained(folder)
    return folder


def changed_config(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def original(tmp_path):
    """A model that is also on disk, where its source says."""
    build().save(tmp_path / "base")
    return LanguageModel.load(tmp_path / "base")


@pytest.fixture
def folder(original, tmp_path):
    return trained(original, tmp_path / "adapter")


@pytest.fixture
def saved(original, folder, tmp_path):
    made = Adapter.on(original, folder, provenance(), forget_set_digest=SET_DIGEST)
    made.save(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_apply_adds_scale_b_a_to_the_targets_and_to_nothing_else(original, folder, saved):
    lora = load_file(folder / "adapter_model.safetensors")
    applied = Artifact.load(saved).apply(original)
    after = applied.model.state_dict()
    n_changed = 0
    for name, before in original.model.state_dict().items():
        module = name.removesuffix(".weight")
        down = lora.get(f"base_model.model.{module}.lora_A.weight")
        if down is None:
            assert torch.equal(after[name], before), name
            continue
        up = lora[f"base_model.model.{module}.lora_B.weight"]
        torch.testing.assert_close(after[name], before + 6 / 2 * up @ down)
        assert not torch.equal(after[name], before)
        n_changed += 1
    assert n_changed == 4


def logits_beside(model, folder):
    """What peft itself gives with the adapter beside the weights."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model.copy().model, folder).eval()(IDS).logits


def logits_of(model):
    with torch.no_grad():
        return model.model(IDS).logits


def test_the_merged_model_gives_what_peft_gives_with_the_adapter_beside_it(original, folder, saved):
    found = logits_of(Artifact.load(saved).apply(original))
    torch.testing.assert_close(found, logits_beside(original, folder), atol=1e-5, rtol=1e-5)
    assert (found - logits_of(original)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 1}}]
)
def test_other_loras_are_merged_as_peft_has_them_beside_the_weights(original, tmp_path, settings):
    folder = trained(original, tmp_path / "other", **settings)
    found = logits_of(Adapter.on(original, folder, provenance()).apply(original))
    torch.testing.assert_close(found, logits_beside(original, folder), atol=1e-5, rtol=1e-5)


def test_the_result_is_a_plain_model_that_saves_loads_and_trains(original, saved, tmp_path):
    artifact = Artifact.load(saved)
    applied = artifact.apply(original)
    assert type(applied.model) is type(original.model)
    assert applied.digest == artifact.provenance.result_digest
    applied.save(tmp_path / "merged")
    assert LanguageModel.load(tmp_path / "merged").digest == applied.digest
    assert all(p.requires_grad for p in applied.model.parameters())
    assert applied.anatomy == original.anatomy
    assert score(applied, [Statement(prompt="a b", answer="a")])[0].logprobs.size == 1


def test_neither_the_model_nor_the_random_numbers_are_touched(original, folder, saved):
    before, state = bits(original), torch.random.get_rng_state()
    artifact = Artifact.load(saved)
    artifact.revert(artifact.apply(original))
    Adapter.on(original, folder, provenance())
    assert same(bits(original), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.requires_grad for p in original.model.parameters())


def test_revert_reads_the_base_again_bit_for_bit(original, saved):
    artifact = Artifact.load(saved)
    back = artifact.revert(artifact.apply(original))
    assert same(bits(back), bits(original)) and back.digest == original.digest


def test_revert_refuses_what_is_not_the_result(original, saved):
    artifact = Artifact.load(saved)
    for model in (original, changed_copy(artifact.apply(original))):
        with pytest.raises(ArtifactError, match="is not what this adapter makes"):
            artifact.revert(model)


def test_revert_without_the_base_says_to_take_the_model_from_before(original, saved, tmp_path):
    artifact = Artifact.load(saved)
    applied = artifact.apply(original)
    changed_copy(original).save(tmp_path / "base")
    with pytest.raises(ArtifactError, match="fits a model with digest"):
        artifact.revert(applied)
    (tmp_path / "base").rename(tmp_path / "away")
    with pytest.raises(ArtifactError, match=r"keeps no copy of its base.*model from before"):
        artifact.revert(applied)


def test_revert_never_asks_a_hub_for_a_base_that_was_never_on_disk(tmp_path):
    model = build()
    model.source = "memory"
    artifact = Adapter.on(model, trained(model, tmp_path / "adapter"), provenance())
    with pytest.raises(ArtifactError, match="never on disk"):
        artifact.revert(artifact.apply(model))


def test_another_base_is_refused(original, saved):
    with pytest.raises(ArtifactError, match="fits a model with digest"):
        Artifact.load(saved).apply(changed_copy(original))


def test_the_artifact_is_a_peft_folder_and_tied_to_its_forget_set(original, folder, saved):
    artifact = Artifact.load(saved)
    assert type(artifact) is Adapter
    assert (artifact.threat_model, artifact.limits) == ("weights", ())
    assert artifact.concerns(SET_DIGEST) and not artifact.concerns("0" * 64)
    kept, given = (load_file(f / "adapter_model.safetensors") for f in (saved, folder))
    assert kept.keys() == given.keys() and all(torch.equal(kept[k], given[k]) for k in kept)
    assert LoraConfig.from_pretrained(saved).target_modules == set(TARGETS)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_changed_or_missing_file_is_detected(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="is damaged"):
        Artifact.load(saved)
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"lacks {name}"):
        Artifact.load(saved)


def test_saving_twice_writes_the_same_bytes(saved, tmp_path):
    Artifact.load(saved).save(tmp_path / "again")
    digests = [
        {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in place.iterdir()}
        for place in (saved, tmp_path / "again")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"peft_type": "VERA"}, "not that of a LoRA"),
        ({"peft_type": None}, "not that of a LoRA"),
        ({"init_lora_weights": "pissa"}, "started with 'pissa'"),
        ({"use_wormhole": True}, "sets 'use_wormhole'"),
        ({"target_modules": ["nowhere"]}, "does not merge into"),
        ({"target_modules": ["q_proj"]}, "fits nothing"),
        ({"target_modules": [*TARGETS, "v_proj"]}, "lacks .*v_proj"),
        ({"r": 3}, "does not merge into"),
        ({"target_modules": [*TARGETS, "lm_head"]}, "shares"),
    ],
)
def test_an_adapter_that_cannot_be_merged_faithfully_is_refused(original, folder, fields, reason):
    changed_config(folder, **fields)
    before = bits(original)
    with pytest.raises(ArtifactError, match=reason):
        Adapter.on(original, folder, provenance())
    assert same(bits(original), before)


def test_an_adapter_that_unties_weights_is_refused(original, tmp_path):
    folder = trained(original, tmp_path / "untying", modules_to_save=["lm_head"])
    with pytest.raises(ArtifactError, match="more than the values"):
        Adapter.on(original, folder, provenance())


def test_a_lora_that_is_not_finite_is_refused(original, folder):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match="does not merge"):
        Adapter.on(original, folder, provenance())


@pytest.mark.parametrize("damage", ["no config", "no weights", "bad config", "bad weights"])
def test_a_folder_that_is_no_adapter_is_named(original, folder, damage):
    what, name = damage.split()
    file = folder / {"config": "adapter_config.json"}.get(name, "adapter_model.safetensors")
    file.unlink() if what == "no" else file.write_bytes(b"[")
    with pytest.raises(ArtifactError, match="does not read as a peft adapter"):
        Adapter.on(original, folder, provenance())
