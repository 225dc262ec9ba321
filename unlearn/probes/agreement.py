"""How far a model says other things than another one: than the reference, than the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearn.errors import NumericalError
from unlearn.model.activations import by_length
from unlearn.model.divergence import js_divergence, kl_divergence
from unlearn.model.forward import forward_only, pad_right
from unlearn.model.hooks import capture
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import CHUNK, Job, batches, distinct_jobs, read_logits, targets
from unlearn.probes.probe import LOSS, Bench, Measurement, ModelProbe
from unlearn.registry import probes
from unlearn.types import Measured, Record, Role

Floats = npt.NDArray[np.float64]

MAX_BATCH_TOKENS = 1024
"""Logits of every position of so many tokens are held for each model, padding counted."""


@probes.register("agreement")
class Agreement(ModelProbe):
    """How far a model's next-token distributions lie from the reference's.

    Jensen-Shannon divergence over log 2 (Lin 1991), in 0..1, where the forget answers are
    predicted: ``divergence_from_reference`` is its mean over the answer tokens, the true text
    before each given, ``first_divergence_from_reference`` that at the first of them. Higher:
    further from a model that never knew, by knowing more or by having been bent too far. The same
    on the holdout split is what two models differ by on what neither was trained on; a model that
    forgot should not differ by much more.

    Known failure: two references from different seeds lie about as far apart on the forget records
    as on the holdout, half of what an original lies from either, so no model can be held to 0; with
    few facts that distance is uncertain. Vocabularies padded to different sizes are compared on
    what they share.
    """

    summary = "how far what a model would say lies from what a reference would say"
    honours = frozenset({"logits"})
    cost = "one forward pass for each forget and holdout record"
    tier = "standard"
    property = "accuracy"
    needs = frozenset({"reference"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``divergence_from_reference`` and the first token's, on ``forget`` and ``holdout``."""
        reference = bench.models["reference"]
        roles = [role for role in bench.models if role != "reference"]
        others = {bench.models[role].digest: bench.models[role] for role in roles}
        found: dict[Role, list[Measurement]] = {role: [] for role in roles}
        measured: tuple[Measured, ...] = ("forget", "holdout")
        for split in measured:
            records = bench.material.get(split, ())
            if not records:
                continue
            tables = dict(
                zip(others, divergences(reference, [*others.values()], records), strict=True)
            )
            for role in roles:
                table = tables[bench.models[role].digest]
                found[role] += _of_agreement(split, records, table)
        return found


def divergences(
    reference: LanguageModel,
    others: Sequence[LanguageModel],
    records: Sequence[Record],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> list[list[Floats]]:
    """For each other model and record the divergence at each answer token."""
    jobs, sources = distinct_jobs(reference, records)
    found: list[dict[int, Floats]] = [{} for _ in others]
    for batch in batches(jobs, max_batch_tokens):
        cuts = np.cumsum([len(job.encoding.ids) - job.encoding.start for job in batch])[:-1]
        there = answer_logits(reference, batch)
        for table, other in zip(found, others, strict=True):
            values = compared(answer_logits(other, batch), there, js_divergence)
            table.update(zip((j.statement for j in batch), np.split(values, cuts), strict=True))
    return [[table[source] for source in sources] for table in found]


def answer_logits(lm: LanguageModel, batch: Sequence[Job]) -> Tensor:
    """The logits where the answer tokens of a batch are predicted, (token, vocab)."""
    ids, mask = pad_right([job.encoding.ids for job in batch])
    first = min(job.encoding.start for job in batch) - 1
    rows, columns = targets(batch)
    with forward_only(lm.model):
        logits: Tensor = read_logits(lm, ids, mask, ids.shape[1] - first)
    return logits[rows, columns - 1 - first]


def compared(ours: Tensor, theirs: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Floats:
    """What ``measure`` gives for each row of logits, over the tokens that both vocabularies have.

    Raises:
        NumericalError: a logit that is no finite number.
    """
    size = min(ours.shape[-1], theirs.shape[-1])
    step = max(1, CHUNK // size)
    parts = []
    for at in range(0, len(ours), step):
        first, second = (
            logits[at : at + step, :size].to(ours.device).float().log_softmax(-1)
            for logits in (ours, theirs)
        )
        parts.append(measure(first, second).double().cpu())
    values: Floats = torch.cat(parts).numpy()
    if np.isnan(values).any():
        raise NumericalError(
            "two models cannot be compared: the logits of one are not finite; its weights are "
            "broken, or its dtype is too narrow (try float32)"
        )
    return values


def _of_agreement(
    split: Measured, records: Sequence[Record], table: Iterable[Floats]
) -> Iterator[Measurement]:
    by_id = {record.id: values for record, values in zip(records, table, strict=True)}
    about = "answers to forget" if split == "forget" else "answers no model was trained on"
    yield Measurement(
        metric="divergence_from_reference",
        split=split,
        title=f"Distance to what the reference would say, {about}",
        values={record_id: float(values.mean()) for record_id, values in by_id.items()},
    )
    yield Measurement(
        metric="first_divergence_from_reference",
        split=split,
        title=f"Distance to the reference at the first token, {about}",
        values={record_id: float(values[0]) for record_id, values in by_id.items()},
    )


DRIFTED: dict[Measured, str] = {
    "retain": "retained records",
    "neighbors": "neighbouring records",
    "holdout": "records no model was trained on",
    "general": "general text",
}


class Drifted(NamedTuple):
    """How far a model went from the original on one text."""

    kl: float
    """KL(original || model), in nats, the mean over tokens."""
    state: float
    """Relative distance of the last block's output, the mean over tokens; NaN where the two have
    streams of different width."""


@probes.register("drift")
class Drift(ModelProbe):
    """How far forgetting moved the model where it was to stay: in what it says, and in its states.

    ``kl_from_original`` is KL(original || model) of the next token, in nats, averaged over every
    token of a text; ``state_drift`` the same mean of ||h - h_original|| / ||h_original|| with h
    what the last block puts out. Both are 0 for the original itself and up; higher: more was
    changed beside what had to go. Neither says whether the change did harm, and a reference, which
    was trained on its own, may be far from the original without being worse.
    """

    summary = "how far the model moved from the original on everything that was to stay"
    honours = frozenset({"weights"})
    cost = "one forward pass of each model for each text that is not to be forgotten"
    tier = "standard"
    property = "locality"
    needs = frozenset({"original"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``kl_from_original`` and ``state_drift`` on every split but forget."""
        original, material = bench.models["original"], bench.material
        roles = [role for role in bench.models if role != "original"]
        others = {bench.models[role].digest: bench.models[role] for role in roles}
        splits = [split for split in DRIFTED if material.get(split)]
        texts = list(dict.fromkeys(r.text for split in splits for r in material[split]))
        if not texts:
            return {}
        tables = dict(zip(others, drifts(original, [*others.values()], texts), strict=True))
        with_states = not any(np.isnan(d.state) for table in tables.values() for d in table)
        found: dict[Role, list[Measurement]] = {}
        for role in roles:
            by_text = dict(zip(texts, tables[bench.models[role].digest], strict=True))
            found[role] = [
                measurement
                for split in splits
                for measurement in _of_drift(split, material[split], by_text, with_states)
            ]
        return found


def drifts(
    original: LanguageModel,
    others: Sequence[LanguageModel],
    texts: Sequence[str],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> list[list[Drifted]]:
    """For each other model and text how far it is from the original."""
    encoded = [encoding.ids for encoding in original.encode_all([(text, "") for text in texts])]
    found: list[dict[int, Drifted]] = [{} for _ in others]
    for group in by_length(encoded, max_batch_tokens):
        batch = [encoded[index] for index in group]
        there = _whole(original, batch)
        cuts = np.cumsum([len(ids) for ids in batch])[:-1]
        for table, other in zip(found, others, strict=True):
            here = _whole(other, batch)
            kl = compared(there.logits, here.logits, kl_divergence)
            moved = _moved(there.states, here.states)
            for index, *values in zip(
                group, np.split(kl, cuts), np.split(moved, cuts), strict=True
            ):
                table[index] = Drifted(*(float(value.mean()) for value in values))
    return [[table[index] for index in range(len(texts))] for table in found]


class _Whole(NamedTuple):
    logits: Tensor
    """(token, vocab) of all tokens of a batch, one text after another."""
    states: Tensor
    """(token, width)"""


def _whole(lm: LanguageModel, batch: Sequence[Sequence[int]]) -> _Whole:
    ids, mask = pad_right(batch)
    last, inside = lm.anatomy.layers[-1], mask.bool().to(lm.device)
    with forward_only(lm.model), capture(lm.model, [last]) as states:
        logits = read_logits(lm, ids, mask, ids.shape[1])
    return _Whole(logits[inside], states[last][inside])


def _moved(before: Tensor, after: Tensor) -> Floats:
    if before.shape != after.shape:
        return np.full(len(before), np.nan)
    was, now = before.double().cpu(), after.double().cpu()
    moved: Floats = ((now - was).norm(dim=-1) / was.norm(dim=-1)).numpy()
    return moved


def _of_drift(
    split: Measured, records: Iterable[Record], by_text: Mapping[str, Drifted], with_states: bool
) -> Iterator[Measurement]:
    of = {record.id: by_text[record.text] for record in records}
    yield Measurement(
        metric="kl_from_original",
        split=split,
        title=f"Distance from what the original would say, {DRIFTED[split]}",
        values={record_id: drifted.kl for record_id, drifted in of.items()},
        unit="nats per token",
        bounds=LOSS,
    )
    if with_states:
        yield Measurement(
            metric="state_drift",
            split=split,
            title=f"Relative distance from the original's states, {DRIFTED[split]}",
            values={record_id: drifted.state for record_id, drifted in of.items()},
            bounds=LOSS,
        )
