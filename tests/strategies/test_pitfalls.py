"""Errors that other implementations of unlearning shipped, one test each; more stand elsewhere."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import IGNORED, collate, encode
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.strategies import forget
from unlearn.strategies.ascent_config import GradientAscentConfig
from unlearn.strategies.distillation import DistillationConfig, DistillationObjective
from unlearn.strategies.peft_modules import unheard
from unlearn.strategies.predictions import run, statement_logprobs
from unlearn.strategies.retention import Retention
from unlearn.strategies.soft_labels import SoftLabels
from unlearn.strategies.teachers import FILTERS, Lesson
from unlearn.strategies.training import MicroBatch, Pairs


def alone(model: LanguageModel, encoding: Encoding) -> torch.Tensor:
    """(T, vocabulary) what is predicted for the answer, from a text without any padding."""
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([encoding.ids])).logits[0]
    return logits[encoding.start - 1 : -1].log_softmax(-1)


def kl_per_token(
    teacher: LanguageModel, student: LanguageModel, encodings: Sequence[Encoding]
) -> float:
    """The mean over all answer tokens of KL(teacher || student), text by text."""
    total, count = 0.0, 0
    for encoding in encodings:
        p, q = alone(teacher, encoding), alone(student, encoding)
        total += float((p.exp() * (p - q)).sum())
        count += len(p)
    return total / count


def held(
    original: LanguageModel, encodings: Sequence[Encoding], **settings: Any
) -> tuple[Retention, MicroBatch]:
    """Retention by KL and one batch in which these texts are both retain records and near names."""
    config = GradientAscentConfig(retain="kl", near_weight=1.0, retain_weight=1.0, **settings)
    pairs = Pairs(encodings, encodings, config, 0, encodings)
    (batch,) = pairs.step()
    return Retention.of(original, pairs), batch


def shifted(model: LanguageModel, by: float) -> Any:
    """The same distribution from other logits."""

    def forward(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=model.model(**inputs).logits + by)

    return forward


def long_and_short(model: LanguageModel, forget_set: ForgetSet) -> list[Encoding]:
    """Texts whose lengths and numbers of answer tokens differ, so that batches hold padding."""
    encodings = encode(model, forget_set.forget)
    assert len({len(encoding.ids) for encoding in encodings}) > 1
    assert len({len(encoding.ids) - encoding.start for encoding in encodings}) > 1
    return encodings


# 2: KL between raw logits, which a constant added to all of them changes by millions.
@torch.no_grad()
def test_kl_is_of_distributions_and_not_of_logits(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    retention, batch = held(model, encode(model, forget_set.forget))
    assert float(retention(shifted(model, 64.0), batch).total) == pytest.approx(0, abs=1e-4)
    plain, moved = (float(retention(shifted(untrained, by), batch).total) for by in (0.0, 64.0))
    assert moved == pytest.approx(plain, rel=1e-4) and plain > 1


# 3: labels of -100 used as indices, so that a token near the end of the vocabulary was lowered.
def test_no_prompt_or_pad_position_gets_an_edited_target(forget_set: ForgetSet) -> None:
    rows = collate([Encoding([5, 6, 7], 2), Encoding([5, 8, 9, 10, 11], 3)], [0, 1], "answer")
    logits = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0))
    lm = SimpleNamespace(model=lambda **_: SimpleNamespace(logits=logits), device="cpu")
    lesson = Lesson(
        lm,  # type: ignore[arg-type]
        forget_set,
        (Encoding([5, 6, 7], 2), Encoding([5, 8, 9, 10, 11], 3)),
        "answer",
        0,
        30.0,
        "",
        0,
        DistillationConfig().assistant,
    )
    taught = torch.cat(list(FILTERS["logits"](lesson)))
    own = logits[:, :-1][rows.labels[:, 1:] != IGNORED].log_softmax(-1)
    lowered = (taught - own < -20).nonzero().tolist()
    assert lowered == [[0, 7], [1, 10], [2, 11]]


# 4: KL averaged over pads and prompts, or divided by the number of texts.
@torch.no_grad()
def test_kl_of_a_padded_batch_is_the_mean_over_its_answer_tokens(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    encodings = long_and_short(model, forget_set)
    retention, batch = held(model, encodings, retain_per_forget=1, near_per_forget=1)
    found, wanted = retention(untrained.model, batch), kl_per_token(model, untrained, encodings)
    assert float(found.retain) == pytest.approx(wanted, rel=1e-4)
    assert float(found.total) == pytest.approx(2 * wanted, rel=1e-4)


# 4 again: the same of a student and its teacher; records count alike, whatever their length.
@torch.no_grad()
def test_a_student_s_distance_from_its_teacher_counts_no_padding(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    encodings = long_and_short(model, forget_set)
    config = DistillationConfig(variant="model", retain="none", near_per_forget=0)
    labels = SoftLabels.collect(statement_logprobs(model, encodings, "answer"), 10**6, 2**30)
    objective = DistillationObjective(
        config, labels, None, Retention(config), untrained, np.random.default_rng(0)
    )
    (batch,) = Pairs(encodings, (), config, 0).step()
    wanted = np.mean([kl_per_token(model, untrained, [encoding]) for encoding in encodings])
    assert float(objective(untrained.model, batch).forget) == pytest.approx(wanted, rel=1e-4)


# 5: masks made from `ids != pad`, which hide a true token where pad and EOS are the same.
def test_a_token_with_the_id_of_the_padding_is_read_and_learned(untrained: LanguageModel) -> None:
    ends_like_padding = Encoding([1, 5, 0, 6, 0], 3)
    rows = collate([ends_like_padding, Encoding([1, 5, 6, 7, 8, 9, 4], 3)], [0, 1], "answer")
    assert rows.attention.sum(1).tolist() == [5, 7]
    assert rows.labels[0].tolist() == [IGNORED] * 3 + [6, 0] + [IGNORED] * 2
    with torch.no_grad():
        found = run(untrained.model, rows).logprobs[:2]
    assert torch.allclose(found, alone(untrained, ends_like_padding), atol=1e-5)


# 14: one retain record for each forget record, so that the weight depended on the sizes of sets.
@torch.no_grad()
@pytest.mark.parametrize("retain", ["nll", "kl"])
def test_the_retain_term_does_not_grow_with_the_number_of_records_drawn(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet, retain: str
) -> None:
    one = encode(model, forget_set.retain)[:1]
    terms = []
    for n in (3, 12):
        config = GradientAscentConfig(retain=retain, retain_per_forget=n, near_per_forget=0)
        pairs = Pairs(encode(model, forget_set.forget)[:1], one * 12, config, 0)
        (batch,) = pairs.step()
        assert batch.retain is not None and len(batch.retain.ids) == n
        terms.append(float(Retention.of(model, pairs)(untrained.model, batch).total))
    assert terms[0] == pytest.approx(terms[1], rel=1e-4) and terms[0] > 1


# 15: adapters whose start changed the base, subtracted from a base that was never changed.
def test_an_adapter_that_began_by_changing_its_base_is_not_subtracted(
    model: LanguageModel, forget_set: ForgetSet, tmp_path: Any
) -> None:
    with unheard():
        config = LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights="pissa")
        get_peft_model(model.copy().model, config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="pissa"):
        forget(model, forget_set, strategy="subtraction", settings={"adapter": str(tmp_path)})
