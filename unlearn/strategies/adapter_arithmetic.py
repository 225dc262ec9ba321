"""Adapters added and subtracted through peft, and every sum checked against the weights by hand.

Peft adds adapters in several ways, and not all of them add what the adapters do to the weights:
``linear`` adds the factors, ``svd`` cuts to the largest rank unless told, and rank-stabilised
adapters come out inflated. So what is exact is checked here against ``scaling * B A`` in float64,
and what peft cannot add is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from unlearn.adapter import PLAIN_STARTS
from unlearn.errors import InputError, NumericalError, UnsupportedError

How = Literal["cat", "svd", "linear", "ties", "ties_svd"]
"""Ways of peft to add adapters: the sum with factors side by side, or cut to a rank; ``linear``,
exact for a single adapter only; TIES merging of the factors, or of the products."""

SUMS = ("cat", "svd", "linear")
"""Those that promise the weighted sum."""

TOLERANCE = 1e-4
"""Of a sum, relative to its norm; float32 factors of rank 32 come out within 1e-6."""

UNFAITHFUL = {
    "use_rslora": "peft inflates what it adds of it by the root of the rank",
    "use_dora": "its magnitudes are no sum",
    "lora_bias": "peft adds the matrices and drops the biases",
    "modules_to_save": "whole modules come with it, which are no low-rank update",
}


def delta_weight(down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """What a LoRA adds to a weight: ``scaling * B A``, (out, in), in float64.

    Args:
        down: A, (rank, in).
        up: B, (out, rank).
        scaling: ``alpha / rank``.
    """
    return scaling * (up.detach().double() @ down.detach().double())


def deltas(network: Any, name: str) -> dict[str, Tensor]:
    """What the LoRA called ``name`` adds to each module of a ``PeftModel``, (out, in), float64."""
    return {
        module: delta_weight(
            layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        )
        for module, layer in adapted(network, name, "lora_A")
    }


def adapted(network: Any, name: str, part: str) -> Iterator[tuple[str, Any]]:
    """The modules of the base that adapter ``name`` has a ``part`` in, and what wraps them."""
    for module, layer in network.base_model.model.named_modules():
        if name in getattr(layer, part, ()):
            yield module, layer


def combine(
    network: Any,
    weights: Mapping[str, float],
    into: str,
    how: How = "cat",
    *,
    rank: int | None = None,
    density: float | None = None,
) -> None:
    """Adds ``sum of weight * adapter`` to ``network`` as a new LoRA called ``into``.

    Args:
        network: a ``PeftModel`` that has the adapters.
        weights: adapter name to its weight; a negative one subtracts.
        into: a name that is free.
        how: ``linear`` is exact for one adapter only.
        rank: of the svd ways; by default the sum of the ranks, at which ``svd`` loses nothing.
        density: of the TIES ways, the share of entries that is kept.

    Raises:
        InputError: the name is taken, which peft passes over in silence, leaving the old adapter.
        UnsupportedError: an adapter is of a kind that peft does not add faithfully.
        NumericalError: a sum came out as another one than that of the weights.
    """
    if into in network.peft_config:
        raise InputError(
            f"there is an adapter {into!r} already, and peft would keep it as it is; choose "
            "another name"
        )
    for name in weights:
        refuse_unfaithful(network.peft_config[name], name)
    if how.endswith("svd") and rank is None:
        rank = sum(network.peft_config[name].r for name in weights)
    # The new factors are drawn at random before they are written.
    with torch.random.fork_rng():
        network.add_weighted_adapter(
            list(weights),
            list(weights.values()),
            into,
            how,
            svd_rank=rank,
            svd_full_matrices=False,
            density=density,
        )
    _pad(network, into)
    if how in SUMS:
        check_sum(network, weights, into)


@torch.no_grad()
def _pad(network: Any, name: str) -> None:
    """Zeros to the rank that the config says: a small matrix has fewer singular values."""
    for _, layer in adapted(network, name, "lora_A"):
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        missing = layer.r[name] - down.shape[0]
        if missing > 0:
            down.data = torch.nn.functional.pad(down, (0, 0, 0, missing))
            up.data = torch.nn.functional.pad(up, (0, missing))


def check_sum(network: Any, weights: Mapping[str, float], into: str) -> None:
    """Nothing, if ``into`` adds to every module the weighted sum of what the others add.

    Raises:
        NumericalError: it does not; says by how much, relative to the sum.
    """
    found, parts = deltas(network, into), {name: deltas(network, name) for name in weights}
    off = norm = 0.0
    for module, delta in found.items():
        terms = [w * parts[name][module] for name, w in weights.items() if module in parts[name]]
        wanted = torch.stack(terms).sum(0)
        off += float((delta - wanted).square().sum())
        norm += float(wanted.square().sum())
    missing = {module for own in parts.values() for module in own} - set(found)
    if missing or off**0.5 > TOLERANCE * max(norm**0.5, 1e-12):
        how_far = f"{(off / max(norm, 1e-24)) ** 0.5:.2g} of its norm"
        raise NumericalError(
            f"the adapters {', '.join(weights)} do not add up: the result is off by "
            f"{'whole modules' if missing else how_far}. Use cat, or svd at the sum of the ranks"
        )


def refuse_unfaithful(config: Any, name: str) -> None:
    """Nothing, if peft adds adapters with this config as the sum of what they do to the weights.

    Raises:
        UnsupportedError: it does not; says why.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise UnsupportedError(f"the adapter {name!r} is no LoRA but {kind}; only those are added")
    for key, reason in UNFAITHFUL.items():
        if getattr(config, key, None):
            raise UnsupportedError(
                f"the adapter {name!r} sets {key}, and cannot be added or negated: {reason}. "
                "Convert it to a plain LoRA first"
            )
    if (start := getattr(config, "init_lora_weights", True)) not in PLAIN_STARTS:
        raise UnsupportedError(
            f"the adapter {name!r} was started with {start!r}, which changes the base too, so it "
            "fits a base that nobody has. Convert it to a plain LoRA first"
        )
    if getattr(config, "bias", "none") != "none":
        raise UnsupportedError(f"the adapter {name!r} trains biases, which peft does not add")


def negate(network: Any, name: str, strength: float, into: str) -> None:
    """Adds ``-strength`` times a LoRA as ``into``. One factor changes sign: two would cancel."""
    combine(network, {name: -strength}, into, "linear")


def negate_scales(network: Any, name: str, ones: str, strength: float, into: str) -> None:
    """Adds an (IA)3 adapter with ``l' = (1 + strength) - strength * l`` as ``into``.

    ``ones`` is an adapter of scales of 1. Zhang et al. 2023, arXiv:2306.14870, section 3.

    Raises:
        NumericalError: peft made something else of it.
    """
    with torch.random.fork_rng():
        network.add_weighted_adapter([ones, name], [1 + strength, -strength], into)
    for module, layer in adapted(network, into, "ia3_l"):
        wanted = (1 + strength) - strength * layer.ia3_l[name].detach().double()
        off = (layer.ia3_l[into].detach().double() - wanted).abs().max()
        if off > TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise NumericalError(f"the scales of {module} came out off by {float(off):.2g}")


def change_of(network: Any, name: str) -> dict[str, Tensor]:
    """What an adapter adds to the parameters of its base, by their names in it, float32."""
    found: dict[str, Tensor] = {}
    for module, layer in adapted(network, name, "lora_A"):
        delta = delta_weight(
            layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        )
        transposed = isinstance(layer.get_base_layer(), Conv1D)
        found[f"{module}.weight"] = (delta.T if transposed else delta).float()
    for module, layer in adapted(network, name, "ia3_l"):
        base, more = layer.get_base_layer(), layer.ia3_l[name].detach() - 1
        scales = more.T if isinstance(base, Conv1D) else more  # of rows, or of columns
        found[f"{module}.weight"] = base.weight.detach() * scales
        if base.bias is not None and not layer.is_feedforward:
            found[f"{module}.bias"] = base.bias.detach() * more.reshape(-1)
    return found


def parameters_of(network: Any, names: Mapping[str, Any]) -> dict[str, Tensor]:
    """The live parameters of the base that go by these names, below the adapters."""
    found = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        base = network.base_model.model.get_submodule(module).get_base_layer()
        found[name] = getattr(base, leaf)
    return found
