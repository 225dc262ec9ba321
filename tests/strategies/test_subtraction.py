"""Forgetting by subtraction, end to end on a model that learned invented people by heart."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from unlearn.adapter import Adapter
from unlearn.artifact import Artifact, FullWeights
from unlearn.errors import ArtifactError, ConfigError, InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies import forget
from unlearn.strategies.peft_modules import attach
from unlearn.strategies.subtraction import Subtraction, SubtractionConfig
from unlearn.types import Record, Sites

IDS = torch.tensor([[1, 3, 5, 7]])
FAST: dict[str, Any] = {
    "learning_rate": 3e-3,
    "warmup_steps": 0,
    "max_steps": 20,
    "retain_ceiling": 2.0,
}


@pytest.fixture(scope="module")
def _trained(unsure: LanguageModel) -> LanguageModel:
    """What ``model`` is here: an adapter can hardly sharpen the one of the other tests."""
    return unsure


def subtracted(
    model: LanguageModel, forget_set: ForgetSet, sites: Sites | None = None, **settings: Any
) -> Adapter:
    config = SubtractionConfig(**{**FAST, **settings})
    return Subtraction(config).forget(model, forget_set, sites)


def nll(model: LanguageModel, records: Sequence[Record]) -> float:
    return float(np.mean([scored.nll_per_token for scored in score(model, records)]))


def beside(model: LanguageModel, folder: Path) -> torch.Tensor:
    """What plain peft gives with the adapter beside the weights."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        network = PeftModel.from_pretrained(model.copy().model, folder).eval()
        logits: torch.Tensor = network(IDS).logits
    return logits


def logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.model(IDS).logits
    return found


def right(model: LanguageModel, records: Sequence[Record]) -> float:
    return float(np.mean([scored.correct for scored in score(model, records)]))


@pytest.fixture(scope="module")
def artifact(_trained: LanguageModel, forget_set: ForgetSet) -> Adapter:
    return subtracted(_trained, forget_set)


def test_what_was_subtracted_is_not_known_any_more_and_the_rest_stays(
    model: LanguageModel, forget_set: ForgetSet, artifact: Adapter
) -> None:
    unlearned = artifact.apply(model)
    assert right(model, forget_set.forget) == 1.0
    assert nll(unlearned, forget_set.forget) > 10 * nll(model, forget_set.forget)
    assert right(unlearned, forget_set.forget) <= 0.5
    assert right(unlearned, forget_set.retain) >= 0.85
    provenance = artifact.provenance
    assert "trained for 20 steps; " in provenance.stop_reason
    assert provenance.strength > 0
    applied = provenance.steps[-1]
    assert applied["applied"]
    assert applied["forget_nll_mean"] == pytest.approx(nll(unlearned, forget_set.forget), rel=1e-3)


def test_training_makes_the_module_know_better_and_its_negative_know_less(
    artifact: Adapter,
) -> None:
    steps = [step for step in artifact.provenance.steps if "forget_loss" in step]
    assert steps[0]["forget_loss"] == pytest.approx(1.0, rel=1e-4)  # each over its own start
    assert steps[-1]["forget_loss"] < 0.9
    slope = next(step for step in artifact.provenance.steps if "slope_at_0" in step)
    assert slope["slope_at_0"] > 0
    by_strength = {
        entry["strength"]: entry["forget_nll_mean"] for entry in artifact.provenance.sweep
    }
    assert by_strength[0.0] < by_strength[0.5] < by_strength[1.0]


def test_the_folder_opens_in_plain_peft_and_gives_what_apply_gives(
    model: LanguageModel, artifact: Adapter, tmp_path: Path
) -> None:
    artifact.save(tmp_path / "artifact")
    found = beside(model, tmp_path / "artifact")
    merged = logits(Artifact.load(tmp_path / "artifact").apply(model))
    torch.testing.assert_close(found, merged, atol=1e-4, rtol=1e-4)
    assert (merged - logits(model)).abs().max() > 0.1
    config = json.loads((tmp_path / "artifact" / "adapter_config.json").read_text())
    assert config["lora_dropout"] == 0
    assert config["base_model_name_or_path"] is None


def test_revert_gives_the_base_bit_for_bit(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    model.save(tmp_path / "base")
    base = LanguageModel.load(tmp_path / "base")
    artifact = subtracted(base, forget_set, max_steps=5, strength=1.0)
    assert artifact.revert(artifact.apply(base)).digest == base.digest


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_generators_alone(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    for name in ("one", "two"):
        subtracted(model, forget_set, max_steps=3, strength=1.0).save(tmp_path / name)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert torch.equal(torch.get_rng_state(), state)


def test_twice_the_strength_is_twice_the_change(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    base = model.model.get_parameter(name)
    changes = [
        subtracted(model, forget_set, max_steps=5, strength=s)
        .apply(model)
        .model.get_parameter(name)
        - base
        for s in (1.0, 2.0)
    ]
    torch.testing.assert_close(changes[1], 2 * changes[0], rtol=1e-3, atol=1e-6)


def test_records_that_are_known_best_learn_as_much_only_where_records_are_weighed(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    first = {
        weighting: subtracted(
            model, forget_set, weighting=weighting, max_steps=2, strength=1.0
        ).provenance.steps[1]["forget_loss"]
        for weighting in ("record", "none")
    }
    sums = [-float(scored.logprobs.sum()) for scored in score(model, forget_set.forget)]
    assert first["record"] == pytest.approx(1.0, rel=1e-4)
    assert first["none"] == pytest.approx(np.mean(sums), rel=1e-3)


def test_sites_restrict_where_the_adapter_sits(model: LanguageModel, forget_set: ForgetSet) -> None:
    sites = Sites(
        method="by hand",
        layers=(0, 1),
        modules=("model.layers.1.mlp", "model.layers.2.mlp", "model.layers.0.self_attn.q_proj"),
    )
    changed = subtracted(model, forget_set, sites, max_steps=3, strength=1.0).apply(model)
    moved = {
        name
        for name, before in model.model.named_parameters()
        if not torch.equal(before, changed.model.get_parameter(name))
    }
    assert moved == {
        "model.layers.0.self_attn.q_proj.weight",
        *(f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }


def test_without_sites_every_linear_module_of_the_blocks_is_adapted_and_nothing_else(
    model: LanguageModel, artifact: Adapter
) -> None:
    changed = artifact.apply(model)
    moved = {
        name
        for name, before in model.model.named_parameters()
        if not torch.equal(before, changed.model.get_parameter(name))
    }
    assert moved == {n for n, p in model.model.named_parameters() if "layers" in n and p.ndim == 2}


def test_a_site_without_a_linear_module_is_refused(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    sites = Sites(method="by hand", modules=("model.layers.0.input_layernorm", "model.layers.1"))
    with pytest.raises(UnsupportedError, match="input_layernorm holds no linear module"):
        subtracted(model, forget_set, sites)


def test_a_token_mask_says_what_is_learned(model: LanguageModel, forget_set: ForgetSet) -> None:
    record = forget_set.forget[0]
    encoding = model.encode(record.prompt, record.completion)
    last = len(encoding.ids) - 1
    one = replace(forget_set, forget=(record,))
    scored = score(model, [record])[0]
    loss = subtracted(
        model, one, Sites(method="by hand", token_mask={record.id: (last,)}),
        weighting="none", max_steps=1, strength=1.0,
    ).provenance.steps[1]["forget_loss"]  # fmt: skip
    assert loss == pytest.approx(-float(scored.logprobs[-1]), rel=1e-3)


def test_a_weight_mask_is_refused(model: LanguageModel, forget_set: ForgetSet) -> None:
    sites = Sites(method="by hand", weight_mask={"model.layers.0.mlp.up_proj.weight": (1,)})
    with pytest.raises(UnsupportedError, match="weight_mask"):
        subtracted(model, forget_set, sites)


def test_a_module_that_leads_nowhere_is_refused_with_what_was_measured(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"])
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        get_peft_model(model.copy().model, config).save_pretrained(tmp_path / "idle")
    with pytest.raises(UnsupportedError, match=r"does not lead away.*changes by 0 per unit"):
        subtracted(model, forget_set, adapter=tmp_path / "idle")


def test_a_sweep_that_does_not_reach_keeps_the_best_and_says_so(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    artifact = subtracted(model, forget_set, retain_ceiling=0.0, max_steps=5)
    provenance = artifact.provenance
    assert "no strength of the change forgets everything" in provenance.stop_reason
    inside = [e for e in provenance.sweep if e["retain_nll"] <= provenance.sweep[0]["retain_nll"]]
    assert provenance.strength == min(inside, key=lambda e: e["gap"])["strength"]


def test_scales_are_subtracted_too(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    artifact = subtracted(model, forget_set, variant="ia3", learning_rate=2e-2, retain_ceiling=1.0)
    unlearned = artifact.apply(model)
    assert nll(unlearned, forget_set.forget) > 3 * nll(model, forget_set.forget)
    assert right(unlearned, forget_set.retain) >= 0.9
    artifact.save(tmp_path / "artifact")
    config = IA3Config.from_pretrained(tmp_path / "artifact")
    assert all(name.endswith("down_proj") for name in config.feedforward_modules)
    found = beside(model, tmp_path / "artifact")
    torch.testing.assert_close(found, logits(unlearned), atol=1e-4, rtol=1e-4)


def test_what_an_expert_on_the_retain_records_does_too_is_not_subtracted(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    fractions: list[float] = []
    config = SubtractionConfig(**FAST, variant="ext-sub")
    artifact = Subtraction(config).forget(
        model, forget_set, progress=lambda _, fraction: fractions.append(fraction)
    )
    assert fractions == sorted(fractions) and fractions[-1] == 1
    (entry,) = [step for step in artifact.provenance.steps if "unshared" in step]
    assert 0 < entry["unshared"] < 1
    assert entry["cut_off"] < 1e-6
    assert artifact.config["r"] == 2 * 16
    assert nll(artifact.apply(model), forget_set.forget) > 10 * nll(model, forget_set.forget)


def test_an_expert_needs_retain_records(model: LanguageModel, forget_set: ForgetSet) -> None:
    with pytest.raises(UnsupportedError, match=r"retain\.jsonl"):
        subtracted(model, replace(forget_set, retain=()), variant="ext-sub")


def requests(forget_set: ForgetSet) -> list[ForgetSet]:
    """The two people of the forget set, one request each."""
    people = sorted({record.subject for record in forget_set.forget})
    return [
        replace(forget_set, forget=tuple(r for r in forget_set.forget if r.subject == person))
        for person in people
    ]


@pytest.fixture(scope="module")
def first(
    _trained: LanguageModel, forget_set: ForgetSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("first") / "artifact"
    subtracted(_trained, requests(forget_set)[0], strength=1.0).save(folder)
    return folder


def rows(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t.double() for name, t in tensors.items() if "lora_A" in name}


def test_the_rows_of_a_later_adapter_are_orthogonal_to_those_of_an_earlier_one(
    model: LanguageModel, forget_set: ForgetSet, first: Path
) -> None:
    def overlap(**settings: Any) -> float:
        later = subtracted(
            model, requests(forget_set)[1], max_steps=10, strength=1.0, **settings
        ).tensors
        earlier = load_file(first / "adapter_model.safetensors")
        return max(
            float((down @ before.T).abs().max() / (down.norm() * before.norm()))
            for before, down in zip(rows(earlier).values(), rows(later).values(), strict=True)
        )

    assert overlap(orthogonal_to=str(first)) < 1e-6
    assert overlap() > 1e-2


def test_earlier_adapters_that_leave_no_room_are_an_error(
    model: LanguageModel, forget_set: ForgetSet, first: Path
) -> None:
    with pytest.raises(UnsupportedError, match="leave 32 of 48 directions"):
        subtracted(model, forget_set, rank=33, orthogonal_to=str(first))


def test_merging_by_cat_adds_up_the_changes(
    model: LanguageModel, forget_set: ForgetSet, first: Path
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    second = {"max_steps": 5, "strength": 1.0}
    before = model.model.get_parameter(name)
    parts = [
        made.apply(model).model.get_parameter(name) - before
        for made in (Artifact.load(first), subtracted(model, requests(forget_set)[1], **second))
    ]
    both = subtracted(model, requests(forget_set)[1], merge_with=f"{first},", **second)
    change = both.apply(model).model.get_parameter(name) - before
    torch.testing.assert_close(change, parts[0] + parts[1], rtol=1e-3, atol=1e-6)
    assert "merged with 1 earlier artifacts (cat)" in both.provenance.stop_reason


@pytest.mark.parametrize("merge", ["ties", "ties_svd"])
def test_merging_by_ties_keeps_both_people_forgotten_to_some_degree(
    model: LanguageModel, forget_set: ForgetSet, first: Path, merge: str
) -> None:
    merged = subtracted(model, requests(forget_set)[1], merge_with=str(first), merge=merge)
    unlearned = merged.apply(model)
    for request in requests(forget_set):
        assert nll(unlearned, request.forget) > 1.5 * nll(model, request.forget)


def test_an_earlier_artifact_of_another_base_or_kind_is_refused(
    model: LanguageModel,
    untrained: LanguageModel,
    forget_set: ForgetSet,
    first: Path,
    tmp_path: Path,
) -> None:
    loaded = Artifact.load(first)
    loaded.provenance = loaded.provenance.model_copy(update={"base_digest": "0" * 64})
    loaded.save(tmp_path / "other")
    with pytest.raises(ArtifactError, match="was not made on"):
        subtracted(model, forget_set, max_steps=1, merge_with=str(tmp_path / "other"))
    FullWeights({}, loaded.provenance).save(tmp_path / "full")
    with pytest.raises(InputError, match="'full-weights'; only adapters"):
        subtracted(model, forget_set, max_steps=1, orthogonal_to=str(tmp_path / "full"))


@pytest.mark.parametrize("setting", [{"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}])
def test_a_given_adapter_that_cannot_be_negated_is_refused(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path, setting: dict[str, bool]
) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], **setting)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        get_peft_model(model.copy().model, config).save_pretrained(tmp_path / "given")
    with pytest.raises(UnsupportedError, match=rf"sets {next(iter(setting))}"):
        subtracted(model, forget_set, adapter=tmp_path / "given")


def test_a_given_adapter_is_negated_without_training(
    model: LanguageModel, forget_set: ForgetSet, artifact: Adapter, tmp_path: Path
) -> None:
    # The artifact negated once more knows the forget records better, so it can be given.
    back = Adapter(artifact.config, dict(artifact.tensors), artifact.provenance)
    back.tensors = {n: -t if "lora_A" in n else t for n, t in artifact.tensors.items()}
    back.save(tmp_path / "given")
    again = subtracted(model, forget_set, adapter=str(tmp_path / "given"), strength=1.0)
    assert "given, not trained" in again.provenance.stop_reason
    difference = nll(again.apply(model), forget_set.forget)
    assert difference == pytest.approx(nll(artifact.apply(model), forget_set.forget), rel=1e-3)


def test_a_narrow_base_is_trained_in_float32_and_the_merge_is_rounded_once(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    narrow = model.copy()
    narrow.model.bfloat16()
    narrow.changed()
    artifact = subtracted(narrow, forget_set, max_steps=5, strength=1.0)
    assert all(t.dtype == torch.float32 for t in artifact.tensors.values())
    merged = artifact.apply(narrow)
    for name, before in narrow.model.named_parameters():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in artifact.tensors:
            factors = (artifact.tensors[f"{module}.lora_{part}.weight"] for part in "BA")
            scaling = artifact.config["lora_alpha"] / artifact.config["r"]
            up, down = factors
            wanted = (before.float() + scaling * (up @ down)).bfloat16()
            assert torch.equal(merged.model.get_parameter(name), wanted)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"variant": "ia3", "merge_with": "a"}, "low-rank"),
        ({"variant": "ext-sub", "adapter": "a"}, "nothing is trained"),
        ({"strength": "0"}, "strength"),
        ({"merge": "linear"}, "merge"),
        ({"retain": "kl"}, "no setting"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    model: LanguageModel, forget_set: ForgetSet, settings: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        forget(model, forget_set, strategy="subtraction", settings=settings)


def test_what_peft_refuses_is_an_error_in_a_sentence(untrained: LanguageModel) -> None:
    with pytest.raises(UnsupportedError, match=r"peft has no adapter for tiny: .*nowhere"):
        attach(untrained, LoraConfig(target_modules=["nowhere"]), "module", seed=0)
