"""Where a decoder keeps its parts, found by structure and never by the name of the model.

What is known of a model: its decoder, how many blocks it has, how wide its residual stream is, and
its two embeddings. The rest follows from shapes:

* the blocks are the module list of that length;
* what mixes tokens in a block is its attention (or convolution, or state-space mixer);
* the down-projection is, of the rest, the matrix that maps the widest inner width back to the
  stream;
* the MLP is the child of the block that holds it;
* the final norm is the norm beside the blocks, after them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from torch import nn
from transformers import PreTrainedModel

from unlearn.errors import AnatomyError, ConfigError, InputError, UnsupportedError
from unlearn.model.block import BlockParts, children_of, find_block_parts, unresolved
from unlearn.model.hooks import find_module, nearest

PerBlock = str | None | Sequence[str | None]
"""A name relative to the block: one for all blocks, or one for each."""


class Overrides(TypedDict, total=False):
    """Parts named by hand; what is named here is not searched for."""

    layers: str
    """Qualified name of the module list that holds the blocks."""
    attention: PerBlock
    mlp: PerBlock
    down_projection: PerBlock
    final_norm: str | None
    embedding: str
    unembedding: str


@dataclass(frozen=True)
class Anatomy:
    """Qualified names of a decoder's parts; the tuples have one entry for each block."""

    decoder: str
    """The module that holds the blocks."""
    layers: tuple[str, ...]
    attention: tuple[str | None, ...]
    """What mixes tokens: attention, or the mixer that stands in for it."""
    mlp: tuple[str | None, ...]
    """None where the projections hang on the block itself, or there is no MLP."""
    down_projection: tuple[str | None, ...]
    """None where the MLP is made of experts, or there is no MLP; ``missing`` says which."""
    final_norm: str | None
    embedding: str
    unembedding: str
    adds_residual: frozenset[str] = frozenset()
    """Attention and MLP modules that put out the stream with their contribution already added."""
    missing: Mapping[int, str] = field(default_factory=dict)
    """Block index to the reason why it has no down-projection."""

    @property
    def n_layers(self) -> int:
        """How many blocks there are."""
        return len(self.layers)

    def layer_of(self, name: str) -> int | None:
        """The index of the block a module or parameter belongs to, None outside the blocks."""
        indices = {layer: index for index, layer in enumerate(self.layers)}
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return next((indices[prefix] for prefix in prefixes if prefix in indices), None)

    def mlp_contribution(self, layer: int) -> str | None:
        """The module whose output is what the MLP of the block adds, before any norm after it.

        That is the MLP, or its down-projection where there is no MLP module or where that module
        adds the stream itself.
        """
        name = self.mlp[layer]
        if name is None or name in self.adds_residual:
            return self.down_projection[layer]
        return name

    def require_down_projection(self, layer: int) -> str:
        """The name of the block's down-projection.

        Raises:
            UnsupportedError: it has none; the message says why and which blocks have one.
        """
        if not 0 <= layer < self.n_layers:
            raise InputError(f"there is no layer {layer}: the model has 0 to {self.n_layers - 1}")
        name = self.down_projection[layer]
        if name is not None:
            return name
        others = [str(index) for index, known in enumerate(self.down_projection) if known]
        hint = f"layers with one: {', '.join(others)}" if others else "no layer has one"
        raise UnsupportedError(f"{self.missing[layer]}; {hint}")


def find_anatomy(model: PreTrainedModel, **overrides: Unpack[Overrides]) -> Anatomy:
    """The parts of a decoder, by structure.

    >>> find_anatomy(model, layers="transformer.h", down_projection="mlp.c_proj")  # doctest: +SKIP

    Raises:
        AnatomyError: a part that could not be found, or an override that names no module.
        ConfigError: an override of a part that does not exist.
    """
    for part in set(overrides) - set(Overrides.__annotations__):
        known = list(Overrides.__annotations__)
        raise ConfigError(f"no part is called {part!r}.{nearest(part, known)} Parts: {known}")
    stack = overrides["layers"] if "layers" in overrides else _find_stack(model)
    blocks = _blocks(model, stack)
    embedding = _embedding(model, overrides)
    hidden = _hidden_size(model, embedding)
    parts_of = _parts(blocks, hidden, overrides)
    layers = tuple(f"{stack}.{index}" for index in range(len(blocks)))

    def qualified(names: Sequence[str | None]) -> tuple[str | None, ...]:
        pairs = zip(layers, names, strict=True)
        return tuple(None if name is None else f"{layer}.{name}" for layer, name in pairs)

    attention = qualified([parts.attention for parts in parts_of])
    mlp = qualified([parts.mlp for parts in parts_of])
    return Anatomy(
        decoder=stack.rpartition(".")[0],
        layers=layers,
        attention=attention,
        mlp=mlp,
        down_projection=qualified([parts.down_projection for parts in parts_of]),
        final_norm=_final_norm(model, stack, overrides, hidden),
        embedding=embedding,
        unembedding=_unembedding(model, overrides),
        adds_residual=_adding_residual(model, (*attention, *mlp)),
        missing={index: parts.missing for index, parts in enumerate(parts_of) if parts.missing},
    )


def _named(model: nn.Module, part: str, name: str) -> nn.Module:
    try:
        return find_module(model, name)
    except InputError as error:
        raise AnatomyError(f"{part}={name!r}: {error}") from None


def _find_stack(model: PreTrainedModel) -> str:
    """The qualified name of the module list that holds the blocks."""
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == expected
    }
    untyped: Any = model
    decoder: nn.Module = untyped.get_decoder()
    inside = [name for name, stack in lists.items() if any(stack is m for m in decoder.modules())]
    candidates = inside or list(lists)
    block_classes = set(model._no_split_modules or ())
    typed = [n for n in candidates if any(type(m).__name__ in block_classes for m in lists[n])]
    outermost = _outermost(typed or candidates)
    if len(outermost) == 1:
        return outermost[0]
    found = f"several do ({', '.join(outermost)})" if outermost else "none does"
    others = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    known = f"; module lists: {', '.join(_outermost(others))}" if others and not outermost else ""
    why = f"one module list should hold the {expected} blocks of {type(model).__name__}, {found}"
    raise unresolved("layers", why + known, [*outermost, *others, "path.to.list"][0])


def _outermost(names: Sequence[str]) -> list[str]:
    """The names that lie inside no other of them."""
    return [n for n in names if not any(n.startswith(f"{other}.") for other in names)]


def _blocks(model: PreTrainedModel, stack: str) -> list[nn.Module]:
    holder = _named(model, "layers", stack)
    if not isinstance(holder, nn.ModuleList | nn.Sequential) or not len(holder):
        why = f"{stack!r} is a {type(holder).__name__}, not a list of blocks"
        raise unresolved("layers", why, "path.to.list")
    return list(holder)


def _parts(blocks: list[nn.Module], hidden: int, overrides: Overrides) -> list[BlockParts]:
    given: list[dict[str, str | None]] = [{} for _ in blocks]
    for part in ("attention", "mlp", "down_projection"):
        if part in overrides:
            names = _per_block(part, overrides[part], blocks)
            for known, name in zip(given, names, strict=True):
                known[part] = name
    parts_of = [
        find_block_parts(block, hidden, known, f"block {index}")
        for index, (block, known) in enumerate(zip(blocks, given, strict=True))
    ]
    if "attention" not in overrides and not any(parts.attention for parts in parts_of):
        why = f"nothing in block 0 mixes tokens (it holds {children_of(blocks[0])})"
        raise unresolved("attention", why, "attn")
    return parts_of


def _per_block(part: str, value: PerBlock, blocks: list[nn.Module]) -> list[str | None]:
    names = [value] * len(blocks) if value is None or isinstance(value, str) else list(value)
    if len(names) != len(blocks):
        raise AnatomyError(f"{part}: {len(names)} names were given for {len(blocks)} blocks")
    for block, name in zip(blocks, names, strict=True):
        if name is not None:
            _named(block, part, name)
    return names


def _final_norm(model: nn.Module, stack: str, overrides: Overrides, hidden: int) -> str | None:
    """The norm of the stream beside the blocks; some models register it before them."""
    if "final_norm" in overrides:
        name = overrides["final_norm"]
        if name is not None:
            _named(model, "final_norm", name)
        return name
    decoder, _, own = stack.rpartition(".")
    prefix = f"{decoder}." if decoder else ""
    children = dict(model.get_submodule(decoder).named_children())
    norms = [name for name, child in children.items() if _is_norm(child, hidden)]
    order = list(children)
    later = [name for name in norms if order.index(name) > order.index(own)]
    candidates = later or [name for name in norms if "emb" not in name]
    if len(candidates) > 1:
        why = f"several norms stand beside the blocks: {', '.join(candidates)}"
        raise unresolved("final_norm", why, prefix + candidates[-1])
    return prefix + candidates[0] if candidates else None


def _is_norm(module: nn.Module, hidden: int) -> bool:
    whole = all(parameter.shape == (hidden,) for parameter in module.parameters())
    return "norm" in type(module).__name__.lower() and whole


def _hidden_size(model: PreTrainedModel, embedding: str) -> int:
    """The width of the residual stream (not always that of the embedding)."""
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    if isinstance(width, int):
        return width
    module: Any = model.get_submodule(embedding)
    return int(module.weight.shape[-1])


def _embedding(model: PreTrainedModel, overrides: Overrides) -> str:
    if "embedding" in overrides:
        _named(model, "embedding", overrides["embedding"])
        return overrides["embedding"]
    return _name_of(model, model.get_input_embeddings(), "embedding", "model.embed_tokens")


def _unembedding(model: PreTrainedModel, overrides: Overrides) -> str:
    if "unembedding" in overrides:
        _named(model, "unembedding", overrides["unembedding"])
        return overrides["unembedding"]
    untyped: Any = model
    return _name_of(model, untyped.get_output_embeddings(), "unembedding", "lm_head")


def _name_of(model: nn.Module, module: object, part: str, example: str) -> str:
    names = [name for name, known in model.named_modules() if known is module]
    if names:
        return str(names[0])
    raise unresolved(part, f"{type(model).__name__} does not say which module it is", example)


def _adding_residual(model: nn.Module, names: Iterable[str | None]) -> frozenset[str]:
    """The modules whose forward is handed the residual, and so returns the sum."""
    present = (name for name in names if name is not None)
    return frozenset(
        name
        for name in present
        if "residual" in inspect.signature(model.get_submodule(name).forward).parameters
    )
