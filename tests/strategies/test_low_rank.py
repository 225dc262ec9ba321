"""Training by a LoRA: the same end, beside weights that stay as they are."""

from pathlib import Path

import peft
import pytest
import torch

from unlearn.adapter import Adapter
from unlearn.artifact import Artifact
from unlearn.errors import ArtifactError, ConfigError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel
from unlearn.registry import strategies
from unlearn.strategies import forget
from unlearn.strategies.peft_modules import unheard
from unlearn.strategies.predictions import statement_logprobs
from unlearn.strategies.trainee import Trainee, adapted
from unlearn.strategies.trainer import Unlearner
from unlearn.types import Sites

LORA = {"train": "lora", "rank": "8", "alpha": "16", "learning_rate": "3e-3"}
FEW = {**LORA, "max_steps": "3"}


def bits(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def filled(made: Trainee) -> None:
    """A LoRA that does something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.scope.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_it_reaches_the_target_of_full_training(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    full = forget(model, forget_set).provenance
    made = forget(model, forget_set, settings=LORA)
    assert isinstance(made, Adapter)
    assert made.provenance.stop_reason == full.stop_reason
    assert full.stop_reason.startswith("matched")
    last = [step for step in made.provenance.steps if "matched" in step][-1]
    assert last["matched"] == 1.0


@pytest.mark.parametrize(
    ("strategy", "variant", "rate"),
    [
        ("gradient-ascent", "npo", 3e-3),
        ("gradient-ascent", "simnpo", 1e-2),
        ("distillation", "names", 1e-2),
    ],
)
def test_a_lora_takes_a_higher_rate_unless_told(strategy: str, variant: str, rate: float) -> None:
    given = {"train": "lora", "variant": variant}
    assert strategies.create(strategy, given).config.learning_rate == pytest.approx(rate)
    told = strategies.create(strategy, {**given, "learning_rate": "1e-4"})
    assert told.config.learning_rate == 1e-4


@pytest.mark.parametrize("strategy", ["gradient-ascent", "distillation"])
def test_the_weights_have_their_bits_during_and_after(
    model: LanguageModel,
    forget_set: ForgetSet,
    strategy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, modules = bits(model), dict(model.model.named_modules())
    watched: list[int] = []
    log = Unlearner.log

    def watching(self: Unlearner, logs: dict[str, float], start_time: float | None = None) -> None:
        if "grad_norm" in logs:
            live = model.model.state_dict()
            plain = {name.replace(".base_layer", ""): live[name] for name in live}
            assert all(torch.equal(plain[name], tensor) for name, tensor in before.items())
            assert all(p.grad is None for p in model.model.parameters() if not p.requires_grad)
            trained = [name for name, p in model.model.named_parameters() if p.requires_grad]
            assert trained and all(".lora_" in name for name in trained)
            watched.append(1)
        log(self, logs, start_time)

    monkeypatch.setattr(Unlearner, "log", watching)
    made = forget(model, forget_set, strategy=strategy, settings=FEW)
    assert len(watched) == 3
    assert dict(model.model.named_modules()) == modules
    assert not hasattr(model.model, "peft_config")
    after = made.apply(model).model.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_the_original_is_the_model_without_its_adapter_exactly(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    encodings = encode(model, forget_set.retain)
    before = torch.cat(list(statement_logprobs(model, encodings, "answer")))
    with adapted(model, None, rank=4, alpha=8, seed=0) as made:
        filled(made)
        reference = torch.cat(list(statement_logprobs(made.original, encodings, "answer")))
        changed = torch.cat(list(statement_logprobs(made.work, encodings, "answer")))
        assert made.original.digest == model.digest
        copied = made.original.copy()
        copy = torch.cat(list(statement_logprobs(copied, encodings, "answer")))
    assert torch.equal(reference, before) and torch.equal(copy, before)
    assert (changed - before).abs().max() > 0.1
    assert set(copied.model.state_dict()) == set(model.model.state_dict())


@pytest.mark.parametrize("strategy", ["gradient-ascent", "distillation"])
def test_no_second_model_is_made_until_the_artifact_is(
    model: LanguageModel, forget_set: ForgetSet, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[str] = []
    copy, merged = LanguageModel.copy, Adapter.merged

    def copying(self: LanguageModel) -> LanguageModel:
        copies.append("copy")
        return copy(self)

    def merging(self: Adapter, model: LanguageModel) -> LanguageModel:
        assert not copies
        return merged(self, model)

    monkeypatch.setattr(LanguageModel, "copy", copying)
    monkeypatch.setattr(Adapter, "merged", merging)
    forget(model, forget_set, strategy=strategy, settings=FEW)
    assert copies == ["copy"]


def test_the_artifact_is_what_plain_peft_opens(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    base = LanguageModel.load(tmp_path / "model")
    made = forget(base, forget_set, settings=FEW)
    made.save(tmp_path / "made")
    loaded = Artifact.load(tmp_path / "made")
    assert loaded.apply(base).digest == made.provenance.result_digest
    network = LanguageModel.load(tmp_path / "model").model
    with unheard():
        opened = peft.PeftModel.from_pretrained(network, str(tmp_path / "made")).merge_and_unload()
    mine = loaded.apply(base).model.state_dict()
    for name, tensor in opened.state_dict().items():
        assert torch.allclose(tensor, mine[name], atol=1e-6)
    assert loaded.revert(loaded.apply(base)).digest == base.digest
    with pytest.raises(ArtifactError):
        loaded.revert(base)


def test_the_adapter_holds_the_multiple_that_was_asked_for(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    change = []
    for strength in ("1", "0.5"):
        made = forget(model, forget_set, settings={**FEW, "strength": strength})
        after, before = made.apply(model).model.state_dict(), model.model.state_dict()
        change.append(torch.cat([(after[n] - before[n]).flatten() for n in before]))
    assert change[0].abs().max() > 1e-3
    assert torch.allclose(change[1], change[0] / 2, atol=1e-6)
    sweep = {entry["strength"]: entry for entry in made.provenance.sweep}
    assert sweep[0.0]["retain_nll"] == made.provenance.steps[0]["retain_nll"]


def test_the_strength_search_finds_a_smaller_adapter(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    made = forget(model, forget_set, settings={**LORA, "strength": "search"})
    chosen = made.provenance.strength
    assert 0 < chosen < 1
    (entry,) = (entry for entry in made.provenance.sweep if entry["strength"] == chosen)
    assert entry["matched"] == 1.0


def test_only_modules_of_the_sites_are_adapted(model: LanguageModel, forget_set: ForgetSet) -> None:
    names = ("model.layers.1.mlp.down_proj", "model.layers.2.self_attn.q_proj")
    sites = Sites(method="by-hand", modules=names)
    made = forget(model, forget_set, sites=sites, settings=FEW)
    before, after = model.model.state_dict(), made.apply(model).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"{name}.weight" for name in names}


def test_lower_blocks_are_skipped_as_in_full_training(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = Sites(method="by-hand", layers=(2,))
    skipped = forget(model, forget_set, sites=sites, settings=FEW)
    monkeypatch.setattr("unlearn.strategies.matching.lowest_trained", lambda *_: 0)
    whole = forget(model, forget_set, sites=sites, settings=FEW)
    mine, its = (made.apply(model).model.state_dict() for made in (skipped, whole))
    assert all(torch.allclose(mine[name], its[name], atol=1e-5) for name in mine)


def test_what_a_low_rank_update_cannot_be_held_to_is_refused(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    masked = Sites(method="by-hand", weight_mask={"model.layers.1.mlp.down_proj.weight": (0, 5)})
    with pytest.raises(UnsupportedError, match="train=lora cannot be held to a weight mask"):
        forget(model, forget_set, sites=masked, settings=FEW)
    norms = Sites(method="by-hand", modules=("model.layers.1.input_layernorm",))
    with pytest.raises(UnsupportedError, match="holds no linear module"):
        forget(model, forget_set, sites=norms, settings=FEW)
    for weaker in ({"robust": "true"}, {"noise": "0.1"}):
        with pytest.raises(ConfigError, match="change the weights themselves"):
            strategies.create("distillation", {**FEW, **weaker})


def test_an_error_in_the_midst_leaves_the_model_as_it_was(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    modules = dict(model.model.named_modules())

    def crash(what: str, fraction: float) -> None:
        if fraction > 0.02:
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        forget(model, forget_set, settings=LORA, progress=crash)
    assert dict(model.model.named_modules()) == modules


@pytest.mark.parametrize("variant", ["rmu", "difference", "kga", "context"])
def test_variants_that_look_at_the_original_see_it(
    model: LanguageModel, forget_set: ForgetSet, variant: str
) -> None:
    strategy = "gradient-ascent" if variant == "rmu" else "distillation"
    settings = {**FEW, "variant": variant, "stop": "budget"}
    if variant in ("difference", "kga"):
        settings["assistant_steps"] = "3"
    made = forget(model, forget_set, strategy=strategy, settings=settings)
    assert isinstance(made, Adapter)
    assert made.apply(model).digest != model.digest


def test_a_narrow_model_is_judged_again_as_it_is_merged(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    narrow = model.copy()
    narrow.model.bfloat16()
    narrow.changed()
    made = forget(narrow, forget_set, settings=FEW)
    assert isinstance(made, Adapter)
    assert made.provenance.steps[-1]["rounded"] is True
    assert all(tensor.dtype == torch.float32 for tensor in made.tensors.values())
    assert made.apply(narrow).dtype == torch.bfloat16
