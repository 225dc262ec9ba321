"""Texts that a model wrote itself, to stand in front of a prompt.

What a fact leaves in a model should not hang on what happens to be said before it, so a key is
averaged over contexts (Meng et al. 2022, ROME, appendix E.5).
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from pydantic import Field

from unlearn.errors import InputError
from unlearn.model.generation import generate
from unlearn.model.language_model import LanguageModel
from unlearn.types import Noun

LINK = ". "
"""Between a sampled text, which ends anywhere, and the prompt behind it."""


class PrefixConfig(Noun):
    """How many prefixes, how long, and how they are sampled. The counts are ROME's."""

    n_short: int = Field(default=10, ge=0)
    short_tokens: int = Field(default=5, ge=1)
    n_long: int = Field(default=10, ge=0)
    long_tokens: int = Field(default=10, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    """ROME draws from the five most probable tokens instead."""


_sampled: WeakKeyDictionary[LanguageModel, dict[tuple[str, int, PrefixConfig], tuple[str, ...]]] = (
    WeakKeyDictionary()
)


def sample_prefixes(
    lm: LanguageModel, *, seed: int = 0, config: PrefixConfig | None = None
) -> tuple[str, ...]:
    """Texts from the model's own distribution, short ones first, ready to put before a prompt.

    The bare prompt is not among them; ``find_keys`` always adds it. A sample that is blank, because
    the model ended it at once, is left out, so there may be fewer than asked for.

    Kept in memory for this model, its digest (see ``LanguageModel.changed``), seed and settings:
    another model never gets them, nor does this one once its weights have changed. Whoever edits a
    model layer by layer samples once, before the first edit.

    Raises:
        InputError: the tokenizer has no token a text could start from.
    """
    config = config or PrefixConfig()
    kept = _sampled.setdefault(lm, {})
    key = (lm.digest, seed, config)
    if key not in kept:
        kept[key] = _sample(lm, seed, config)
    return kept[key]


def _sample(lm: LanguageModel, seed: int, config: PrefixConfig) -> tuple[str, ...]:
    # Equal prompts get equal random numbers, so with one seed the short would begin the long.
    kinds = (
        (config.n_short, config.short_tokens, 2 * seed),
        (config.n_long, config.long_tokens, 2 * seed + 1),
    )
    found: list[str] = []
    for n_samples, max_new_tokens, own_seed in kinds:
        if n_samples:
            (texts,) = generate(
                lm,
                [_start(lm)],
                max_new_tokens=max_new_tokens,
                n_samples=n_samples,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=own_seed,
            )
            found += texts
    ended = (text.strip().rstrip(".") for text in found)
    return tuple(text + LINK for text in ended if text)


def _start(lm: LanguageModel) -> str:
    """The text whose only token is the one that texts start from."""
    if lm.adds_bos:
        return ""
    token = lm.tokenizer.bos_token or lm.tokenizer.eos_token
    if token is None:
        raise InputError(
            f"the tokenizer of {lm.source} has neither a BOS nor an EOS token, so no text can be "
            "sampled from nothing; write some prefixes yourself"
        )
    return str(token)
