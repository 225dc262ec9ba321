"""How much of what the original knows survives when the audited model's states take over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unlearn.model.forward import forward_only, pad_right
from unlearn.model.hooks import capture, patch
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import Job, batches, distinct_jobs, score, score_batch, targets
from unlearn.model.sweep import Decoder
from unlearn.probes.probe import Bench, Curve, Measurement, ModelProbe
from unlearn.registry import probes
from unlearn.types import Record, Role

Floats = npt.NDArray[np.float64]

THRESHOLD = 0.05
"""Nats per token that a layer's states must carry to count, that of the unlearning depth score."""
MAX_BATCH_TOKENS = 1024
"""The states of every block are held for so many tokens, padding counted."""


@probes.register("patching-depth")
class PatchingDepth(ModelProbe):
    """How much of what the original's states carry the unlearned model's states still carry.

    The block outputs of another model, where it predicts the answer tokens, are put into the
    original, one layer l at a time; the mean log-probability of the answer tokens falls by d1(l)
    with the reference's states and by d2(l) with the unlearned model's. Over the layers with
    d1 > 0.05 nats, ``patched_knowledge`` = 1 - sum d1 clip(d2 / d1, 0, 1) / sum d1: one minus the
    unlearning depth score (UDS, after github.com/gnueaj/unlearning-depth-score), but that d1 counts
    at most as what the reference itself lacks: its own loss on the answer less the original's. A
    reference trained from another seed writes its states in another basis, and the original makes
    less of them than ignorance would explain. Range 0 to 1, higher when more is left; the original
    has 1 and the reference 0 by construction.
    Curve: one minus the mean clipped ratio at each layer that carries anything, by how many blocks
    the states have passed.

    Known failure: states that were bent so that the original cannot use them, such as by a constant
    added to all of them, count as erased. A low figure is no proof; a high one is.
    Records of which no layer carries anything, or that the reference knows as well, are left out.
    Models of another shape than the original cannot be patched into it; then there is no figure.
    """

    summary = "how much knowledge the states of each layer carry back into the original"
    honours = frozenset({"weights"})
    cost = "two forward passes for each forget record and block"
    tier = "deep"
    property = "accuracy"
    needs = frozenset({"original", "reference"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``patched_knowledge/forget``."""
        original, records = bench.models["original"], bench.material["forget"]
        sources = [bench.models["reference"], bench.models["unlearned"]]
        if any(shape_of(source) != shape_of(original) for source in sources):
            return {}
        lacking, lost = falls(original, sources, records)
        lacking = np.minimum(lacking, ignorance(original, sources[0], records)[:, None])
        carries = lacking > THRESHOLD
        kept = np.flatnonzero(carries.any(1))
        if not len(kept):
            return {}
        some = [records[index] for index in kept]
        weight = np.where(carries, lacking, 0)[kept]
        ratios: dict[Role, Floats] = {
            "original": np.zeros_like(weight),
            "unlearned": np.clip(lost[kept] / np.where(carries, lacking, 1)[kept], 0, 1),
            "reference": np.ones_like(weight),
        }
        return {role: [_measured(some, weight, ratios[role])] for role in bench.models}


def shape_of(lm: LanguageModel) -> tuple[str, int, int]:
    """What two models must share for states of one to mean anything in the other."""
    width = int(lm.model.get_submodule(lm.anatomy.embedding).weight.shape[1])
    return type(lm.model).__name__, lm.anatomy.n_layers, width


def ignorance(
    original: LanguageModel, reference: LanguageModel, records: Sequence[Record]
) -> Floats:
    """(record,) nats per token by which the reference finds the answer less likely."""
    known, unknown = (
        np.array([scored.nll_per_token for scored in score(lm, records)])
        for lm in (original, reference)
    )
    lacking: Floats = unknown - known
    return lacking


class Falls(NamedTuple):
    """What the answers lose in the original, (record, layer), in nats per token."""

    by_reference: Floats
    by_unlearned: Floats


def falls(
    original: LanguageModel,
    sources: Sequence[LanguageModel],
    records: Sequence[Record],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> Falls:
    """How far the answers' mean log-probability falls with the states of each source's layers."""
    jobs, index_of = distinct_jobs(original, records)
    n_layers = original.anatomy.n_layers
    lost = np.zeros((len(sources), len(records), n_layers))
    for batch in batches(jobs, max_batch_tokens):
        before = dict(_logprobs(original, batch))
        for number, source in enumerate(sources):
            states = _states(source, batch)
            for layer, name in enumerate(original.anatomy.layers):
                edit = put(states[layer], batch)
                with patch(original.model, {name: edit}):
                    for index, after in _logprobs(original, batch):
                        lost[number, index, layer] = before[index] - after
    return Falls(*lost[:, index_of])


def _logprobs(lm: LanguageModel, batch: Sequence[Job]) -> Iterator[tuple[int, float]]:
    with forward_only(lm.model):
        for index, scores in score_batch(lm, batch):
            yield index, -scores.nll_per_token


def _states(lm: LanguageModel, batch: Sequence[Job]) -> list[Tensor]:
    """What each block puts out, (text, position, width)."""
    ids, mask = (tensor.to(lm.device) for tensor in pad_right([job.encoding.ids for job in batch]))
    decoder = Decoder(lm.model, lm.anatomy)
    with forward_only(lm.model), capture(lm.model, lm.anatomy.layers) as states:
        decoder.forward(ids, attention_mask=mask)
    return [states[name] for name in lm.anatomy.layers]


def put(states: Tensor, batch: Sequence[Job]) -> Callable[[Tensor], Tensor]:
    """An edit that puts states in where the answer tokens are predicted."""
    rows, columns = targets(batch)

    def edit(stream: Tensor) -> Tensor:
        stream[rows, columns - 1] = states[rows, columns - 1].to(stream)
        return stream

    return edit


def _measured(records: Sequence[Record], weight: Floats, ratio: Floats) -> Measurement:
    left = 1 - (weight * ratio).sum(1) / weight.sum(1)
    carrying = [layer for layer in range(weight.shape[1]) if weight[:, layer].any()]
    points = tuple(
        (float(layer + 1), float(1 - ratio[weight[:, layer] > 0, layer].mean()))
        for layer in carrying
    )
    return Measurement(
        metric="patched_knowledge",
        split="forget",
        title="Knowledge carried by the states, of what the original's carry",
        values={r.id: float(value) for r, value in zip(records, left, strict=True)},
        curve=Curve("layer", points),
    )
