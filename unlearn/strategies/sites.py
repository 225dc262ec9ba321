"""From ``Sites`` to the parameters and tokens they allow, and the proof that the sites moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlearn.errors import InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import LossOn, first_label
from unlearn.model.hooks import find_module, nearest
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.types import Sites


def check_sites(
    strategy: str,
    honours: frozenset[str],
    model: LanguageModel,
    forget_set: ForgetSet,
    sites: Sites | None,
) -> None:
    """Nothing, if the strategy can obey these sites and they were found for these inputs.

    Raises:
        UnsupportedError: the sites restrict a part that the strategy does not honour.
        InputError: they were found for another model or another forget set.
    """
    if sites is None:
        return
    if refused := sorted(sites.parts - honours):
        raise UnsupportedError(
            f"strategy {strategy!r} does not honour {', '.join(refused)} of the sites; it honours "
            f"{', '.join(sorted(honours)) or 'no part'}. Drop the part or choose another strategy"
        )
    found_for = (
        ("model", sites.model_digest, model.digest),
        ("forget set", sites.forget_set_digest, forget_set.digest),
    )
    for noun, expected, given in found_for:
        # Sites written by hand carry no digest.
        if expected and expected != given:
            raise InputError(
                f"the sites were found for the {noun} {expected[:12]}, but this {noun} is "
                f"{given[:12]}; locate again with this {noun}"
            )


class Site(NamedTuple):
    """One place that the sites name, with the parameters in it that may change."""

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Scope:
    """The parameters of one model that may change, and the entries of each."""

    trainable: dict[str, nn.Parameter]
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Parameter name to the entries that may change, as a boolean tensor."""
    declared: tuple[Site, ...] = ()
    linear: tuple[str, ...] = ()
    """Names of the parameters whose multiples are multiples of the whole change; empty for all."""

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Only the scope's entries receive a gradient, until the block ends."""
        before = {name: p.requires_grad for name, p in model.named_parameters()}
        handles = []
        try:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in self.trainable)
            for name, mask in self.masks.items():
                hook = self.trainable[name].register_hook
                handles.append(hook(_Masked(mask)))  # type: ignore[no-untyped-call]
            yield
        finally:
            for handle in handles:
                handle.remove()
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(before[name])
                parameter.grad = None

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the parameters that may change."""
        return {name: p.detach().clone() for name, p in self.trainable.items()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Write a snapshot back."""
        for name, values in snapshot.items():
            self.trainable[name].copy_(values)

    def check_moved(self, before: Mapping[str, Tensor]) -> None:
        """Nothing, if training moved every declared site.

        Raises:
            UnsupportedError: a site did not move at all, so it had no part in what was measured.
        """
        moved = {n: not torch.equal(p, before[n].to(p)) for n, p in self.trainable.items()}
        still = [s.name for s in self.declared if not any(moved[name] for name in s.parameters)]
        if still or not any(moved.values()):
            raise UnsupportedError(
                f"training did not change {', '.join(still) or 'any parameter'}: no gradient "
                "reached it. Leave it out of the sites, or name one that acts on the answer"
            )


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of a model asks for a gradient, until the block ends."""
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        model.requires_grad_(False)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


class _Masked:
    def __init__(self, mask: Tensor) -> None:
        self.outside = ~mask

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(self.outside.to(gradient.device), 0)


def find_scope(model: LanguageModel, sites: Sites | None) -> Scope:
    """The parameters that may change; parts of the sites that are present all have to agree.

    A module stands for every parameter inside it. Without sites, or with sites that restrict
    nothing, all parameters may change, embeddings included.

    Raises:
        InputError: the sites name something the model does not have.
        UnsupportedError: the parts of the sites have no parameter in common.
    """
    parameters = dict(model.model.named_parameters())
    if sites is None or not sites.parts & {"layers", "modules", "weight_mask"}:
        return Scope(parameters)
    groups = [list(part) for part in _parts(model, sites)]
    allowed = set(parameters)
    for group in groups:
        allowed &= {name for site in group for name in site.parameters}
    if not allowed:
        raise UnsupportedError(
            "the layers, modules and weight mask of the sites have no parameter in common, so "
            "nothing could change; drop one of the parts or locate again"
        )
    declared = tuple(
        Site(site.name, kept)
        for group in groups
        for site in group
        if (kept := tuple(name for name in site.parameters if name in allowed))
    )
    masks = {
        _canonical(model, name): indices for name, indices in (sites.weight_mask or {}).items()
    }
    return Scope(
        {name: parameters[name] for name in parameters if name in allowed},
        {n: _mask(n, i, parameters[n]) for n, i in masks.items() if n in allowed},
        declared,
    )


def find_tokens(
    forget_set: ForgetSet, encodings: Sequence[Encoding], sites: Sites | None, loss_on: LossOn
) -> tuple[tuple[int, ...] | None, ...]:
    """For each forget record the positions that may carry a forget loss; None for all of them.

    A record that the token mask does not list is not restricted. Parameters are not either: a mask
    says what is pushed, not what may move.

    Raises:
        InputError: the mask names a record that is not to be forgotten or a token that its record
            does not have, or leaves a record without a token that carries a loss.
    """
    mask = {} if sites is None else sites.token_mask or {}
    ids = [record.id for record in forget_set.forget]
    if strange := sorted(set(mask) - set(ids)):
        raise InputError(
            f"the token mask of the sites names {strange[0]!r}, which is no forget record of "
            f"{forget_set.name!r} ({len(strange)} such ids); locate again with this forget set"
        )
    for name, encoding in zip(ids, encodings, strict=True):
        if name in mask:
            _check_tokens(name, mask[name], encoding, loss_on)
    return tuple(mask.get(name) for name in ids)


def _check_tokens(
    name: str, positions: tuple[int, ...], encoding: Encoding, loss_on: LossOn
) -> None:
    length, first = len(encoding.ids), first_label(encoding, loss_on)
    if positions and (min(positions) < 0 or max(positions) >= length):
        raise InputError(
            f"the token mask of record {name!r} has positions from {min(positions)} to "
            f"{max(positions)}, but the record has tokens 0 to {length - 1}; locate again"
        )
    if not any(position >= first for position in positions):
        way_out = "set loss_on=text, or locate" if loss_on == "answer" else "locate"
        raise InputError(
            f"the token mask leaves record {name!r} no token that carries a loss: with "
            f"loss_on={loss_on} those are {first} to {length - 1}; {way_out} with other tokens "
            "(answer or fact)"
        )


def _parts(model: LanguageModel, sites: Sites) -> Iterator[Iterator[Site]]:
    if sites.layers is not None:
        blocks = model.anatomy.layers
        for layer in sites.layers:
            if not 0 <= layer < len(blocks):
                raise InputError(
                    f"the sites name layer {layer}, but {model.source} has layers 0 to "
                    f"{len(blocks) - 1}"
                )
        yield (_site(model, blocks[layer], f"layer {layer}") for layer in sites.layers)
    if sites.modules is not None:
        yield (_site(model, name, f"module {name}") for name in sites.modules)
    if sites.weight_mask is not None:
        yield (
            Site(f"parameter {name}", (_canonical(model, name),))
            for name, indices in sites.weight_mask.items()
            if indices
        )


def _site(model: LanguageModel, module_name: str, site_name: str) -> Site:
    module = find_module(model.model, module_name)
    # By identity: a tied tensor goes by its first name only.
    inside = {id(parameter) for parameter in module.parameters()}
    if not inside:
        raise InputError(f"the sites name module {module_name!r}, which has no parameters")
    names_inside = (n for n, p in model.model.named_parameters() if id(p) in inside)
    return Site(site_name, tuple(names_inside))


def _canonical(model: LanguageModel, parameter_name: str) -> str:
    """The name a parameter goes by in ``named_parameters``, which lists a tied one once."""
    try:
        wanted = model.model.get_parameter(parameter_name)
    except AttributeError:
        known = [name for name, _ in model.model.named_parameters()]
        hint = nearest(parameter_name, known)
        message = f"{model.source} has no parameter {parameter_name!r}.{hint}"
        raise InputError(message) from None
    names: dict[int, str] = {id(p): name for name, p in model.model.named_parameters()}
    return names[id(wanted)]


def _mask(name: str, indices: tuple[int, ...], parameter: nn.Parameter) -> Tensor:
    if indices and (min(indices) < 0 or max(indices) >= parameter.numel()):
        raise InputError(
            f"the weight mask of {name!r} has indices from {min(indices)} to {max(indices)}, but "
            f"the parameter has entries 0 to {parameter.numel() - 1}"
        )
    mask = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
    mask[torch.tensor(indices, dtype=torch.long, device=parameter.device)] = True
    return mask.view(parameter.shape)
