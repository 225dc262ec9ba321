"""A plain training loop for making models of known knowledge: some statements in, others held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.model.language_model import LanguageModel
from unlearn.types import Statement

Hook = Callable[[LanguageModel], None]


class Lesson(NamedTuple):
    """What is learned of one kind of statement."""

    statements: Sequence[Statement]
    weight: float = 1.0
    """Of the loss per answer token; negative: unlearned by gradient ascent."""
    ceiling: float = float("inf")
    """Statements whose loss is above it, in nats a token, no longer count: where ascent ends."""
    batch: int = 32


def tune(
    lm: LanguageModel,
    lessons: Sequence[Lesson],
    *,
    steps: int,
    rate: float = 1e-3,
    seed: int = 0,
    only: Iterable[str] | None = None,
    after_step: Hook | None = None,
) -> LanguageModel:
    """A copy of the model after ``steps`` of AdamW on a batch of every lesson.

    Args:
        lm: where to start; left as it is.
        lessons: what to learn and what to hold.
        steps: optimiser steps.
        rate: learning rate, constant.
        seed: of the order of statements.
        only: names of the parameters that may move; all by default.
        after_step: given the copy after each step, for projections.
    """
    copy = lm.copy()
    allowed = None if only is None else set(only)
    moving = [p for name, p in copy.model.named_parameters() if allowed is None or name in allowed]
    before = [(p, p.requires_grad) for p in copy.model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    for parameter in moving:
        parameter.requires_grad_(True)
    rng = np.random.default_rng(seed)
    encoded = [
        list(copy.encode_all([(s.prompt, s.completion) for s in lesson.statements]))
        for lesson in lessons
    ]
    optimiser = torch.optim.AdamW(moving, lr=rate, weight_decay=0.0)
    copy.model.eval()
    for _ in range(steps):
        loss = torch.zeros(())
        for lesson, encodings in zip(lessons, encoded, strict=True):
            drawn = rng.choice(len(encodings), min(lesson.batch, len(encodings)), replace=False)
            loss = loss + _loss(copy, [encodings[i] for i in drawn], lesson)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimiser.step()
        if after_step is not None:
            with torch.no_grad():
                after_step(copy)
    optimiser.zero_grad(set_to_none=True)
    for parameter, flag in before:
        parameter.requires_grad_(flag)
    copy.changed()
    return copy


def _loss(lm: LanguageModel, batch: Sequence[tuple[list[int], int]], lesson: Lesson) -> Tensor:
    """The weighted mean over statements of the loss per answer token."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    answer = torch.zeros_like(ids, dtype=torch.float32)
    for row, (tokens, start) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        answer[row, start : len(tokens)] = 1
    logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    answer = answer[:, 1:]
    per_statement = (losses * answer).sum(1) / answer.sum(1)
    counted = (per_statement.detach() <= lesson.ceiling).float()
    mean: Tensor = lesson.weight * (per_statement * counted).mean()
    return mean
