"""Decoders with more neurons in their MLPs, and without them again.

A neuron is a row of the matrices that read the stream and a column of the one that writes to it.
Every MLP gets as many, because a config has one width for all; those that are not used are zero,
and zero columns add nothing to the stream. The result is a plain model of its architecture.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unlearn.errors import UnsupportedError
from unlearn.model.forward import accepts, forward_only
from unlearn.model.hooks import capture, patch
from unlearn.model.language_model import LanguageModel

WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
"""What configs call the width of an MLP."""

CLOSED = -50.0
"""An input at which the gate of every activation function in use is shut."""


class Mlp(NamedTuple):
    """The matrices of one MLP by qualified name."""

    reading: tuple[str, ...]
    """One, or two whose outputs are multiplied; the first goes through the activation function."""
    writing: str
    width: int


class Neurons(NamedTuple):
    """Neurons of one MLP, N of them."""

    reading: tuple[Tensor, ...]
    """(N, stream) for each matrix that reads."""
    biases: tuple[Tensor | None, ...]
    """(N,) for each of them; None where it has no bias."""
    writing: Tensor
    """(stream, N)"""


def find_mlp(lm: LanguageModel, layer: int) -> Mlp:
    """The matrices of the layer's MLP, the one that goes through the activation function first.

    Raises:
        UnsupportedError: it is made of experts, or its matrices are fused or packed.
    """
    mlp = _matrices(lm, layer)
    return mlp._replace(reading=_gate_first(lm, mlp.reading, mlp.writing))


def _matrices(lm: LanguageModel, layer: int) -> Mlp:
    """The same in the order in which the model registers them, without a forward pass."""
    writing = lm.anatomy.require_down_projection(layer)
    down = lm.model.get_submodule(writing)
    if not _is_plain(down):
        raise UnsupportedError(
            f"{writing} of {lm.source} is no plain matrix (quantised or wrapped), so no neurons "
            "can be added; load the full-precision weights"
        )
    width, stream = _fan_in(down), _fan_out(down)
    attention = lm.anatomy.attention[layer] or " "
    reading = tuple(
        name
        for name, module in lm.model.named_modules()
        if name.startswith(f"{lm.anatomy.layers[layer]}.")
        and not name.startswith(f"{attention}.")
        and _is_plain(module)
        and (_fan_in(module), _fan_out(module)) == (stream, width)
    )
    if len(reading) not in (1, 2):
        raise UnsupportedError(
            f"layer {layer} of {lm.source} has {len(reading)} matrices that feed {writing}, where "
            "one or two are expected (fused ones cannot take neurons); choose another strategy"
        )
    return Mlp(reading, writing, width)


def widened(lm: LanguageModel, n: int, layer: int, neurons: Neurons | None = None) -> LanguageModel:
    """A copy with ``n`` more neurons in every MLP: zero ones, but in ``layer`` those given.

    Raises:
        UnsupportedError: no setting of the config says how wide the MLPs are.
    """
    mlps = [_matrices(lm, index) for index in range(lm.anatomy.n_layers)]
    if neurons is not None:
        mlps[layer] = find_mlp(lm, layer)
    wide = lm.copy()
    for index, mlp in enumerate(mlps):
        given = neurons if index == layer and neurons is not None else _zeros(wide, mlp, n)
        for name, rows, bias in zip(mlp.reading, given.reading, given.biases, strict=True):
            _grow(wide.model.get_submodule(name), rows, bias)
        _grow_inputs(wide.model.get_submodule(mlp.writing), given.writing)
    _set_width(wide, mlps[0].width, mlps[0].width + n)
    return wide


def narrowed(lm: LanguageModel, n: int) -> LanguageModel:
    """A copy without the last ``n`` neurons of every MLP; the others keep their bits."""
    mlps = [_matrices(lm, index) for index in range(lm.anatomy.n_layers)]
    width = mlps[0].width - n
    narrow = lm.copy()
    for mlp in mlps:
        for name in mlp.reading:
            module: Any = narrow.model.get_submodule(name)
            bias = None if module.bias is None else module.bias[:width]
            _set(module, _out_first(module)[:width], bias)
        writing: Any = narrow.model.get_submodule(mlp.writing)
        _set(writing, _out_first(writing)[:, :width], writing.bias)
    _set_width(narrow, mlps[0].width, width)
    return narrow


def _grow(module: Any, rows: Tensor, bias: Tensor | None) -> None:
    weight = _out_first(module)
    longer = None
    if module.bias is not None:
        extra = torch.zeros(len(rows)) if bias is None else bias
        longer = torch.cat([module.bias, extra.to(module.bias)])
    _set(module, torch.cat([weight, rows.to(weight)]), longer)


def _grow_inputs(module: Any, columns: Tensor) -> None:
    weight = _out_first(module)
    _set(module, torch.cat([weight, columns.to(weight)], dim=1), module.bias)


def _set(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Give a matrix (out, in) and its bias to a module, and the numbers it notes about them."""
    before = module.weight
    stored = weight.T if isinstance(module, Conv1D) else weight
    module.weight = nn.Parameter(stored.detach().contiguous().clone(), before.requires_grad)
    if bias is not None and bias is not module.bias:
        module.bias = nn.Parameter(bias.detach().clone(), module.bias.requires_grad)
    if isinstance(module, Conv1D):
        module.nf, module.nx = weight.shape
    else:
        module.out_features, module.in_features = weight.shape


def _zeros(lm: LanguageModel, mlp: Mlp, n: int) -> Neurons:
    stream = _fan_out(lm.model.get_submodule(mlp.writing))
    reading = tuple(torch.zeros(n, stream) for _ in mlp.reading)
    return Neurons(reading, (None,) * len(reading), torch.zeros(stream, n))


def _set_width(lm: LanguageModel, old: int, new: int) -> None:
    """Make the config say the new width, and check that it does."""
    config = lm.model.config
    text = config.get_text_config()
    for field in WIDTHS:
        if not hasattr(text, field) or getattr(text, field) not in (old, None):
            continue
        before = getattr(text, field)
        setattr(text, field, new)
        if _builds(lm.model):
            for module in lm.model.modules():
                if getattr(module, "intermediate_size", None) == old:
                    module.intermediate_size = new
            lm.changed()
            lm.__dict__.pop("anatomy", None)
            return
        setattr(text, field, before)
    raise UnsupportedError(
        f"the config of {lm.source} has no one setting for the width of its MLPs (looked for "
        f"{', '.join(WIDTHS)}), so a wider one could not be saved; choose another strategy"
    )


def _builds(model: Any) -> bool:
    """Whether the config describes the shapes that the model has now."""
    with torch.device("meta"):
        twin = type(model)(copy.deepcopy(model.config))
    expected = {name: tensor.shape for name, tensor in twin.state_dict().items()}
    return expected == {name: tensor.shape for name, tensor in model.state_dict().items()}


def _gate_first(lm: LanguageModel, reading: tuple[str, ...], writing: str) -> tuple[str, ...]:
    """The names, first the one that closes the neuron when it is very negative."""
    if len(reading) == 1:
        return reading
    ids = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
    options = {"use_cache": False} if accepts(lm.model, "use_cache") else {}
    found = []
    for closed in reading:
        outputs = {name: _constant(CLOSED if name == closed else 1.0) for name in reading}
        seeing = capture(lm.model, [writing], inputs=True)
        with forward_only(lm.model), patch(lm.model, outputs), seeing as seen:
            lm.model(input_ids=ids, **options)
        found.append(float(seen[writing].abs().max()))
    return reading if found[0] <= found[1] else reading[::-1]


def _constant(value: float) -> Any:
    return lambda output: torch.full_like(output, value)


def _is_plain(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    kinds = isinstance(module, nn.Linear | Conv1D)
    return kinds and isinstance(weight, nn.Parameter) and weight.is_floating_point()


def _out_first(module: Any) -> Tensor:
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def _fan_in(module: nn.Module) -> int:
    return int(_out_first(module).shape[1])


def _fan_out(module: nn.Module) -> int:
    return int(_out_first(module).shape[0])
