"""Training from the lowest trained block on: the same outputs and gradients, and less work."""

import pytest
import torch

from unlearn.forget_set import ForgetSet
from unlearn.model.batches import collate, encode
from unlearn.model.hooks import capture
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.frozen_prefix import FrozenPrefix, lowest_trained
from unlearn.strategies.gradient_ascent import GradientAscent, GradientAscentConfig
from unlearn.strategies.predictions import run
from unlearn.strategies.sites import find_scope
from unlearn.types import Sites

UPPER = Sites(method="by hand", layers=(1, 2))


def gradients(model: LanguageModel, rows: object) -> dict[str, torch.Tensor]:
    scope = find_scope(model, UPPER)
    loss = run(model.model, rows).label_logprobs.square().sum()  # type: ignore[arg-type]
    found = torch.autograd.grad(loss, list(scope.trainable.values()))
    return dict(zip(scope.trainable, found, strict=True))


@pytest.mark.parametrize("memory", [2**30, 0])
def test_gradients_are_those_of_the_whole_run(
    untrained: LanguageModel, forget_set: ForgetSet, memory: int
) -> None:
    encodings = encode(untrained, (*forget_set.forget, *forget_set.retain))
    prefix = FrozenPrefix(untrained, 1, encodings, memory)
    assert (prefix.kept.folder is None) == bool(memory)
    rows = collate(encodings, [5, 0, 17, 30], "answer")
    whole = gradients(untrained, rows)
    with prefix.skipped(), capture(untrained.model, ["model.layers.0.mlp"]) as ran:
        found = gradients(untrained, rows)
    assert not list(ran)
    for name, gradient in whole.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), name


def test_a_batch_with_an_unknown_text_runs_whole(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    encodings = encode(untrained, forget_set.forget)
    prefix = FrozenPrefix(untrained, 2, encodings[:3], 2**30)
    rows = collate(encodings, [0, 4], "answer")
    with torch.no_grad():
        wanted = run(untrained.model, rows).logprobs
        with prefix.skipped(), capture(untrained.model, ["model.layers.0.mlp"]) as ran:
            found = run(untrained.model, rows).logprobs
    assert list(ran) and torch.equal(found, wanted)


def test_blocks_and_hooks_are_as_they_were_also_after_an_error(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    prefix = FrozenPrefix(untrained, 1, encode(untrained, forget_set.forget), 2**30)
    with pytest.raises(ZeroDivisionError), prefix.skipped():
        raise ZeroDivisionError
    assert not untrained.model._forward_pre_hooks
    assert all("forward" not in block.__dict__ for block in untrained.model.model.layers)


def test_the_lowest_block_that_trains(model: LanguageModel) -> None:
    def lowest(*names: str) -> int:
        return lowest_trained(model, names)

    assert lowest("model.layers.2.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight") == 1
    assert lowest("model.norm.weight") == 3
    assert lowest("model.layers.2.mlp.up_proj.weight", "model.embed_tokens.weight") == 0


def test_forgetting_gives_the_same_weights_with_and_without(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = GradientAscent(GradientAscentConfig(max_steps=6, retain="kl"))
    skipped = strategy.forget(model, forget_set, UPPER).apply(model)
    monkeypatch.setattr("unlearn.strategies.matching.lowest_trained", lambda *_: 0)
    whole = strategy.forget(model, forget_set, UPPER).apply(model)
    for name, parameter in whole.model.named_parameters():
        other = skipped.model.get_parameter(name)
        assert torch.allclose(parameter, other, atol=1e-5), name
