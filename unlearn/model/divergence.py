"""How far apart two models' predictions and states are, token by token, on the same texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn.errors import NumericalError, UnsupportedError
from unlearn.model.forward import forward_only
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import Job, batches, encode_all, read_logits
from unlearn.types import Statement

MAX_BATCH_TOKENS = 2048
"""Half of what scoring takes, as two models' logits are held at once."""

Measure = Callable[[Tensor, Tensor], Tensor]
"""From log-probabilities of two models, (tokens, vocabulary) each, to one number a token."""


class Apart(NamedTuple):
    """How far two models are apart on one text."""

    predictions: float
    """The mean over the tokens that were compared."""
    states: float
    """||h - h'|| / ||h'|| of the final stream, mean over the same tokens; 0 where not asked for."""


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, from 0 (equal) to 1 (no outcome in common); symmetric."""
    mixture = torch.logsumexp(torch.stack([first, second]), dim=0) - math.log(2)
    one, two = (_kl(p, mixture) for p in (first, second))
    return (one + two) / (2 * math.log(2))


def kl_to(first: Tensor, second: Tensor) -> Tensor:
    """KL(second || first) in nats, from 0: what the first model loses where the second is right."""
    return _kl(second, first)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    terms = p.exp() * (p - q)
    # 0 log 0 = 0: a masked entry of the vocabulary has no part.
    return terms.masked_fill(p == -math.inf, 0).sum(-1).clamp_min(0)


def compare(
    lm: LanguageModel,
    other: LanguageModel,
    statements: Sequence[Statement],
    measure: Measure,
    *,
    whole_text: bool = False,
    with_states: bool = False,
    progress: Callable[[float], None] | None = None,
) -> list[Apart]:
    """How far ``lm`` is from ``other`` on each statement, in the order of the statements.

    Compared are the predictions of the answer's tokens, the true tokens before them given; with
    ``whole_text`` those of every token but the first. A text that occurs twice is read once.

    Raises:
        InputError: as ``unlearn.model.scoring.score``.
        NumericalError: a prediction that is no finite number.
        UnsupportedError: models that cut texts into other tokens, or have other vocabularies.
    """
    texts = [(s.prompt, s.completion) for s in statements]
    first: dict[tuple[str, str], int] = {}
    for index, text in enumerate(texts):
        first.setdefault(text, index)
    jobs, others = encode_all(lm, first), encode_all(other, first)
    if [j.encoding.ids for j in jobs] != [j.encoding.ids for j in others]:
        raise UnsupportedError("the models cut a text into other tokens, so they do not compare")
    found: dict[int, Apart] = {}
    with forward_only(lm.model), forward_only(other.model):
        for batch in batches(jobs, MAX_BATCH_TOKENS):
            found |= dict(_batch(lm, other, batch, measure, whole_text, with_states))
            if progress is not None:
                progress(len(found) / len(jobs))
    return [found[first[text]] for text in texts]


def _batch(
    lm: LanguageModel,
    other: LanguageModel,
    batch: Sequence[Job],
    measure: Measure,
    whole_text: bool,
    with_states: bool,
) -> Iterator[tuple[int, Apart]]:
    width = max(len(job.encoding.ids) for job in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, job in enumerate(batch):
        ids[row, : len(job.encoding.ids)] = torch.tensor(job.encoding.ids)
        mask[row, : len(job.encoding.ids)] = 1
    logits, states = zip(*(_read(one, ids, mask, with_states) for one in (lm, other)), strict=True)
    if logits[0].shape != logits[1].shape:
        raise UnsupportedError("the models have vocabularies of other sizes")
    for row, job in enumerate(batch):
        start = 1 if whole_text else job.encoding.start
        # The prediction of a token stands at the position before it.
        places = slice(start - 1, len(job.encoding.ids) - 1)
        pair = [torch.log_softmax(one[row, places].float(), dim=-1) for one in logits]
        apart = float(measure(*pair).mean())
        if not math.isfinite(apart):
            raise NumericalError(f"statement {job.statement}: a model's logits are not finite")
        yield job.statement, Apart(apart, _drift(states, row, places) if with_states else 0.0)


def _read(lm: LanguageModel, ids: Tensor, mask: Tensor, with_states: bool) -> tuple[Any, Any]:
    if not with_states:
        return read_logits(lm, ids, mask, ids.shape[1]), None
    output = lm.model(
        input_ids=ids.to(lm.device),
        attention_mask=mask.to(lm.device),
        use_cache=False,
        output_hidden_states=True,
    )
    return output.logits, output.hidden_states[-1]


def _drift(states: Sequence[Tensor], row: int, places: slice) -> float:
    ours, theirs = (state[row, places].float() for state in states)
    distance = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-12)
    return float(distance.mean())
