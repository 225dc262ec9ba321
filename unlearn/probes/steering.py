"""Whether a direction taken out of the hidden states brings forgotten answers back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.model.hooks import patch
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores, distinct_jobs, score
from unlearn.model.streams import read_states
from unlearn.probes.probe import Bench, Measurement, ModelProbe, fact_of
from unlearn.registry import probes
from unlearn.types import Record, Role

MAX_LAYERS = 8
"""How many layers are tried, evenly spread."""
MAX_FITTED = 64
"""Of the facts a direction is fitted on, how many records it is fitted and chosen on."""

How = Literal["subtract", "ablate"]
Where = Literal["last", "all"]


class Shift(NamedTuple):
    """How the states of one layer have moved, and how that is undone."""

    layer: int
    how: How
    """``subtract`` the mean shift, or ``ablate`` its direction: project it out."""
    vector: Tensor
    """(width,) float32"""


@probes.register("steering")
class Steering(ModelProbe):
    """Whether the answers come back when the direction in which states moved is taken out.

    Forgetting that pushes the states of forget prompts into one direction (RMU, Li et al. 2024) is
    undone by whoever finds it: on RMU models an ablation of it regains much of what was lost. The
    direction is the mean over forget prompts of this model's states minus the original's; without
    an original, of the forget prompts' states minus those of retain prompts. It is fitted on one
    half of the facts at up to 8 layers, at the last token of the prompt and over all its tokens,
    and subtracted or projected out everywhere. What brings back most of that half, which may be
    nothing at all, is used on the other half, and the other way round. ``steered_answers`` is the
    share answered then, ``steered_probability`` the answers' probability. Range 0 to 1; higher
    when the model knows more. The original has no figure: it has nothing to be undone.

    The mean shift of other facts cannot hold an answer of this one, but may hold what their answers
    have in common, so read it against a reference, which is steered in the same way.
    """

    summary = "whether taking one direction out of the states brings the answers back"
    honours = frozenset({"weights"})
    cost = "about 33 forward passes for each of 128 forget records, and one for every other"
    tier = "deep"
    property = "accuracy"

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``steered_answers/forget`` and ``steered_probability/forget``."""
        records = bench.material["forget"]
        halves = halved(records, bench.seed)
        if not all(halves):
            return {}
        found: dict[Role, list[Measurement]] = {}
        for role in ("unlearned", "reference"):
            lm = bench.models.get(role)
            if lm is None:
                continue
            scores: dict[str, TokenScores] = {}
            for fitted, tested in (halves, halves[::-1]):
                some = _drawn(fitted, MAX_FITTED, bench.seed)
                best = _best(lm, shifts(lm, some, bench), some)
                told = steered(lm, best, tested)
                scores |= {r.id: s for r, s in zip(tested, told, strict=True)}
            found[role] = _measured([(record.id, scores[record.id]) for record in records])
        return found


def halved(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """The records of one half of the facts, and of the other."""
    facts = sorted(set(map(fact_of, records)))
    order = np.random.default_rng(seed).permutation(len(facts))
    first = {facts[at] for at in order[: (len(facts) + 1) // 2]}
    return (
        [record for record in records if fact_of(record) in first],
        [record for record in records if fact_of(record) not in first],
    )


def _drawn(records: Sequence[Record], most: int, seed: int) -> list[Record]:
    by_id = sorted(records, key=lambda record: record.id)
    order = np.random.default_rng(seed).permutation(len(by_id))[:most]
    return [by_id[at] for at in sorted(order.tolist())]


def shifts(lm: LanguageModel, records: Sequence[Record], bench: Bench) -> list[Shift]:
    """Every way to undo how the model's states moved on these records; none where they did not."""
    here, layers = mean_states(lm, records), tried(lm.anatomy.n_layers)
    original, retain = bench.models.get("original"), bench.material.get("retain", ())
    if original is not None and mean_states_fit(lm, original):
        there = mean_states(original, records)
    elif retain:
        there = mean_states(lm, _drawn(retain, MAX_FITTED, bench.seed))
    else:
        return []
    found = []
    for where, states in here.items():
        for layer in layers:
            vector = states[layer + 1] - there[where][layer + 1]
            if float(vector.norm()) > 0:
                found += [Shift(layer, how, vector) for how in ("subtract", "ablate")]
    return found


def mean_states_fit(lm: LanguageModel, other: LanguageModel) -> bool:
    """Whether states of the two can be subtracted layer by layer."""
    widths = {m.model.get_submodule(m.anatomy.embedding).weight.shape[1] for m in (lm, other)}
    return len(widths) == 1 and lm.anatomy.n_layers == other.anatomy.n_layers


def tried(n_layers: int) -> list[int]:
    """Up to ``MAX_LAYERS`` block indices, evenly spread, the last one among them."""
    n = min(n_layers, MAX_LAYERS)
    return [((at + 1) * n_layers) // n - 1 for at in range(n)]


def mean_states(lm: LanguageModel, records: Iterable[Record]) -> Mapping[Where, Tensor]:
    """The mean stream over prompts, (depth, width) float32: at their last token, and over all.

    The first token is left out: what stands there is the same in every text, and often huge.
    """
    jobs, _ = distinct_jobs(lm, tuple(records))
    texts = [job.encoding.ids[: job.encoding.start] for job in jobs]
    last = _mean(lm, texts, [[len(ids) - 1] for ids in texts])
    every = _mean(lm, texts, [range(min(1, len(ids) - 1), len(ids)) for ids in texts])
    return {"last": last, "all": every}


def _mean(
    lm: LanguageModel, texts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> Tensor:
    total, n = torch.zeros((), dtype=torch.float64), 0
    for states in read_states(lm, texts, positions):
        total = total + states.stream.double().sum(0).cpu()
        n += len(states.texts)
    return (total / n).float()


def _best(lm: LanguageModel, tries: Iterable[Shift], records: Sequence[Record]) -> Shift | None:
    """What brings the answers to these records back most; None where nothing does."""

    def known(shift: Shift | None) -> float:
        return -float(np.mean([found.nll_per_token for found in steered(lm, shift, records)]))

    best, most = None, known(None)
    for shift in tries:
        reached = known(shift)
        if reached > most:
            best, most = shift, reached
    return best


def steered(lm: LanguageModel, shift: Shift | None, records: Sequence[Record]) -> list[TokenScores]:
    """What the model gives to the answers with the shift undone at every token."""
    if shift is None:
        return score(lm, records)
    with patch(lm.model, {lm.anatomy.layers[shift.layer]: undo(shift)}):
        return score(lm, records)


def undo(shift: Shift) -> Callable[[Tensor], Tensor]:
    """An edit of a block's output."""
    unit = shift.vector / shift.vector.norm()

    def edit(stream: Tensor) -> Tensor:
        if shift.how == "subtract":
            return stream - shift.vector.to(stream)
        direction = unit.to(stream)
        along: Tensor = (stream @ direction)[..., None] * direction
        return stream - along

    return edit


def _measured(scores: Sequence[tuple[str, TokenScores]]) -> list[Measurement]:
    return [
        Measurement(
            metric="steered_answers",
            split="forget",
            title="Answers given once a direction is taken out of the states",
            values={record_id: float(found.correct) for record_id, found in scores},
        ),
        Measurement(
            metric="steered_probability",
            split="forget",
            title="Probability of the answers once a direction is taken out of the states",
            values={record_id: found.probability for record_id, found in scores},
        ),
    ]
