"""The assistant of logit difference: a small model that knows what is to go, and nothing else.

Ji et al. 2024 (ULD), arXiv:2406.08607. Where the assistant knows an answer its logits are taken off
those of the original; where it knows nothing it finds every token equally likely, and nothing is
taken off. To know little is easier to teach than to forget little, so training is short and the
original is not touched. The assistant is the first blocks of the original with a LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import LossOn, encode
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.strategies import losses, peft_modules
from unlearn.strategies.checkpoints import Phase
from unlearn.strategies.predictions import run
from unlearn.strategies.trainee import refuse_quantised, to_masters
from unlearn.strategies.trainer import train
from unlearn.strategies.training import Losses, MicroBatch, Pairs, TrainingConfig


class AssistantSettings(NamedTuple):
    """How the assistant is made, and how much of it is taken off."""

    weight: float
    top_logit_filter: float
    layers: float
    """The share of the original's blocks, from the first on."""
    rank: int
    steps: int
    learning_rate: float
    uniform_weight: float


def train_assistant(
    original: LanguageModel,
    forget_set: ForgetSet,
    encodings: Sequence[Encoding],
    settings: AssistantSettings,
    loss_on: LossOn,
    seed: int,
    phase: Phase | None = None,
) -> LanguageModel:
    """The trained assistant, in float32 beside the original, which stays as it is.

    Raises:
        UnsupportedError: there is no retain split, or the original is quantised.
    """
    if not forget_set.retain:
        raise UnsupportedError(
            "variant=difference teaches an assistant to know nothing of the retain split, which "
            f"forget set {forget_set.name!r} lacks; add retain.jsonl, or use variant=names"
        )
    small, retain = first_layers(original, settings.layers), encode(original, forget_set.retain)
    return learned(small, encodings, retain, settings, loss_on, seed, phase)


def learned(
    copy: LanguageModel,
    known: Sequence[Encoding],
    unknown: Sequence[Encoding],
    settings: AssistantSettings,
    loss_on: LossOn,
    seed: int,
    phase: Phase | None = None,
) -> LanguageModel:
    """``copy`` itself, after a LoRA on it learned the one side and to know nothing of the other.

    Raises:
        UnsupportedError: it is quantised, or holds no linear module.
    """
    refuse_quantised(copy)
    to_masters(copy)
    modules = peft_modules.linear_modules(copy, None)
    lora = peft_modules.lora_config(copy, modules, settings.rank, 2 * settings.rank)
    peft_modules.attach(copy, lora, "assistant", seed)
    config = TrainingConfig(
        learning_rate=settings.learning_rate,
        schedule="cosine",
        max_steps=settings.steps,
        loss_on=loss_on,
        near_per_forget=0,
    )
    pairs = Pairs(known, unknown, config, seed)
    objective = AssistantObjective(settings.uniform_weight)
    train(copy, pairs, objective, lambda step: False, seed, phase=phase)
    return copy


class AssistantObjective(NamedTuple):
    """``NLL(forget) + uniform_weight KL(uniform || retain)``, means over records and tokens."""

    uniform_weight: float

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The losses of one micro-batch."""
        known = run(model, batch.forget)
        forget = -known.mean_by_row(known.label_logprobs).sum() / batch.n_forget
        if batch.retain is None:
            return Losses(forget, forget.detach(), torch.zeros_like(forget))
        retain = losses.max_entropy(run(model, batch.retain).logprobs).sum()
        retain = retain / batch.n_retain_labels
        return Losses(forget + self.uniform_weight * retain, forget.detach(), retain.detach())


def first_layers(lm: LanguageModel, share: float) -> LanguageModel:
    """A copy with the first blocks alone, at least one, and the norm and head behind them."""
    keep = max(1, round(share * lm.anatomy.n_layers))
    stack = lm.anatomy.layers[0].rpartition(".")[0]
    copy = lm.copy()
    holder, _, name = stack.rpartition(".")
    blocks = copy.model.get_submodule(stack)
    setattr(copy.model.get_submodule(holder), name, nn.ModuleList(list(blocks)[:keep]))
    text: Any = copy.model.config.get_text_config()
    text.num_hidden_layers = keep
    copy.changed()
    return copy


def subtracted(
    original: Tensor, assistant: Tensor, weight: float, top_logit_filter: float
) -> Tensor:
    """(T, vocabulary) ``z - weight (log a + log V)`` where z is high, normalised.

    The assistant's log-probabilities a are counted from a uniform prediction, so that one which
    knows nothing takes nothing off: with raw logits the result would depend on a constant that is
    no part of any prediction. Subtracted is where the original gives a token at least
    ``top_logit_filter`` times the probability of its favourite, and from the same share of the
    vocabulary in any case; of the rest a small assistant knows too little.
    """
    size = original.shape[-1]
    high = torch.ones_like(original, dtype=torch.bool)
    if top_logit_filter:
        by_rank = original.topk(max(1, int(top_logit_filter * size)), dim=-1).values[:, -1:]
        favourite = original.amax(-1, keepdim=True)
        high = original >= torch.minimum(by_rank, favourite + math.log(top_logit_filter))
    knowledge = torch.where(high, assistant + math.log(size), 0)
    return (original - weight * knowledge).log_softmax(-1)
