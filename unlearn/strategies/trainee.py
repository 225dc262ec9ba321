"""What is trained: a copy of the model in float32, or a LoRA beside the model's own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlearn.adapter import Adapter
from unlearn.artifact_manifest import Provenance
from unlearn.errors import UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.strategies import peft_modules
from unlearn.strategies.sites import Scope, Site, find_scope
from unlearn.types import Sites

if TYPE_CHECKING:
    from unlearn.strategies.training import TrainingConfig

LORA = "lora"


@dataclass(frozen=True)
class Trainee:
    """A model to train, and what it was before."""

    original: LanguageModel
    """As it was given, whatever the training does."""
    work: LanguageModel
    """What is trained."""
    scope: Scope
    """What may change in it."""
    network: Any = None
    """The ``PeftModel`` around it, where it is trained by a LoRA."""
    dtypes: dict[str, torch.dtype] | None = None
    """The types its tensors had, where it is a copy in float32."""

    def adapter(self) -> Adapter | None:
        """The LoRA as it is now."""
        if self.network is None:
            return None
        with peft_modules.saved(self.network, LORA) as folder:
            return Adapter.read_payload(folder, Provenance(strategy=""), None)


def copied(model: LanguageModel, sites: Sites | None) -> Trainee:
    """A copy of ``model`` in float32, of which everything the sites allow may change."""
    work = model.copy()
    dtypes = to_masters(work)
    return Trainee(model, work, find_scope(work, sites), dtypes=dtypes)


@contextmanager
def trainee(
    model: LanguageModel, sites: Sites | None, config: TrainingConfig, seed: int
) -> Iterator[Trainee]:
    """What is trained of ``model``, until the block ends: a copy, or a LoRA on itself."""
    if config.train == "full":
        yield copied(model, sites)
        return
    with adapted(model, sites, config.rank, config.alpha, seed) as made:
        yield made


@contextmanager
def adapted(
    model: LanguageModel, sites: Sites | None, rank: int, alpha: int, seed: int
) -> Iterator[Trainee]:
    """``model`` itself with a LoRA on the linear modules that the sites allow.

    Its own weights do not change. The original is the same model with the LoRA switched off, so
    there is no second one. After the block it is as it was.

    Raises:
        UnsupportedError: the sites hold a weight mask, or no linear module of a block.
    """
    if sites is not None and sites.weight_mask is not None:
        raise UnsupportedError(
            "train=lora cannot be held to a weight mask: a low-rank update moves every entry of a "
            "matrix. Drop the mask from the sites, or set train=full"
        )
    modules = peft_modules.linear_modules(model, sites)
    declared, anatomy, digest = find_scope(model, sites).declared, model.anatomy, model.digest
    trained = {name: p.requires_grad for name, p in model.model.named_parameters()}
    config = peft_modules.lora_config(model, modules, rank, alpha)
    network = peft_modules.attach(model, config, LORA, seed)
    try:
        original = LanguageModel(Without(network), model.tokenizer, model.source)
        work = LanguageModel(model.model, model.tokenizer, model.source)
        # Both were found before: the names of modules and tensors are others meanwhile.
        original.__dict__ |= {"anatomy": anatomy, "digest": digest}
        work.__dict__["anatomy"] = anatomy
        yield Trainee(original, work, _scope(network, declared), network)
    finally:
        network.unload()
        for name, parameter in model.model.named_parameters():
            parameter.requires_grad_(trained[name])
            parameter.grad = None


class Without:
    """A model without its adapter to whoever runs it, and in all else the model itself."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives with the adapter switched off."""
        with self.network.disable_adapter():
            return self.network.base_model.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """What it writes then."""
        with self.network.disable_adapter():
            return self.network.base_model.model.generate(*args, **kwargs)

    def eval(self) -> Without:
        """Itself, for it is never trained."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network.base_model.model, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.network, memo).unload()


def _scope(network: Any, declared: tuple[Site, ...]) -> Scope:
    """The factors of the LoRA, each part of the sites that its matrix is in."""
    factors = {n: p for n, p in network.base_model.model.named_parameters() if p.requires_grad}

    def inside(site: Site) -> tuple[str, ...]:
        modules = tuple(f"{name.removesuffix('.weight')}.lora_" for name in site.parameters)
        return tuple(name for name in factors if name.startswith(modules))

    sites = tuple(Site(site.name, inside(site)) for site in declared)
    # A multiple of B A is that multiple of B alone.
    return Scope(factors, declared=sites, linear=tuple(n for n in factors if ".lora_B." in n))


def _tensors(model: Any) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def refuse_quantised(model: LanguageModel) -> None:
    """Nothing, if the weights of ``model`` can be trained.

    Raises:
        UnsupportedError: they are quantised.
    """
    if getattr(model.model, "is_quantized", False):
        raise UnsupportedError(
            f"{model.source} is quantised and cannot be trained; load the full-precision weights"
        )


def to_masters(work: LanguageModel) -> dict[str, torch.dtype]:
    """The types the tensors had; narrow ones become float32, where small steps are not lost."""
    tensors = _tensors(work.model)
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    for tensor in tensors.values():
        if tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize:
            tensor.data = tensor.data.float()
    work.changed()
    return dtypes


def to_types_of(made: Trainee) -> bool:
    """Takes a copy back to the original's device and types, once; whether that rounded anything."""
    work, rounded = made.work, False
    if work.device != made.original.device:
        work.model.to(made.original.device)
    for name, tensor in _tensors(work.model).items():
        dtype = (made.dtypes or {}).get(name, tensor.dtype)
        if tensor.dtype != dtype:
            tensor.data = tensor.data.to(dtype)
            rounded = True
    work.changed()
    _check_untouched(made.original, work, made.scope)
    return rounded


def _check_untouched(model: LanguageModel, work: LanguageModel, scope: Scope) -> None:
    """Our own promise: what the sites leave out has the bits it had."""
    before = _tensors(model.model)
    for name, after in _tensors(work.model).items():
        mask = scope.masks.get(name)
        if name in scope.trainable and mask is None:
            continue
        changed = _bits(before[name]) != _bits(after)
        inside = torch.zeros_like(changed) if mask is None else mask.reshape(-1).to(changed.device)
        assert not (changed & ~inside).any(), f"{name} changed outside the sites"


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().contiguous().reshape(-1)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(integers[tensor.dtype.itemsize])
