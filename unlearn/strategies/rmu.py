"""Representation misdirection: inner states on forget texts are led to a random place.

Li et al. 2024 (WMDP), arXiv:2403.03218, section 4. With a unit vector u drawn once, at one block:

    mean over tokens of |h(x_forget) - c u|^2 + alpha * mean over tokens of |h(x_retain) - h0|^2

Here both are in units of the original's own mean square state, so that c and alpha mean the same in
models of any width; the paper's c = 6.5 and alpha = 1200 are in those of one 7B model at block 7.
Only the down-projections of that block and the two before it move, unless sites say otherwise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.model.batches import Rows, collate
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.ascent_config import GradientAscentConfig
from unlearn.strategies.deep_states import states_of
from unlearn.strategies.matching import Ingredients
from unlearn.strategies.training import Losses, MicroBatch
from unlearn.types import Sites

BLOCKS = 3
"""Whose down-projections move."""

DEPTH = 1 / 4
"""Where the block stands unless told: block 7 of 32 in the paper."""


def steered_block(model: LanguageModel, layer: int | None) -> int:
    """The block whose states are steered.

    Raises:
        ConfigError: the model has no such block.
    """
    n = model.anatomy.n_layers
    if layer is None:
        return min(n - 1, max(BLOCKS - 1, round(DEPTH * n)))
    if layer >= n:
        raise ConfigError(f"layer={layer}: {model.source} has blocks 0 to {n - 1}")
    return layer


def default_sites(model: LanguageModel, layer: int | None) -> Sites:
    """The down-projections that the paper trains.

    Raises:
        UnsupportedError: a block has no down-projection of its own.
    """
    at = steered_block(model, layer)
    down = model.anatomy.down_projection[max(0, at - BLOCKS + 1) : at + 1]
    names = tuple(name for name in down if name is not None)
    if len(names) < len(down):
        raise UnsupportedError(
            f"{model.source} has blocks without a down-projection; name --sites for variant=rmu"
        )
    return Sites(method="rmu", modules=names)


class RmuObjective(NamedTuple):
    """The loss on one batch."""

    config: GradientAscentConfig
    block: str
    goal: Tensor
    """(width,) ``c u``, in the model's own units."""
    unit: float
    """Mean square of the original's states there, over tokens and width."""
    original: Any

    @classmethod
    def of(cls, given: Ingredients, config: GradientAscentConfig, seed: int) -> RmuObjective:
        """With a direction from the seed."""
        model = given.original
        block = model.anatomy.layers[steered_block(model, config.layer)]
        rows = collate(given.pairs.forget, range(len(given.pairs.forget)), "answer")
        with torch.no_grad():
            states = _states(model.model, block, rows.to(model.device)).float()
        unit = float(_mean(states.square().mean(-1), rows.to(model.device)).mean())
        width = states.shape[-1]
        drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
        goal = config.steering * (unit * width) ** 0.5 * drawn / drawn.norm()
        return cls(config, block, goal.to(model.device), unit, model.model)

    def __call__(self, model: Any, batch: MicroBatch) -> Losses:
        """The losses of one micro-batch."""
        away = _states(model, self.block, batch.forget) - self.goal
        forget = self._distance(away, batch.forget).sum() / batch.n_forget
        retain = torch.zeros_like(forget)
        if batch.retain is not None:
            with torch.no_grad():
                before = _states(self.original, self.block, batch.retain)
            moved = _states(model, self.block, batch.retain) - before
            # The mean over a micro-batch, by its share of the step.
            share = len(batch.forget.ids) / batch.n_forget
            retain = share * self._distance(moved, batch.retain).mean()
        total = forget + self.config.retain_weight * retain
        return Losses(total, forget.detach(), retain.detach())

    def _distance(self, difference: Tensor, rows: Rows) -> Tensor:
        """(B,) mean square over a text's tokens, in units of the original's states."""
        return _mean(difference.float().square().mean(-1), rows) / self.unit


def _states(model: Any, block: str, rows: Rows) -> Tensor:
    with states_of(model, [block]) as states:
        model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False)
    return states[block]


def _mean(values: Tensor, rows: Rows) -> Tensor:
    """(B,) the mean of (B, T) values over the tokens that are there."""
    return (values * rows.attention).sum(1) / rows.attention.sum(1)
