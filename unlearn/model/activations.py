"""What goes into modules when a model reads many texts: batches padded on the right."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.model.forward import accepts, forward_only, pad_right
from unlearn.model.hooks import capture
from unlearn.model.language_model import LanguageModel


class Inputs(NamedTuple):
    """What went into some modules for a batch of texts."""

    of: dict[str, Tensor]
    """Module name to its input, (text, position, width), in the model's type."""
    mask: Tensor
    """Which positions are tokens and not padding, (text, position)."""


def by_length(texts: Sequence[Sequence[int]], max_batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts in groups of like length, longest first, padding within the budget.

    A text that alone is longer than ``max_batch_tokens`` is a group of its own.

    Raises:
        ConfigError: a budget below 1.
    """
    if max_batch_tokens < 1:
        raise ConfigError(f"max_batch_tokens is {max_batch_tokens}, but must be at least 1")
    group: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        if group and (len(group) + 1) * len(texts[group[0]]) > max_batch_tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def read_inputs(
    lm: LanguageModel, modules: Collection[str], texts: Sequence[Sequence[int]]
) -> Inputs:
    """What goes into the named modules, in one forward pass over the token ids of the texts.

    Modules that work on flattened positions are given their positions back.

    Raises:
        UnsupportedError: a module that does not get every position of every text.
    """
    tokens, mask = (tensor.to(lm.device) for tensor in pad_right(texts))
    options: dict[str, Any] = {"use_cache": False}
    if accepts(lm.model, "logits_to_keep"):
        options["logits_to_keep"] = 1
    with forward_only(lm.model), capture(lm.model, modules, inputs=True) as captured:
        lm.model(input_ids=tokens, attention_mask=mask, **options)
    shaped = {name: _shaped(name, captured[name], *tokens.shape) for name in modules}
    return Inputs(shaped, mask.bool())


def _shaped(name: str, tensor: Tensor, n_texts: int, n_positions: int) -> Tensor:
    if tensor.shape[:-1].numel() != n_texts * n_positions:
        raise UnsupportedError(
            f"{name!r} got an input of shape {tuple(tensor.shape)} for {n_texts} texts of "
            f"{n_positions} positions: it does not read every token, so it has no input at each"
        )
    return tensor.reshape(n_texts, n_positions, -1)
