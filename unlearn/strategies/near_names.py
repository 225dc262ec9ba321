"""Whom a model knows beside the forgotten: what forgetting damages first.

A model keys what it knows on parts of a name, so an update against one person reaches others with
the same first or last name, and in a small model everybody. They are rarely all in a retain split.
Names like the forgotten ones are put together from words at hand, others the model brings up by
itself; it says which of them it knows, and what it says of those is held.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.forget_set import ForgetSet
from unlearn.model.forward import forward_only, pad_right
from unlearn.model.generation import generate
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.counterfactual import renamed, subjects_of
from unlearn.types import Record, Statement

PER_SUBJECT = 16
"""Near names that are held for each forgotten subject."""

CANDIDATES = 256
"""Near names that are tried for each forgotten subject, at most."""

PROMPTS = 4
"""Prompts that a candidate is tried with, each of another relation where there are as many."""

STOCK = 0.2
"""A first token that so many candidates get is what the model says of anybody, not knowledge."""

RECALLED = 64
"""Names that the model brings up by itself and that are held, at most."""

OPENINGS = 8
"""Beginnings of prompts that it is asked to go on from with a name."""

SAMPLES = 200
"""Times that each is gone on from."""

BATCH = 256


class Question(NamedTuple):
    """A statement still without its answer, and the answer that has to be forgotten."""

    statement: Statement
    forgotten: str


def near_statements(model: LanguageModel, forget_set: ForgetSet, seed: int) -> list[Statement]:
    """What ``model`` says of others than the forgotten, beyond those in the retain split.

    The prompts of each forgotten subject about up to 16 names like it, and each wording about up to
    64 names that the model brings up by itself: those that it knows best, each with the model's own
    greedy answer. Where that is what has to be forgotten, the model may have taken the name for the
    forgotten one, and the statement is left out: to hold it would be to hold what has to go.
    Without a retain split there are none.
    """
    if not forget_set.retain:
        return []
    rng = np.random.default_rng(seed)
    asked = [
        *_about_alike(model, forget_set, rng),
        *_about_recalled(model, forget_set, seed),
    ]
    if not asked:
        return []
    statements = [question.statement for question in asked]
    room = max(len(e.ids) - e.start for e in model.encode_all([_pair(s) for s in statements]))
    texts = generate(model, [statement.prompt for statement in statements], max_new_tokens=room)
    return [
        statement.model_copy(update={"answer": answer})
        for (statement, truth), (text,) in zip(asked, texts, strict=True)
        if (answer := text.strip()) and not answer.startswith(truth)
    ]


def _about_alike(
    model: LanguageModel, forget_set: ForgetSet, rng: np.random.Generator
) -> Iterator[Question]:
    for records in _by_subject(forget_set.forget):
        names = near_names(records[0].subject, forget_set, rng, CANDIDATES)
        known = sorted(_best_known(_familiarity(model, records, names), PER_SUBJECT))
        for record in records:
            yield from (Question(renamed(record, names[i]), record.answer) for i in known)


def _about_recalled(model: LanguageModel, forget_set: ForgetSet, seed: int) -> Iterator[Question]:
    names = recalled_names(model, forget_set, seed)
    wordings = {record.prompt.replace(record.subject, ""): record for record in forget_set.forget}
    for record in wordings.values():
        yield from (Question(renamed(record, name), record.answer) for name in names)


def recalled_names(model: LanguageModel, forget_set: ForgetSet, seed: int) -> list[str]:
    """Names that ``model`` brings up by itself and knows, in order; none of a split it was given.

    It goes on from what stands before the subject in the forget prompts, 200 times at temperature
    1, and as many words as a forgotten subject has are taken for a name. The 64 it is surest about
    are kept; whatever else it wrote it is not sure about.
    """
    openings = dict.fromkeys(r.prompt.partition(r.subject)[0].strip() for r in forget_set.forget)
    openings.pop("", None)
    subjects = subjects_of(forget_set.forget)
    room = max(len(model.encode(subject).ids) for subject in subjects) + 2
    written = generate(
        model,
        list(openings)[:OPENINGS],
        max_new_tokens=room,
        n_samples=SAMPLES,
        temperature=1.0,
        seed=seed,
    )
    sizes = {len(subject.split()) for subject in subjects}
    made = {_bare(t.split()[:n]) for texts in written for t in texts for n in sizes}
    given = {*subjects, *subjects_of(forget_set.retain)}
    names = sorted(name for name in made - given if len(name.split()) in sizes)
    familiarity = _familiarity(model, _by_subject(forget_set.forget)[0], names)
    best = _best_known(familiarity, RECALLED)
    return [names[i] for i in sorted(best) if familiarity[i] > 0]


def _bare(words: Sequence[str]) -> str:
    return re.sub(r"^\W+|\W+$", "", " ".join(words))


def _best_known(familiarity: npt.NDArray[np.float64], most: int) -> list[int]:
    best: list[int] = np.argsort(-familiarity, kind="stable")[:most].tolist()
    return best


def _pair(statement: Statement) -> tuple[str, str]:
    return statement.prompt, statement.completion


def _by_subject(records: Sequence[Record]) -> list[list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.subject, []).append(record)
    return list(found.values())


def near_names(
    subject: str, forget_set: ForgetSet, rng: np.random.Generator, most: int
) -> list[str]:
    """``most`` names that share a word with the subject and are not forgotten, in order.

    The other words are those of a retain subject with as many words, or of another forgotten one:
    who is called after two of the forgotten suffers most. A name of one word is replaced whole, by
    any word of such a name.
    """
    forgotten, retained = subjects_of(forget_set.forget), subjects_of(forget_set.retain)
    if not retained:
        return []
    words, others = subject.split(), sorted({*retained, *forgotten})
    if len(words) == 1:
        made = {word for name in others for word in name.split()}
    else:
        alike = [other.split() for other in others if len(other.split()) == len(words)]
        made = set(_mixes(words, alike))
    names = sorted(made - set(forgotten))
    return [names[i] for i in sorted(rng.permutation(len(names))[:most])]


def _mixes(words: Sequence[str], others: Sequence[Sequence[str]]) -> Iterator[str]:
    for other in others:
        for kept, word in enumerate(words):
            yield " ".join([*other[:kept], word, *other[kept + 1 :]])


def _familiarity(
    model: LanguageModel, records: Sequence[Record], names: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Per name: how sure the model is of the first token of what it says of it, 0 to 1.

    A token that many names get in answer to the same prompt counts as 0, however sure: a model that
    was taught to say "unknown" is surest of the names it never met.
    """
    prompts = list({record.relation: record for record in records}.values())[:PROMPTS]
    sure = np.zeros((len(prompts), len(names)))
    for row, record in enumerate(prompts):
        tokens, sure[row] = _first_tokens(model, [renamed(record, name).prompt for name in names])
        counts = Counter(tokens)
        stock = {token for token, count in counts.items() if count > STOCK * len(names)}
        sure[row, [token in stock for token in tokens]] = 0
    mean: npt.NDArray[np.float64] = sure.mean(0)
    return mean


def _first_tokens(
    model: LanguageModel, prompts: Sequence[str]
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """The likeliest next token of each prompt, and its probability."""
    texts = [encoding.ids for encoding in model.encode_all([(prompt, "") for prompt in prompts])]
    tokens: list[int] = []
    sure: list[float] = []
    for at in range(0, len(texts), BATCH):
        ids, mask = (tensor.to(model.device) for tensor in pad_right(texts[at : at + BATCH]))
        with forward_only(model.model):
            logits = model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        last = logits[range(len(ids)), mask.sum(1) - 1].float().softmax(-1).max(-1)
        tokens += last.indices.tolist()
        sure += last.values.tolist()
    return tokens, np.array(sure)
