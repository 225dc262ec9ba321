"""The values of an edit: what is added to a down-projection's answers so that models know nothing.

ROME's v* is the old answer plus a δ found by gradients. Here δ alone is what is sought and what the
closed form adds to the answers, so the key it is added to is the same one everywhere (in ROME's own
code v* is of the bare key and the rest of the averaged one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from unlearn.model.activations import by_length
from unlearn.model.batches import collate
from unlearn.model.divergence import kl_to
from unlearn.model.forward import accepts, differentiable
from unlearn.model.hooks import patch
from unlearn.model.language_model import LanguageModel
from unlearn.model.lens import Lens
from unlearn.strategies.ignorance import Ignorance, Seen
from unlearn.strategies.predictions import predict
from unlearn.strategies.spots import Row
from unlearn.types import Noun

MAX_BATCH_TOKENS = 8192
STALL_AFTER, STALL_SHARE = 10, 0.9
"""A place where so many steps leave more than this share of the loss cannot hold the edit."""


class ValueSettings(Noun):
    """How values are sought."""

    steps: int
    learning_rate: float
    """Of Adam, in units of the root mean square entry of the old answer."""
    decay: float
    clamp: float
    essence_weight: float
    enough: float


class Task(NamedTuple):
    """What values are sought for."""

    layer: int
    rows: Sequence[Row]
    groups: Sequence[tuple[int, ...]]
    """For each record, which value each of its spots gets."""
    old: Tensor
    """(value, width) what the down-projection answers now: sets the scale."""
    ignorance: Ignorance
    essence: Sequence[Row] = ()
    """Prompts whose continuation is to stay; their records index ``groups`` too."""
    lens: Lens | None = None
    depths: tuple[int, ...] = ()
    """Blocks whose output the lens reads."""


class Values(NamedTuple):
    """What is to be added to the answers."""

    moves: Tensor
    """(value, width), float64 on the CPU."""
    loss: float
    """Mean over rows, in nats."""
    start: float
    """What it was with nothing added."""
    steps: int

    @property
    def stalled(self) -> bool:
        """Whether nothing that is added there changes much."""
        return self.loss > STALL_SHARE * self.start


def find_values(
    lm: LanguageModel,
    task: Task,
    settings: ValueSettings,
    progress: Callable[[float], None] | None = None,
) -> Values:
    """The values that bring the loss down to ``enough``, or the best that were found.

    Minimises the mean loss of the rows + decay · mean (‖δ‖/‖v₀‖)² + essence weight · KL on the
    essence prompts, over δ with ‖δ‖ ≤ clamp · ‖v₀‖ (Meng et al. 2022, eq. 4, whose code does not
    square the norm). ``lm`` stays as it is.
    """
    width = task.old.shape[1]
    unit = (task.old.float().norm(dim=1, keepdim=True) / width**0.5).to(lm.device)
    x = torch.zeros(task.old.shape, device=lm.device, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=settings.learning_rate)
    essence = _essence(lm, task)
    best, lowest, start = x.detach().clone(), float("inf"), 0.0
    step = 0
    for step in range(settings.steps + 1):
        optimiser.zero_grad()
        loss = _backward(lm, task, settings, x, unit, essence)
        start = start or loss
        if loss < lowest:
            best, lowest = x.detach().clone(), loss
        stuck = step == STALL_AFTER and lowest > STALL_SHARE * start
        if lowest <= settings.enough or stuck or step == settings.steps:
            break
        optimiser.step()
        with torch.no_grad():
            size = x.norm(dim=1, keepdim=True) / width**0.5
            x.mul_((settings.clamp / size.clamp(min=1e-12)).clamp(max=1))
        if progress is not None:
            progress(step / settings.steps)
    return Values((best * unit).double().cpu(), lowest, start, step)


def _backward(
    lm: LanguageModel,
    task: Task,
    settings: ValueSettings,
    x: Tensor,
    unit: Tensor,
    essence: Sequence[Tensor],
) -> float:
    """Adds the gradient of the whole objective to x; returns the mean loss of the rows."""
    total = 0.0
    with differentiable(lm.model, []):
        for group in by_length([row.encoding.ids for row in task.rows], MAX_BATCH_TOKENS):
            rows = [task.rows[i] for i in group]
            loss = task.ignorance(_seen(lm, task, rows, x * unit)).sum() / len(task.rows)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        rest = settings.decay * (x**2).mean()
        if essence:
            drift = essence_loss(lm, task, x * unit, essence)
            rest = rest + settings.essence_weight * drift
        rest.backward()  # type: ignore[no-untyped-call]
    return total


def loss_at(lm: LanguageModel, task: Task, moves: Tensor) -> Tensor:
    """The mean loss of the rows with these moves added; a scalar that gradients pass."""
    seen = _seen(lm, task, task.rows, moves)
    return task.ignorance(seen).mean()


def _seen(lm: LanguageModel, task: Task, rows: Sequence[Row], moves: Tensor) -> Seen:
    batch = collate([row.encoding for row in rows], range(len(rows)), "answer").to(lm.device)
    with _moved(lm, task, rows, moves), _kept(lm, task.depths) as streams:
        output = lm.model(input_ids=batch.ids, attention_mask=batch.attention, **_without_cache(lm))
    predictions = predict(output.logits, batch.labels)
    row, column = (batch.labels[:, 1:] >= 0).nonzero(as_tuple=True)
    # Only behind the block above, whose hooks would fire again as the lens runs the head.
    depths = (
        ()
        if task.lens is None
        else tuple(task.lens.differentiable(streams[depth][row, column]) for depth in task.depths)
    )
    return Seen(predictions, torch.tensor([row.record for row in rows]), depths)


def essence_loss(lm: LanguageModel, task: Task, moves: Tensor, before: Sequence[Tensor]) -> Tensor:
    """The mean KL from the original of what follows the essence prompts."""
    now = _last_logprobs(lm, task, moves)
    return kl_to(now, torch.stack(list(before))).mean()


def _essence(lm: LanguageModel, task: Task) -> Sequence[Tensor]:
    if not task.essence:
        return ()
    nothing = torch.zeros(task.old.shape, device=lm.device)
    with torch.no_grad():
        return tuple(_last_logprobs(lm, task, nothing))


def _last_logprobs(lm: LanguageModel, task: Task, moves: Tensor) -> Tensor:
    rows = list(task.essence)
    encodings = [row.encoding for row in rows]
    batch = collate(encodings, range(len(rows)), "text").to(lm.device)
    with _moved(lm, task, rows, moves):
        output = lm.model(input_ids=batch.ids, attention_mask=batch.attention, **_without_cache(lm))
    last = torch.tensor([len(encoding.ids) - 1 for encoding in encodings], device=lm.device)
    logits: Tensor = output.logits[torch.arange(len(rows), device=lm.device), last]
    return logits.float().log_softmax(-1)


@contextmanager
def _moved(lm: LanguageModel, task: Task, rows: Sequence[Row], moves: Tensor) -> Iterator[None]:
    """A block in which the layer's down-projection answers with the moves added at the spots."""
    module = lm.anatomy.require_down_projection(task.layer)
    pairs = [
        (index, position, value)
        for index, row in enumerate(rows)
        for position, value in zip(row.positions, task.groups[row.record], strict=True)
    ]
    row, position, value = torch.tensor(pairs, device=lm.device).reshape(-1, 3).unbind(1)

    def move(output: Tensor) -> Tensor:
        shaped = output.reshape(len(rows), -1, output.shape[-1])  # some work on flat positions
        return shaped.index_put(
            (row, position), moves[value].to(output.dtype), accumulate=True
        ).reshape(output.shape)

    with patch(lm.model, {module: move}):
        yield


@contextmanager
def _kept(lm: LanguageModel, depths: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """The streams behind some blocks, with their gradients."""
    streams: dict[int, Tensor] = {}

    def keeper(depth: int) -> Callable[[Tensor], Tensor]:
        def keep(stream: Tensor) -> Tensor:
            streams[depth] = stream
            return stream

        return keep

    with patch(lm.model, {lm.anatomy.layers[depth]: keeper(depth) for depth in depths}):
        yield streams


def _without_cache(lm: LanguageModel) -> dict[str, bool]:
    return {"use_cache": False} if accepts(lm.model, "use_cache") else {}
