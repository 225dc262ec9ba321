"""Sums of adapters against the weights by hand, and what peft does when nobody looks."""

import warnings
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.helpers import rescale_adapter_scale
from torch import nn
from transformers.pytorch_utils import Conv1D

from unlearn.errors import InputError, NumericalError, UnsupportedError
from unlearn.strategies.adapter_arithmetic import (
    change_of,
    combine,
    delta_weight,
    deltas,
    negate,
    negate_scales,
    parameters_of,
    refuse_unfaithful,
)


class Net(nn.Module):
    """Two linear maps, one of them stored transposed, as GPT-2 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(12, 20)
        self.turned = Conv1D(7, 20)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.turned(self.wide(x).tanh())
        return output


def fill(network: Any, seed: int) -> None:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in network.named_parameters():
            if "lora_" in name or "ia3_" in name:
                parameter.normal_()


def network_of(*configs: Any) -> Any:
    """Adapters ``a0``, ``a1`` ... with these configs, every factor at random."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = get_peft_model(Net(), configs[0], adapter_name="a0")
        for index, config in enumerate(configs[1:], start=1):
            network.add_adapter(f"a{index}", config)
    fill(network, seed=1)
    return network.eval()


def lora(rank: int = 3, alpha: float = 6.0, **more: Any) -> LoraConfig:
    targets = more.pop("target_modules", ["wide", "turned"])
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **more)


def product(network: Any, module: str, name: str) -> torch.Tensor:
    layer = network.base_model.model.get_submodule(module)
    up, down = layer.lora_B[name].weight.double(), layer.lora_A[name].weight.double()
    return (up @ down * network.peft_config[name].lora_alpha / network.peft_config[name].r).detach()


def off(network: Any, into: str, weights: dict[str, float]) -> float:
    """How far ``into`` is from the weighted sum, relative to it."""
    wanted = {m: sum(w * product(network, m, n) for n, w in weights.items()) for m in MODULES}
    found = deltas(network, into)
    error = torch.cat([(found[m] - wanted[m]).reshape(-1) for m in MODULES])
    return float(error.norm() / torch.cat([wanted[m].reshape(-1) for m in MODULES]).norm())


MODULES = ("wide", "turned")
MINUS = {"a0": 1.0, "a1": -1.0}


def test_delta_weight_is_scaling_times_b_a_in_double_precision() -> None:
    down, up = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0], [0.0]])
    found = delta_weight(down, up, 0.5)
    assert found.dtype == torch.float64
    assert found.tolist() == [[5.0, 10.0, 15.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("how", ["cat", "svd"])
def test_factors_side_by_side_and_svd_at_the_sum_of_ranks_are_exact(how: Any) -> None:
    network = network_of(lora(), lora(alpha=3.0))
    combine(network, MINUS, "sum", how)
    assert off(network, "sum", MINUS) < 1e-6
    assert network.peft_config["sum"].r == 6


def test_adapters_of_different_ranks_and_modules_add_up() -> None:
    network = network_of(lora(), lora(2, target_modules=["wide"]))
    combine(network, MINUS, "sum")
    found = deltas(network, "sum")
    torch.testing.assert_close(found["turned"], product(network, "turned", "a0"))
    wide = product(network, "wide", "a0") - product(network, "wide", "a1")
    torch.testing.assert_close(found["wide"], wide, rtol=1e-5, atol=1e-6)


def test_adding_factors_brings_cross_terms_and_is_refused() -> None:
    network = network_of(lora(), lora())
    with pytest.raises(NumericalError, match="do not add up"):
        combine(network, MINUS, "sum", "linear")
    # Peft adds (B0 + B1)(A0 - A1): what should be B0 A0 - B1 A1, and two terms too many.
    layer = network.base_model.model.wide
    a0, a1 = layer.lora_A["a0"].weight.double(), layer.lora_A["a1"].weight.double()
    b0, b1 = layer.lora_B["a0"].weight.double(), layer.lora_B["a1"].weight.double()
    found, scaling = deltas(network, "sum")["wide"], 2.0
    torch.testing.assert_close(found, scaling * (b0 + b1) @ (a0 - a1), rtol=1e-5, atol=1e-5)
    crossed = found - scaling * (b0 @ a0 - b1 @ a1)
    torch.testing.assert_close(crossed, scaling * (b1 @ a0 - b0 @ a1), rtol=1e-5, atol=1e-5)
    assert crossed.norm() > 0.5 * found.norm()


def test_the_rank_that_peft_takes_by_itself_loses_much_of_a_difference() -> None:
    network = network_of(lora(), lora())
    network.add_weighted_adapter(["a0", "a1"], [1.0, -1.0], "cut", "svd")
    assert off(network, "cut", MINUS) > 0.1
    with pytest.raises(NumericalError, match="do not add up"):
        combine(network, MINUS, "cut too", "svd", rank=3)


@pytest.mark.parametrize("strength", [0.3, 1.0, 7.5])
def test_a_negated_adapter_is_minus_the_strength_times_what_it_was(strength: float) -> None:
    network = network_of(lora())
    negate(network, "a0", strength, "minus")
    assert off(network, "minus", {"a0": -strength}) < 1e-6
    # Negating both factors would have given it back as it was.
    assert (deltas(network, "minus")["wide"] + strength * deltas(network, "a0")["wide"]).norm() < (
        1e-4 * strength * deltas(network, "a0")["wide"].norm()
    )


def test_a_name_that_is_taken_is_an_error_where_peft_keeps_the_old_adapter_in_silence() -> None:
    network = network_of(lora())
    negate(network, "a0", 1.0, "minus")
    network.add_weighted_adapter(["a0"], [-3.0], "minus", "linear")
    assert off(network, "minus", {"a0": -1.0}) < 1e-6
    with pytest.raises(InputError, match="already"):
        negate(network, "a0", 3.0, "minus")


@pytest.mark.parametrize(
    "setting", [{"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}, {"bias": "all"}]
)
def test_adapters_that_peft_adds_wrongly_are_refused_with_the_reason(
    setting: dict[str, Any],
) -> None:
    network = network_of(lora(**setting, target_modules=["wide"]))
    with pytest.raises(UnsupportedError, match=r"'a0' (sets|trains) .*"):
        combine(network, {"a0": -1.0}, "minus", "linear")
    assert "minus" not in network.peft_config


def test_other_kinds_of_adapters_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no LoRA but IA3"):
        refuse_unfaithful(IA3Config(target_modules=["wide"]), "mine")


def test_a_rank_stabilised_adapter_really_comes_out_of_peft_as_another_one() -> None:
    network = network_of(lora(4, use_rslora=True))
    network.add_weighted_adapter(["a0"], [1.0], "copy", "linear")
    ratio = deltas(network, "copy")["wide"].norm() / deltas(network, "a0")["wide"].norm()
    assert ratio == pytest.approx(2.0, rel=1e-5)


def test_rescaling_in_peft_scales_every_adapter_and_is_undone() -> None:
    network = network_of(lora(), lora())
    before = {name: deltas(network, name)["wide"] for name in ("a0", "a1")}
    with rescale_adapter_scale(network, -2.0):
        for name, delta in before.items():
            torch.testing.assert_close(deltas(network, name)["wide"], -2.0 * delta)
    for name, delta in before.items():
        assert torch.equal(deltas(network, name)["wide"], delta)


def test_switching_adapters_off_leaves_dropout_on() -> None:
    network = network_of(lora())
    network.train()
    with network.disable_adapter():
        assert network.base_model.model.dropout.training


def test_ties_keeps_only_the_largest_entries_and_the_sign_that_wins() -> None:
    network = network_of(lora(20, target_modules=["wide"]), lora(20, target_modules=["wide"]))
    combine(network, {"a0": 1.0, "a1": 1.0}, "merged", "ties_svd", rank=12, density=0.5)
    products = [product(network, "wide", name) for name in ("a0", "a1")]
    trimmed = []
    for matrix in products:
        least = matrix.abs().reshape(-1).sort(descending=True).values[matrix.numel() // 2 - 1]
        trimmed.append(torch.where(matrix.abs() >= least, matrix, 0.0))
    both = torch.stack(trimmed)
    agrees = both.sign() == torch.where(both.sum(0) >= 0, 1, -1)
    wanted = (both * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    torch.testing.assert_close(deltas(network, "merged")["wide"], wanted, rtol=1e-4, atol=1e-4)


def scales() -> IA3Config:
    return IA3Config(target_modules=["wide", "turned"], feedforward_modules=["turned"])


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_negated_scales_lie_as_far_on_the_other_side_of_one(strength: float) -> None:
    network = network_of(scales(), scales())
    for layer in (network.base_model.model.wide, network.base_model.model.turned):
        layer.ia3_l["a1"].data.fill_(1.0)
    negate_scales(network, "a0", "a1", strength, "minus")
    for layer in (network.base_model.model.wide, network.base_model.model.turned):
        scale, found = layer.ia3_l["a0"], layer.ia3_l["minus"]
        torch.testing.assert_close(found - 1, -strength * (scale - 1), rtol=1e-5, atol=1e-5)
        if strength == 1.0:
            torch.testing.assert_close(found, 2 - scale)


def test_scales_that_are_not_of_one_are_noticed() -> None:
    network = network_of(scales(), scales())
    with pytest.raises(NumericalError, match="came out off"):
        negate_scales(network, "a0", "a1", 1.0, "minus")


@pytest.mark.parametrize("config", [lora(), scales()], ids=["lora", "ia3"])
def test_the_change_of_an_adapter_is_what_merging_it_does(config: Any) -> None:
    network = network_of(config)
    change = change_of(network, "a0")
    live = parameters_of(network, change)
    before = {name: parameter.detach().clone() for name, parameter in live.items()}
    merged = dict(network.merge_and_unload().named_parameters())
    for name, delta in change.items():
        torch.testing.assert_close(merged[name], before[name] + delta, rtol=1e-5, atol=1e-5)
        assert delta.norm() > 0
    assert set(merged) - set(change) <= {"wide.bias", "turned.bias"}
