"""From Sites to parameters."""

import pytest
import torch

from unlearn.errors import InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.sites import check_sites, find_scope
from unlearn.types import Sites

MLP = "model.layers.1.mlp.down_proj"


def trainable(model: LanguageModel, **parts: object) -> set[str]:
    return set(find_scope(model, Sites(method="by hand", **parts)).trainable)


def test_without_sites_everything_may_change(untrained: LanguageModel) -> None:
    names = {name for name, _ in untrained.model.named_parameters()}
    assert set(find_scope(untrained, None).trainable) == names
    assert trainable(untrained) == names
    assert "model.embed_tokens.weight" in names


def test_layers_leave_out_embeddings_and_other_layers(untrained: LanguageModel) -> None:
    found = trainable(untrained, layers=(0, 2))
    assert {untrained.anatomy.layer_of(name) for name in found} == {0, 2}


def test_a_module_stands_for_the_parameters_inside(untrained: LanguageModel) -> None:
    assert trainable(untrained, modules=(MLP,)) == {f"{MLP}.weight"}
    assert len(trainable(untrained, modules=("model.layers.1.mlp",))) == 3


def test_parts_that_are_present_all_have_to_agree(untrained: LanguageModel) -> None:
    modules = (MLP, "model.layers.2.mlp.down_proj")
    assert trainable(untrained, layers=(1,), modules=modules) == {f"{MLP}.weight"}
    with pytest.raises(UnsupportedError, match="no parameter in common"):
        trainable(untrained, layers=(0,), modules=modules)


def test_a_mask_stops_gradients_and_hooks_leave_with_the_block(untrained: LanguageModel) -> None:
    name = f"{MLP}.weight"
    scope = find_scope(untrained, Sites(method="by hand", weight_mask={name: (3, 50)}))
    with scope.applied(untrained.model):
        sum(p.square().sum() for p in untrained.model.parameters() if p.requires_grad).backward()
        gradient = untrained.model.get_parameter(name).grad
        assert gradient.flatten().nonzero().flatten().tolist() == [3, 50]
    parameter = untrained.model.get_parameter(name)
    assert parameter.grad is None and not parameter._backward_hooks
    assert all(p.requires_grad for p in untrained.model.parameters())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"layers": (3,)}, "layer 3.*0 to 2"),
        ({"modules": ("model.layers.1.mlp.downproj",)}, "down_proj"),
        ({"modules": ("model.layers.1.mlp.act_fn",)}, "no parameters"),
        ({"weight_mask": {"model.layers.1.mlp.down_proj.wieght": (0,)}}, "down_proj.weight"),
        ({"weight_mask": {"model.norm.weight": (0, 48)}}, "0 to 47"),
    ],
)
def test_what_the_model_does_not_have_is_an_error(
    untrained: LanguageModel, parts: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        trainable(untrained, **parts)


def test_a_site_that_did_not_move_is_named(untrained: LanguageModel) -> None:
    scope = find_scope(untrained, Sites(method="by hand", layers=(0, 2)))
    before = scope.snapshot()
    with pytest.raises(UnsupportedError, match="layer 0, layer 2"):
        scope.check_moved(before)
    with torch.no_grad():
        untrained.model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] += 1
    with pytest.raises(UnsupportedError, match="change layer 2:"):
        scope.check_moved(before)
    scope.restore(before)
    assert all(torch.equal(p, before[n]) for n, p in scope.trainable.items())


def test_sites_found_for_something_else_are_refused(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    honours = frozenset({"layers"})

    def check(**fields: object) -> None:
        check_sites("any", honours, untrained, forget_set, Sites(method="by hand", **fields))

    check(layers=(1,))
    check(layers=(1,), model_digest=untrained.digest, forget_set_digest=forget_set.digest)
    with pytest.raises(InputError, match="found for the model 123456789abc"):
        check(model_digest="123456789abcdef")
    with pytest.raises(InputError, match="found for the forget set 123456789abc"):
        check(forget_set_digest="123456789abcdef")
    with pytest.raises(UnsupportedError, match="does not honour modules, token_mask"):
        check(modules=(MLP,), token_mask={"r1": (0,)}, layers=(1,))
