"""What attention remembers of the words before a prompt: computed once, used for every prompt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from unlearn.model.forward import accepts, forward_only
from unlearn.model.language_model import LanguageModel

MAX_KEPT = 8
"""Prefixes remembered for one model; the oldest goes first."""

_kept: WeakKeyDictionary[LanguageModel, dict[tuple[str, tuple[int, ...]], Any]] = (
    WeakKeyDictionary()
)


def remembered(lm: LanguageModel, prefix: Sequence[int], n_rows: int) -> DynamicCache | None:
    """A cache of these tokens for so many rows, the caller's own; None where there is none.

    Kept for this model as its digest says it is. Only caches that hold every key and value are
    used: windows and recurrent states depend on more than the tokens in front.
    """
    if not prefix or not (
        accepts(lm.model, "past_key_values") and accepts(lm.model, "position_ids")
    ):
        return None
    kept = _kept.setdefault(lm, {})
    key = (lm.digest, tuple(prefix))
    if key not in kept:
        if len(kept) >= MAX_KEPT:
            del kept[next(iter(kept))]
        kept[key] = _computed(lm, prefix)
    if kept[key] is None:
        return None
    cache: DynamicCache = copy.deepcopy(kept[key])
    cache.batch_repeat_interleave(n_rows)
    return cache


def _computed(lm: LanguageModel, prefix: Sequence[int]) -> DynamicCache | None:
    ids = torch.tensor([list(prefix)], device=lm.device)
    with forward_only(lm.model):
        cache = getattr(lm.model(input_ids=ids, use_cache=True), "past_key_values", None)
    whole = isinstance(cache, DynamicCache) and all(type(x) is DynamicLayer for x in cache.layers)
    return cache if whole else None
