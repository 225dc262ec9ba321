"""Token sites: which tokens of a forget record a loss should act on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unlearn.errors import InputError, NumericalError
from unlearn.forget_set import ForgetSet
from unlearn.locate.fact_tracer import record_seed
from unlearn.locate.tracing_facts import Fact, read_fact, twins
from unlearn.model.forward import forward_only
from unlearn.model.language_model import LanguageModel
from unlearn.types import Record, Sites, Tokens

Progress = Callable[[str, float], None]

THRESHOLD = math.log(2)
"""Nats by which a token must lose on average: half of its probability.

Less is within what a guess varies by from name to name, and what ``gradient-ascent`` does not push
either: it leaves a token alone once it is likelier than a guess by no more than about as much.
"""

REPLACEMENTS = 8
"""How many other subjects a record is said of. Some have the same answer, so one is too few."""


class TokenMask(NamedTuple):
    """The token positions of each forget record, in prompt plus answer with special tokens."""

    positions: Mapping[str, tuple[int, ...]]
    """By record id, ascending, never empty."""
    no_replacement: int = 0
    """``fact``: how many records keep their whole answer because no other subject fits."""
    no_fact: int = 0
    """``fact``: how many keep it because none of its tokens depends on the subject."""


def token_mask(
    model: LanguageModel,
    forget_set: ForgetSet,
    tokens: Tokens,
    *,
    threshold: float = THRESHOLD,
    replacements: int = REPLACEMENTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> TokenMask:
    """The tokens of every forget record that ``tokens`` stands for.

    ``subject``: of every mention of the subject in the prompt. ``answer``: of the answer.
    ``fact``: those of the answer that depend on who the subject is, see ``drops``; where there is
    none, or no other subject to compare with, all of the answer.

    Raises:
        InputError: a record cannot be cut into such tokens. Names the record by its id.
        NumericalError: a log-probability is not finite.
    """
    found: dict[str, tuple[int, ...]] = {}
    no_replacement = no_fact = 0
    for number, record in enumerate(forget_set.forget, 1):
        if tokens == "subject":
            found[record.id] = tuple(read_fact(model, record).subject_positions)
        elif tokens == "answer":
            found[record.id] = _answer(model, record)
        else:
            fact = read_fact(model, record)
            others = twins(model, forget_set, fact, record_seed(seed, record.id), replacements)
            chosen = (drops(model, fact, others) > threshold).nonzero().flatten().tolist()
            no_replacement += not others
            no_fact += bool(others) and not chosen
            start, whole = len(fact.prompt_ids), range(len(fact.answer_ids))
            found[record.id] = tuple(start + place for place in chosen or whole)
        if progress is not None:
            progress("tokens", number / len(forget_set.forget))
    return TokenMask(found, no_replacement, no_fact)


def with_tokens(
    sites: Sites,
    model: LanguageModel,
    forget_set: ForgetSet,
    tokens: Tokens,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sites:
    """The same sites with the mask of ``tokens``, in place of one that they may have.

    The settings say which tokens, and for ``fact`` how they were found and how many records keep
    their whole answer for want of another subject or of a token that depends on it.
    """
    mask = token_mask(model, forget_set, tokens, seed=seed, progress=progress)
    settings = {**sites.settings, "tokens": tokens}
    if tokens == "fact":
        settings |= {
            "tokens_threshold": THRESHOLD,
            "tokens_replacements": REPLACEMENTS,
            "tokens_no_replacement": mask.no_replacement,
            "tokens_no_fact": mask.no_fact,
        }
    return sites.model_copy(update={"token_mask": mask.positions, "settings": settings})


def drops(model: LanguageModel, fact: Fact, others: Sequence[Sequence[int]]) -> Tensor:
    """What each token of the answer loses, in nats, when the prompt is about somebody else.

    ``log p(token | prompt, answer so far) - mean over others of log p(token | other prompt, answer
    so far)``, one entry for each token of the answer; 0 without others. Higher = depends more on
    the subject. About 0 for a token that follows from the form, or from the tokens before it: of a
    word that the vocabulary completes in one way only the first token counts. A subject with the
    same answer lowers it. Of a fact that the model does not know it says nothing.

    Args:
        model: Asked once for each prompt, with the answer's own tokens behind it.
        fact: The record.
        others: Prompts about other subjects, as long as the fact's.
    """
    answer = torch.tensor(fact.answer_ids)
    if not others:
        return torch.zeros(len(answer))
    prompts = torch.tensor([fact.prompt_ids, *others])
    ids = torch.cat([prompts, answer.expand(len(prompts), -1)], 1)  # (row, pos)
    with forward_only(model.model):
        logits = model.model(input_ids=ids.to(model.device), use_cache=False).logits
    logprobs = logits[:, -len(answer) - 1 : -1].float().log_softmax(-1).cpu()
    found = logprobs.gather(-1, answer.expand(len(ids), -1)[..., None])[..., 0]
    lost: Tensor = found[0] - found[1:].mean(0)
    if not lost.isfinite().all():
        raise NumericalError(
            f"record {fact.record.id!r}: the model gives a log-probability that is no finite "
            "number; load it with dtype float32"
        )
    return lost


def _answer(model: LanguageModel, record: Record) -> tuple[int, ...]:
    try:
        encoded = model.encode(record.prompt, record.completion)
    except InputError as error:
        raise InputError(f"record {record.id!r}: {error}") from error
    return tuple(range(encoded.start, len(encoded.ids)))
