"""Keys: what an MLP looks a fact up by.

The key of a fact is what goes into the down-projection W of a block at one token of the prompt.
W k is what the MLP answers with, so an edit of rank one, W + (v - W k) uᵀ / (uᵀ k), makes it answer
v (Meng et al. 2022, ROME; 2023, MEMIT).

The k of numerator and denominator has to be the same vector. ROME's own code takes the averaged key
for u and the bare one for the rest, and repeated edits then break the model (Gupta et al. 2024,
R-ROME). So an edit takes ``Keys.key`` wherever the formula says k, and ``project`` for W k:

    keys = find_keys(lm, [Lookup("Ada Quill was born in", "Ada Quill")], [3, 4], prefixes=texts)
    k = keys[3].key[0]
    old = project(lm, 3, k)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.func import functional_call

from unlearn.errors import ConfigError, InputError, NumericalError
from unlearn.model.activations import by_length, read_inputs
from unlearn.model.encoding import named, tokenise
from unlearn.model.language_model import LanguageModel

Weighting = Literal["mean", "half-bare"]
"""How contexts are averaged. ``mean``: all alike, the bare prompt one of them (ROME).
``half-bare``: half the bare prompt, half the mean of those with a prefix (MEMIT)."""


class Lookup(NamedTuple):
    """A prompt, and the token of it whose key is asked for."""

    prompt: str
    at: str | int
    """The subject, for the last token of its last mention; or the position of a token in
    ``lm.encode(prompt).ids``, from the end where negative."""


class Keys(NamedTuple):
    """The keys of some lookups at one layer, float32 on the CPU, (lookup, width)."""

    key: Tensor
    """Averaged over contexts. This is k, in every place of an edit's formula."""
    bare: Tensor
    """Of the bare prompt: to see how far contexts move the key. To edit with bare keys, find them
    without prefixes: ``key`` then is the same."""


class Place(NamedTuple):
    """A text as tokens, and the position of one of them."""

    ids: list[int]
    position: int


def find_keys(
    lm: LanguageModel,
    lookups: Sequence[Lookup],
    layers: Sequence[int],
    *,
    prefixes: Sequence[str] = (),
    weighting: Weighting = "mean",
    max_batch_tokens: int = 4096,
) -> dict[int, Keys]:
    """Layer to the keys of all lookups, each averaged over the bare prompt and those prefixed.

    All layers are read in the same forward pass. A prefix is put directly in front of the prompt
    (see ``sample_prefixes``); the token is then the one that is followed by the same tokens.

    Raises:
        UnsupportedError: a layer without a down-projection, such as a mixture of experts.
        InputError: no such layer or token, a subject that is not in its prompt, a text longer than
            the context, or a prefix after which the prompt is split into other tokens.
        ConfigError: a setting that is unknown or out of range.
        NumericalError: a key that is not finite.
    """
    modules = {layer: lm.anatomy.require_down_projection(layer) for layer in layers}
    if not lookups or not modules:
        raise InputError("no lookup or no layer was given, so there is no key to find")
    contexts = ["", *prefixes]
    weights = _weights(len(contexts), weighting)
    vectors = _vectors(lm, modules, _places(lm, lookups, contexts), max_batch_tokens)
    result = {}
    for layer, rows in vectors.items():
        if not torch.isfinite(rows).all():
            raise NumericalError(
                f"layer {layer} has keys that are not finite; its weights are broken, or their "
                "dtype is too narrow (try float32)"
            )
        keys = rows.reshape(len(lookups), len(contexts), -1)  # (lookup, context, width)
        result[layer] = Keys(torch.einsum("lcw,c->lw", keys, weights), keys[:, 0].clone())
    return result


def project(lm: LanguageModel, layer: int, key: Tensor) -> Tensor:
    """W k (and the bias, where there is one) of the layer's down-projection, in float32.

    Args:
        lm: the model; its weights are read as they are now.
        layer: the block.
        key: one key (width) or several (lookup, width).
    """
    module = lm.model.get_submodule(lm.anatomy.require_down_projection(layer))
    parameters = {name: value.detach().float() for name, value in module.named_parameters()}
    device = next(iter(parameters.values())).device
    with torch.no_grad():
        value: Tensor = functional_call(module, parameters, (key.float().to(device),))
    return value.to(key.device)


def _weights(n_contexts: int, weighting: Weighting) -> Tensor:
    """What each context counts for, the bare prompt first; sums to 1."""
    if weighting not in get_args(Weighting):
        raise ConfigError(f"weighting is {weighting!r}; it is one of {get_args(Weighting)}")
    weights = torch.full((n_contexts,), 1 / n_contexts)
    if weighting == "half-bare" and n_contexts > 1:
        weights[0], weights[1:] = 0.5, 0.5 / (n_contexts - 1)
    return weights


def _vectors(
    lm: LanguageModel, modules: Mapping[int, str], places: Sequence[Place], max_batch_tokens: int
) -> dict[int, Tensor]:
    """Layer to what goes into its module at each place, (place, width)."""
    texts = [place.ids for place in places]
    groups = list(by_length(texts, max_batch_tokens))
    parts: dict[int, list[Tensor]] = {layer: [] for layer in modules}
    for group in groups:
        inputs = read_inputs(lm, set(modules.values()), [texts[index] for index in group])
        positions = [places[index].position for index in group]
        for layer, module in modules.items():
            parts[layer].append(inputs.of[module][range(len(group)), positions].float().cpu())
    order = torch.tensor([index for group in groups for index in group]).argsort()
    return {layer: torch.cat(rows)[order] for layer, rows in parts.items()}


def _places(lm: LanguageModel, lookups: Sequence[Lookup], contexts: Sequence[str]) -> list[Place]:
    """Every lookup in every context, the contexts of one lookup next to each other."""
    texts = [(context + lookup.prompt, "") for lookup in lookups for context in contexts]
    names = [f"lookup {index}" for index in range(len(lookups)) for _ in contexts]
    encoded = [encoding.ids for encoding in named(lm.encode_all(texts), names)]
    places = []
    for index, lookup in enumerate(lookups):
        ids, *others = encoded[index * len(contexts) : (index + 1) * len(contexts)]
        position = _position(lm, lookup, index, len(ids))
        behind = ids[position + 1 :]
        for other in [ids, *others]:
            if other[len(other) - len(behind) :] != behind:
                raise InputError(
                    f"lookup {index}: with a prefix the prompt is split into other tokens behind "
                    f"position {position}; take a later token, or no prefix"
                )
            places.append(Place(other, len(other) - len(behind) - 1))
    return places


def _position(lm: LanguageModel, lookup: Lookup, index: int, n_tokens: int) -> int:
    """Where the lookup's token is in the bare prompt."""
    if isinstance(lookup.at, str):
        try:
            return lm.subject_span(lookup.prompt, lookup.at)[-1]
        except InputError as error:
            raise InputError(f"lookup {index}: {error}") from error
    (tokens,) = tokenise(lm.tokenizer, [lookup.prompt])
    position = lookup.at + n_tokens if lookup.at < 0 else lookup.at
    if not tokens.n_added <= position < n_tokens:
        raise InputError(
            f"lookup {index}: there is no token of the prompt at position {lookup.at}; they are at "
            f"{tokens.n_added} to {n_tokens - 1}"
        )
    return position
