"""Knowledge gap alignment: how far the student has to get from a model that knows the records.

Wang et al. 2023 (KGA), arXiv:2305.06535. A model that learned new data is some way from one that
never saw them; that way is measured on the holdout, which the original never saw. The student goes
as far on the forget records from a model that learned those, and no further: the gap is matched
and not maximised. The models that learned are the original with a LoRA. They are needed one after
the other and before training alone, since nothing in them changes with the student.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.strategies.assistant import learned
from unlearn.strategies.predictions import statement_logprobs
from unlearn.strategies.soft_labels import Direction, SoftLabel
from unlearn.strategies.teachers import Lesson


def require_new_data(forget_set: ForgetSet) -> None:
    """Nothing, if there is data the original never saw.

    Raises:
        UnsupportedError: there is no holdout split.
    """
    if not forget_set.holdout:
        raise UnsupportedError(
            "variant=kga measures a gap on data that the model never saw, the holdout split, which "
            f"forget set {forget_set.name!r} lacks; add holdout.jsonl, or use variant=logits"
        )


def find_gaps(lesson: Lesson, top_k: int, direction: Direction, min_holdout: int) -> Tensor:
    """(R,) nats per token by which the student is to be away from one that knows a record.

    The divergence on the holdout between a model that learned it and the original, a mean over
    each record's labelled tokens and then over the records of the same relation; over the whole
    holdout for a relation with fewer than ``min_holdout``.
    """
    model, holdout = lesson.original, lesson.forget_set.holdout
    encodings = encode(model, holdout)
    settings, phase = lesson.assistant, lesson.checkpoints.phase("holdout")
    copy = model.copy()
    knowing = learned(copy, encodings, (), settings, lesson.loss_on, lesson.seed, phase)
    both = (statement_logprobs(lm, encodings, lesson.loss_on) for lm in (knowing, model))
    found: dict[str, list[float]] = {}
    for record, knows, never_saw in zip(holdout, *both, strict=True):
        apart = SoftLabel.of(knows, top_k).divergence(never_saw, direction)
        found.setdefault(record.relation, []).append(float(apart.mean()))
    overall = float(np.mean([value for values in found.values() for value in values]))
    means = {
        relation: float(np.mean(values))
        for relation, values in found.items()
        if len(values) >= min_holdout
    }
    gaps = [means.get(record.relation, overall) for record in lesson.forget_set.forget]
    return torch.tensor(gaps, device=model.device)
