"""Patch neurons as an artifact: put in, saved, loaded, taken out, and refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_artifact import SET_DIGEST, bits, build, changed_copy, provenance, same
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from unlearn.artifact import Artifact
from unlearn.errors import ArtifactError
from unlearn.model.language_model import LanguageModel
from unlearn.model.widening import Neurons
from unlearn.patch_neurons import NEURONS, PatchNeurons


def some(n: int = 3, width: int = 8) -> Neurons:
    generator = torch.Generator().manual_seed(0)
    reading = tuple(torch.randn(n, width, generator=generator) for _ in range(2))
    return Neurons(reading, (None, None), torch.randn(width, n, generator=generator))


def patched(model: LanguageModel, neurons: Neurons | None = None) -> PatchNeurons:
    given = neurons or some()
    return PatchNeurons.on(model, 1, given, provenance(), forget_set_digest=SET_DIGEST)


def test_what_is_put_in_is_taken_out_bit_for_bit() -> None:
    model = build()
    artifact = patched(model)
    wide = artifact.apply(model)
    assert wide.digest == artifact.provenance.result_digest != model.digest
    assert wide.model.config.intermediate_size == model.model.config.intermediate_size + 3
    back = artifact.revert(wide)
    assert same(bits(model), bits(back))
    assert back.digest == model.digest
    assert back.model.config.to_dict() == model.model.config.to_dict()


def test_it_is_saved_and_loaded_whole_and_takes_less_room_than_a_layer(tmp_path: Path) -> None:
    model = build()
    artifact = patched(model)
    artifact.save(tmp_path / "a")
    opened = Artifact.load(tmp_path / "a")
    assert isinstance(opened, PatchNeurons) and opened.kind == "patch"
    assert opened.threat_model == "weights" and opened.concerns(SET_DIGEST)
    wide = opened.apply(model)
    assert opened.revert(wide).digest == model.digest
    assert (tmp_path / "a" / NEURONS).stat().st_size < 4 * 3 * 3 * 8 + 500


def test_the_audit_is_told_that_this_suppresses() -> None:
    assert patched(build()).limits[0].startswith("Suppression:")


def test_the_result_opens_with_plain_transformers(tmp_path: Path) -> None:
    wide = patched(model := build()).apply(model)
    wide.save(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(7)[None]
    with torch.no_grad():
        assert torch.equal(opened(input_ids=ids).logits, wide.model(input_ids=ids).logits)


def test_biases_come_along(tmp_path: Path) -> None:
    config = build().model.config
    config.mlp_bias = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LanguageModel(LlamaForCausalLM(config), build().tokenizer)
    neurons = some()._replace(biases=(torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 5, 6])))
    artifact = patched(model, neurons)
    artifact.save(tmp_path / "a")
    wide = Artifact.load(tmp_path / "a").apply(model)
    mlp = wide.model.model.layers[1].mlp
    assert mlp.gate_proj.bias[-3:].tolist() == [1, 2, 3]
    assert mlp.up_proj.bias[-3:].tolist() == [4, 5, 6]
    assert artifact.revert(wide).digest == model.digest


def test_other_models_are_refused() -> None:
    model = build()
    other = changed_copy(model)
    artifact = patched(model)
    with pytest.raises(ArtifactError, match="fits a model with digest"):
        artifact.apply(other)
    with pytest.raises(ArtifactError, match="fits a model with digest"):
        artifact.revert(model)


def test_neurons_of_another_width_are_refused() -> None:
    with pytest.raises(ArtifactError, match="the neurons do not fit tiny"):
        patched(build(), some(width=7))


def test_a_payload_that_is_not_neurons_of_one_layer_is_refused(tmp_path: Path) -> None:
    artifact = patched(build())
    artifact.save(tmp_path / "a")
    file = tmp_path / "a" / NEURONS
    tensors = load_file(file)
    for broken in ({"1.writing": tensors["1.writing"]}, {**tensors, "0.writing": torch.zeros(2)}):
        save_file(broken, file)
        with pytest.raises(ArtifactError, match="does not hold the neurons of one layer"):
            PatchNeurons.read_payload(tmp_path / "a", artifact.provenance, None)
    file.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="does not read as safetensors"):
        PatchNeurons.read_payload(tmp_path / "a", artifact.provenance, None)
    with pytest.raises(ArtifactError, match="is damaged"):
        Artifact.load(tmp_path / "a")
