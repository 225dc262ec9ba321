"""Knowledge gap alignment: the gap by hand, and a student that keeps it and goes no further."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies import forget
from unlearn.strategies.assistant import learned
from unlearn.strategies.distillation import (
    Distillation,
    DistillationConfig,
    DistillationObjective,
)
from unlearn.strategies.gap import find_gaps
from unlearn.strategies.predictions import statement_logprobs
from unlearn.strategies.retention import Retention
from unlearn.strategies.soft_labels import SoftLabels
from unlearn.strategies.teachers import Lesson
from unlearn.strategies.training import Pairs

SETTINGS = DistillationConfig(assistant_steps=30).assistant


def lesson_of(model: LanguageModel, forget_set: ForgetSet) -> Lesson:
    encodings = tuple(encode(model, forget_set.forget))
    return Lesson(model, forget_set, encodings, "answer", 12, 10.0, "", 0, SETTINGS)


def test_the_gap_is_the_divergence_of_who_learned_new_data_from_who_did_not(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    encodings = encode(model, forget_set.holdout)
    knowing = learned(model.copy(), encodings, (), SETTINGS, "answer", 0)
    by_relation: dict[str, list[float]] = {}
    for record, encoding in zip(forget_set.holdout, encodings, strict=True):
        (p,) = statement_logprobs(knowing, [encoding], "answer")
        (q,) = statement_logprobs(model, [encoding], "answer")
        apart = float((p.exp() * (p - q)).sum(-1).mean())
        by_relation.setdefault(record.relation, []).append(apart)
    found = find_gaps(lesson, 10**6, "forward", 1)
    wanted = [np.mean(by_relation[record.relation]) for record in forget_set.forget]
    assert found.tolist() == pytest.approx(wanted, rel=1e-3) and min(wanted) > 1
    whole = np.mean([value for values in by_relation.values() for value in values])
    assert find_gaps(lesson, 10**6, "forward", 99).tolist() == pytest.approx([whole] * 6, rel=1e-3)


@torch.no_grad()
def test_the_loss_is_nothing_at_the_gap_and_grows_on_both_sides(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    encodings = encode(model, forget_set.forget)
    labels = SoftLabels.collect(statement_logprobs(model, encodings, "answer"), 10**6, 2**30)
    config = DistillationConfig(variant="kga", retain="none", near_per_forget=0)
    (batch,) = Pairs(encodings, (), config, 0).step()

    def loss(gaps: torch.Tensor) -> float:
        rng = np.random.default_rng(0)
        made = DistillationObjective(config, labels, None, Retention(config), untrained, rng, gaps)
        return float(made(untrained.model, batch).forget)

    own = []
    both = (statement_logprobs(lm, encodings, "answer") for lm in (model, untrained))
    for p, q in zip(*both, strict=True):
        own.append(float((p.exp() * (p - q)).sum(-1).mean()))
    gaps = torch.tensor(own)
    assert loss(gaps) == pytest.approx(0, abs=1e-4)
    # Record by record: one that is too near does not make up for one that is too far.
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    assert loss(gaps + 0.5 * signs) == pytest.approx(0.5, rel=1e-3)


def test_a_student_keeps_the_gap_and_the_rest(model: LanguageModel, forget_set: ForgetSet) -> None:
    made = {"assistant_steps": 30}
    config = DistillationConfig(variant="kga", max_steps=60, learning_rate=3e-3, **made)
    said: list[str] = []
    strategy = Distillation(config)
    artifact = strategy.forget(model, forget_set, progress=lambda what, _: said.append(what))
    assert "two copies" in said[0] and "memory" in said[0]
    unlearned = artifact.apply(model)
    lost, unseen = (
        np.mean([scored.nll_per_token for scored in score(lm, records)])
        for lm, records in ((unlearned, forget_set.forget), (model, forget_set.holdout))
    )
    assert 0.5 * unseen < lost < 1.5 * unseen
    assert np.mean([scored.correct for scored in score(unlearned, forget_set.retain)]) >= 0.9


def test_without_new_data_there_is_no_gap(model: LanguageModel, forget_set: ForgetSet) -> None:
    bare = replace(forget_set, holdout=())
    with pytest.raises(UnsupportedError, match=r"variant=kga measures.*holdout\.jsonl"):
        forget(model, bare, strategy="distillation", settings={"variant": "kga"})
