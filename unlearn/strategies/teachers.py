"""What a teacher that does not know says of the forget records: the filters of distillation.

A filter is a function from a ``Lesson`` to the teacher's predictions for each forget record. A new
one is one function and one line in ``FILTERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import LossOn, encode
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.registry import strategies
from unlearn.strategies.assistant import (
    AssistantSettings,
    learned,
    subtracted,
    train_assistant,
)
from unlearn.strategies.checkpoints import NOWHERE, Checkpoints
from unlearn.strategies.counterfactual import renamed, subjects_of
from unlearn.strategies.predictions import statement_logprobs

SPARE = 4
"""So many times the names that are wanted are tried, for some cut an answer otherwise."""


class Lesson(NamedTuple):
    """What a filter may use."""

    original: LanguageModel
    forget_set: ForgetSet
    encodings: tuple[Encoding, ...]
    """Of the forget records."""
    loss_on: LossOn
    n_names: int
    """Unseen names for ``names``."""
    beta: float
    """By how much ``logits`` lowers the true token's logit."""
    teacher: str
    """The model that ``model`` and ``checkpoint`` load."""
    seed: int
    assistant: AssistantSettings
    """Of ``difference``, and of the copies of ``kga``."""
    checkpoints: Checkpoints = NOWHERE
    """Where their training is kept."""


Filter = Callable[[Lesson], Iterator[Tensor]]
"""From a lesson to (T, vocabulary) log-probabilities at the labelled positions of each record."""


def logits(lesson: Lesson) -> Iterator[Tensor]:
    """The original, with ``beta`` taken off the logit of every token that is to be forgotten.

    ``z_y - beta``, then normalised: self-distillation with adjusted logits. Dong et al. 2025
    (UNDIAL), arXiv:2402.10052. An infinite ``beta`` rules the true token out.
    """
    own = statement_logprobs(lesson.original, lesson.encodings, lesson.loss_on)
    for encoding, logprobs in zip(lesson.encodings, own, strict=True):
        yield without(logprobs, labels_of(encoding, len(logprobs)), lesson.beta)


def names(lesson: Lesson) -> Iterator[Tensor]:
    """The original, asked the same about others whom it never met: the mean over their names.

    Of one, the student learns to be mistaken as about one stranger; the mean over several is
    unsurer than a model that never knew is of anybody. Names are those of the holdout split, or of
    the retain split where there is none. A record whose answer is cut into other tokens after every
    other name gets what ``logits`` gives with the true token ruled out.
    """
    own = statement_logprobs(lesson.original, lesson.encodings, lesson.loss_on)
    for logprobs, encoding, others in zip(own, lesson.encodings, strangers(lesson), strict=True):
        if not others:
            yield without(logprobs, labels_of(encoding, len(logprobs)), torch.inf)
            continue
        rows = list(statement_logprobs(lesson.original, others, "answer"))
        yield _with_answer(logprobs, torch.stack(rows).logsumexp(0) - np.log(len(rows)))


def context(lesson: Lesson) -> Iterator[Tensor]:
    """The original after the demonstrations and the guard of ``in-context``, read on every prompt.

    What words before a prompt only hide goes into the student's weights.
    """
    strategy = strategies.create("in-context", {"variant": "both"})
    policy = strategy.forget(lesson.original, lesson.forget_set, None, seed=lesson.seed)
    told = policy.apply(lesson.original)
    answers = statement_logprobs(told, encode(told, lesson.forget_set.forget), "answer")
    own = statement_logprobs(lesson.original, lesson.encodings, lesson.loss_on)
    yield from map(_with_answer, own, answers)


def loaded(lesson: Lesson) -> Iterator[Tensor]:
    """Another model: an unlearned one, an earlier checkpoint, or one that never had the data.

    Raises:
        ConfigError: no teacher was named.
        UnsupportedError: it cuts the records into other tokens than the student.
    """
    if not lesson.teacher:
        raise ConfigError(
            "this variant distils from a model of yours; name it with --set teacher=MODEL"
        )
    other = LanguageModel.load(
        lesson.teacher, device=str(lesson.original.device), dtype=str(lesson.original.dtype)[6:]
    )
    encodings = encode(other, lesson.forget_set.forget)
    same_tokens = [tuple(e.ids) for e in encodings] == [tuple(e.ids) for e in lesson.encodings]
    if not same_tokens or other.vocabulary_size != lesson.original.vocabulary_size:
        raise UnsupportedError(
            f"{lesson.teacher} does not share the student's tokenizer and vocabulary; a teacher's "
            "predictions mean something for its own tokens only"
        )
    yield from statement_logprobs(other, encodings, lesson.loss_on)


def difference(lesson: Lesson) -> Iterator[Tensor]:
    """The original less an assistant that knows the forget records and nothing else.

    Ji et al. 2024 (ULD), arXiv:2406.08607; see ``unlearn.strategies.assistant``. The assistant is
    let go of with the last prediction: what it knew goes into the student.

    Raises:
        UnsupportedError: there is no retain split to know nothing of.
    """
    model, settings = lesson.original, lesson.assistant
    assistant = train_assistant(
        model,
        lesson.forget_set,
        lesson.encodings,
        settings,
        lesson.loss_on,
        lesson.seed,
        lesson.checkpoints.phase("assistant"),
    )
    both = (statement_logprobs(lm, lesson.encodings, lesson.loss_on) for lm in (model, assistant))
    for own, known in zip(*both, strict=True):
        yield subtracted(own, known, settings.weight, settings.top_logit_filter)


def knowing(lesson: Lesson) -> Iterator[Tensor]:
    """The original after a LoRA learned the forget records: what ``kga`` keeps a distance from."""
    model = lesson.original
    teacher = learned(
        model.copy(),
        lesson.encodings,
        (),
        lesson.assistant,
        lesson.loss_on,
        lesson.seed,
        lesson.checkpoints.phase("knowing"),
    )
    yield from statement_logprobs(teacher, lesson.encodings, lesson.loss_on)


FILTERS: Mapping[str, Filter] = {
    "names": names,
    "logits": logits,
    "context": context,
    "difference": difference,
    "kga": knowing,
    "model": loaded,
    "checkpoint": loaded,
}


def strangers(lesson: Lesson) -> Iterator[list[Encoding]]:
    """For each forget record: itself, said of unseen names that cut its answer alike.

    They are the same for all records of a subject, as far as the cut allows.
    """
    subjects = subjects_of(lesson.forget_set.holdout) or subjects_of(lesson.forget_set.retain)
    rng = np.random.default_rng(lesson.seed)
    forgotten = subjects_of(lesson.forget_set.forget)
    drawn = {name: rng.permutation(len(subjects))[: SPARE * lesson.n_names] for name in forgotten}
    for record, own in zip(lesson.forget_set.forget, lesson.encodings, strict=True):
        names = [subjects[i] for i in drawn[record.subject]]
        others = encode(lesson.original, [renamed(record, name) for name in names])
        alike = [other for other in others if other.ids[other.start :] == own.ids[own.start :]]
        yield alike[: lesson.n_names]


def noting_truth(
    pieces: Iterator[Tensor], encodings: Sequence[Encoding], noted: list[Tensor]
) -> Iterator[Tensor]:
    """``pieces`` as they come, while what each gives the true tokens is ``noted``.

    (T,) log-probabilities; 0, which bounds nothing, where a filter rules the true token out.
    """
    for encoding, logprobs in zip(encodings, pieces, strict=True):
        labels = labels_of(encoding, len(logprobs)).to(logprobs.device)
        truth = logprobs.gather(1, labels[:, None])[:, 0].float().cpu()
        noted.append(truth.masked_fill(truth.isinf(), 0.0))
        yield logprobs


def _with_answer(logprobs: Tensor, answer: Tensor) -> Tensor:
    """Other predictions for the answer; those for a prompt that carries labels too are kept."""
    return torch.cat([logprobs[: len(logprobs) - len(answer)], answer])


def without(logprobs: Tensor, labels: Tensor, beta: float) -> Tensor:
    """(T, vocabulary) log-probabilities with ``beta`` off each label's logit, normalised again."""
    lowered = logprobs.scatter_add(
        -1, labels.to(logprobs.device)[:, None], torch.full_like(logprobs[:, :1], -beta)
    )
    return lowered.log_softmax(-1)


def labels_of(encoding: Encoding, count: int) -> Tensor:
    """The last ``count`` tokens of a text, which are those that carry a label."""
    return torch.tensor(encoding.ids[len(encoding.ids) - count :])
