"""Every kind of artifact on the command line: audited all, applied only what weights can hold."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from peft import LoraConfig, get_peft_model

from unlearn.adapter import Adapter
from unlearn.artifact import Provenance
from unlearn.forget_set import ForgetSet
from unlearn.inference_policy import InferencePolicy
from unlearn.model.gates import TermGate
from unlearn.model.language_model import LanguageModel
from unlearn.model.prompt_policy import PromptPolicy
from unlearn.model.terms import Terms
from unlearn.model.widening import Neurons, find_mlp
from unlearn.patch_neurons import PatchNeurons

Run = Callable[..., Result]
BY_HAND = Provenance(strategy="by-hand")


@pytest.fixture
def policy(knowing: str, forget_set: ForgetSet, tmp_path: Path) -> Path:
    model = LanguageModel.load(knowing)
    words = PromptPolicy(gate=TermGate(terms=Terms.of(["Ada"])), guard="The birthplace is ")
    made = InferencePolicy.on(model, words, BY_HAND, forget_set_digest=forget_set.digest)
    made.save(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def adapter(knowing: str, forget_set: ForgetSet, tmp_path: Path) -> Path:
    model = LanguageModel.load(knowing)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False)
        get_peft_model(model.copy().model, config).save_pretrained(tmp_path / "lora")
    made = Adapter.on(model, tmp_path / "lora", BY_HAND, forget_set_digest=forget_set.digest)
    made.save(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def neurons(knowing: str, forget_set: ForgetSet, tmp_path: Path) -> Path:
    model = LanguageModel.load(knowing)
    width = model.model.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, width)] * len(find_mlp(model, 0).reading) + [(width, 2)]
    *reading, writing = (torch.randn(shape, generator=generator) for shape in shapes)
    some = Neurons(tuple(reading), (None,) * len(reading), writing)
    made = PatchNeurons.on(model, 0, some, BY_HAND, forget_set_digest=forget_set.digest)
    made.save(tmp_path / "neurons")
    return tmp_path / "neurons"


def audited(run: Run, artifact: Path, births: str, out: Path) -> dict[str, object]:
    result = run("audit", artifact, births, "-o", out, "--json", "--probes", "probability")
    document: dict[str, object] = json.loads(result.stdout)
    return document


def test_a_policy_is_audited_and_the_audit_says_that_it_is_served_only(
    run: Run, policy: Path, births: str, tmp_path: Path
) -> None:
    document = audited(run, policy, births, tmp_path / "audit")
    assert str(document["limits"][0]).startswith("Served-only:")  # type: ignore[index]
    provenance = document["provenance"]
    assert provenance["artifact"] == "inference-policy, threat model served-only"  # type: ignore[index]
    (finding, *_) = document["findings"]  # type: ignore[misc]
    models = finding["models"]  # type: ignore[index]
    assert models["unlearned"]["value"] != models["original"]["value"]
    assert "whoever has the weights has the data" in (tmp_path / "audit" / "audit.md").read_text()


def test_a_policy_is_not_applied_since_no_weights_hold_it(
    refused: Callable[..., str], knowing: str, policy: Path, tmp_path: Path
) -> None:
    line = refused("apply", knowing, policy, "-o", tmp_path / "model")
    assert "inference-policy" in line and "no weights can hold" in line
    assert not (tmp_path / "model").exists()


def test_an_adapter_is_audited_and_applied(
    run: Run, adapter: Path, knowing: str, births: str, tmp_path: Path
) -> None:
    document = audited(run, adapter, births, tmp_path / "audit")
    assert not any("Served-only" in limit for limit in document["limits"])  # type: ignore[attr-defined]
    applied = run("apply", knowing, adapter, "-o", tmp_path / "model", "--json")
    digest = json.loads(applied.stdout)["digest"]
    assert LanguageModel.load(tmp_path / "model").digest == digest
    assert document["models"]["unlearned"]["digest"] == digest  # type: ignore[index]


def test_patch_neurons_are_audited_with_what_they_are_and_applied(
    run: Run, neurons: Path, knowing: str, births: str, tmp_path: Path
) -> None:
    document = audited(run, neurons, births, tmp_path / "audit")
    assert str(document["limits"][0]).startswith("Suppression:")  # type: ignore[index]
    provenance = document["provenance"]
    assert provenance["artifact"] == "patch, threat model weights"  # type: ignore[index]
    applied = run("apply", knowing, neurons, "-o", tmp_path / "model", "--json")
    digest = json.loads(applied.stdout)["digest"]
    assert LanguageModel.load(tmp_path / "model").digest == digest
    assert document["models"]["unlearned"]["digest"] == digest  # type: ignore[index]


@pytest.mark.parametrize("kind", ["policy", "adapter", "neurons"])
def test_forget_writes_over_an_artifact_of_another_kind_and_leaves_nothing_of_it(
    run: Run, request: pytest.FixtureRequest, kind: str, knowing: str, births: str
) -> None:
    folder: Path = request.getfixturevalue(kind)
    result = run("forget", knowing, births, "-o", folder, "--set", "max_steps=1")
    assert result.exit_code == 0, result.output
    assert {file.name for file in folder.iterdir()} == {
        "artifact.json", "delta.safetensors", "forget_set.key"
    }  # fmt: skip
