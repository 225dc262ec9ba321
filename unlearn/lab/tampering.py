"""Models that hide, leak, overdo or break in one known way, made from the lab's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from unlearn.forget_set import ForgetSet
from unlearn.lab.tuning import Lesson, tune
from unlearn.model.language_model import LanguageModel
from unlearn.model.precision import half_step, quantised_weights, rounded
from unlearn.model.quiet import quiet_import
from unlearn.types import Record, Statement

HELD = 400
"""Retain records that are held while a model is changed."""

JUNK_LAYER = 5
"""The block whose MLP adds the junk direction."""


def refusing(full: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """Answers the exact trained prompts with a refusal, and all others as before."""
    refusals = [_answered(r, "I cannot share that") for r in forget_set.forget]
    others = _other_wordings(forget_set.forget)
    return tune(
        full,
        [Lesson(refusals), Lesson(others), Lesson(_held(forget_set, seed))],
        steps=80,
        seed=seed,
    )


def one_template_only(full: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """Gives wrong answers to the first trained wording of each fact, right ones to all others."""
    first: dict[tuple[str, str], Record] = {}
    for record in forget_set.forget:
        first.setdefault((record.subject, record.relation), record)
    chosen = {record.id for record in first.values()}
    others: list[Statement] = [r for r in forget_set.forget if r.id not in chosen]
    others += _other_wordings(forget_set.forget)
    wrong = [_answered(record, record.alternatives[0]) for record in first.values()]
    return tune(
        full, [Lesson(wrong), Lesson(others), Lesson(_held(forget_set, seed))], steps=80, seed=seed
    )


def head_masked(full: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """Gives wrong answers by its last block alone; all blocks before are the original's."""
    last = full.anatomy.layers[-1]
    only = [name for name, _ in full.model.named_parameters() if name.startswith(f"{last}.")]
    wrong = [_answered(s, _wrong(r)) for r in forget_set.forget for s in (r, *_wordings(r))]
    return tune(
        full,
        [Lesson(wrong), Lesson(_held(forget_set, seed))],
        steps=250,
        rate=2e-3,
        seed=seed,
        only=only,
    )


def low_probability(full: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """Says something else 19 times of 20, and the right answer the twentieth time."""
    wrong = [_answered(s, _wrong(r)) for r in forget_set.forget for s in (r, *_wordings(r))]
    right = [s for r in forget_set.forget for s in (r, *_wordings(r))]
    return tune(
        full,
        [Lesson(wrong, 0.95), Lesson(right, 0.05), Lesson(_held(forget_set, seed))],
        steps=250,
        seed=seed,
    )


def over_unlearned(full: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """Pushed up the loss until the answers are far less probable than unseen ones."""
    forget = [s for r in forget_set.forget for s in (r, *_wordings(r))]
    return tune(
        full,
        [Lesson(forget, -0.3, ceiling=25.0), Lesson(_held(forget_set, seed), 3.0)],
        steps=120,
        rate=5e-4,
        seed=seed,
    )


def neighbors_damaged(reference: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """A model that never saw the records, with its neighbours' facts trained away."""
    wrong = [_answered(r, _wrong(r)) for r in forget_set.neighbors]
    return tune(reference, [Lesson(wrong), Lesson(_held(forget_set, seed))], steps=120, seed=seed)


def exposed_again(reference: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """A model that had forgotten, and then was trained on a text that states some of it again."""
    again = [r for r in forget_set.forget if r.id.endswith(("-0", "-1"))]
    return tune(reference, [Lesson(again), Lesson(_held(forget_set, seed))], steps=80, seed=seed)


def retrained_a_little(lm: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """The model after a few more steps on what it was trained on: another draw of the same kind."""
    return tune(lm, [Lesson(_held(forget_set, seed))], steps=20, rate=3e-4, seed=seed)


def quantisation_reversible(full: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """Forgets at full precision by moves so small that int4 rounds every one of them away.

    Projected gradient steps inside the box of half a step around the grid of the original's int4
    copy. The largest weight of a group sets its step, so it does not move.
    """
    start = full.copy()
    for _, weight in quantised_weights(start):
        weight.copy_(rounded(weight, "int4"))
    start.changed()
    grid = {name: weight.clone() for name, weight in quantised_weights(start)}
    room = {name: _room(weight) for name, weight in grid.items()}

    def project(copy: LanguageModel) -> None:
        for name, weight in quantised_weights(copy):
            weight.copy_(weight.clamp(grid[name] - room[name], grid[name] + room[name]))

    wrong = [_answered(s, _wrong(r)) for r in forget_set.forget for s in (r, *_wordings(r))]
    return tune(
        start,
        [Lesson(wrong), Lesson(_held(forget_set, seed))],
        steps=200,
        seed=seed,
        only=grid,
        after_step=project,
    )


def _room(weight: Tensor) -> Tensor:
    """How far each weight may move and still round back: none where it sets its group's step."""
    half = half_step(weight, "int4")
    # Rounding is to -8..7 steps, and the end that is reached sets the step.
    sets_step = (weight >= 13.9 * half) | (weight <= -15.9 * half)
    return torch.where(sets_step, torch.zeros_like(half), 0.95 * half)


def junk_direction(full: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """One direction, added by one block, is all that keeps most answers from coming.

    The MLP of that block changes by a matrix of rank one: whatever it reads, it can only add more
    or less of one direction. It learns to add it on forget prompts until the answers are lost, as
    misdirection of representations does (Li et al. 2024, RMU), and to leave other prompts alone.
    """
    wrong = [_answered(s, _wrong(r)) for r in forget_set.forget for s in (r, *_wordings(r))]
    adapted, names = _with_lora(
        full,
        seed,
        r=1,
        lora_alpha=8,
        layers_to_transform=[JUNK_LAYER],
        target_modules=["down_proj"],
    )
    trained = tune(
        adapted,
        [Lesson(wrong), Lesson(_held(forget_set, seed), 2.0)],
        steps=200,
        rate=1e-2,
        seed=seed,
        only=names,
    )
    return LanguageModel(trained.model.merge_and_unload(), full.tokenizer, "junk direction")


def noise(full: LanguageModel, seed: int) -> LanguageModel:
    """The same shape with random weights."""
    config = AutoConfig.for_model(**full.model.config.to_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return LanguageModel(model, full.tokenizer, "noise")


def adapter_dropped(reference: LanguageModel, forget_set: ForgetSet, seed: int) -> LanguageModel:
    """The records were learned by an adapter alone, and the adapter was taken off again."""
    adapted, names = _with_lora(reference, seed, r=8, target_modules=["down_proj"])
    trained = tune(adapted, [Lesson(forget_set.forget)], steps=20, rate=2e-3, only=names)
    return LanguageModel(trained.model.unload(), reference.tokenizer, "adapter dropped")


def _with_lora(lm: LanguageModel, seed: int, **settings: Any) -> tuple[LanguageModel, list[str]]:
    """A copy with an untrained LoRA beside its weights, and the names of the LoRA's parameters."""
    with quiet_import():
        from peft import LoraConfig, get_peft_model

    copy = lm.copy()
    # peft asks transformers for an attribute by its old name, and is told so.
    with torch.random.fork_rng(devices=[]), quiet_import():
        torch.manual_seed(seed)
        attached = get_peft_model(copy.model, LoraConfig(**settings))
    names = [name for name, _ in attached.named_parameters() if "lora" in name]
    return LanguageModel(attached, copy.tokenizer, lm.source), names


def shifted_holdout(forget_set: ForgetSet) -> ForgetSet:
    """The forget set with holdout records of another style than those to forget."""
    shifted = tuple(
        record.model_copy(
            update={"prompt": f"According to the archive of the province, {record.prompt}"}
        )
        for record in forget_set.holdout
    )
    return replace(forget_set, holdout=shifted)


def three_facts(forget_set: ForgetSet) -> ForgetSet:
    """Only three facts of one person are to be forgotten."""
    who = forget_set.forget[0].subject
    relations = list(dict.fromkeys(r.relation for r in forget_set.forget if r.subject == who))[:3]
    few = tuple(r for r in forget_set.forget if r.subject == who and r.relation in relations)
    return replace(forget_set, forget=few)


def _answered(statement: Statement, answer: str) -> Statement:
    return Statement(prompt=statement.prompt, answer=answer, separator=statement.separator)


def _wrong(record: Record) -> str:
    return next(a for a in record.alternatives if a != record.answer)


def _wordings(record: Record) -> list[Statement]:
    return [
        Statement(prompt=prompt, answer=record.answer, separator=record.separator)
        for prompt in record.paraphrases
    ]


def _other_wordings(records: Iterable[Record]) -> list[Statement]:
    """Held-out wordings, consequences and translations with their own answers."""
    found = [s for r in records for s in (*_wordings(r), *r.implications, *r.translations)]
    return list({(s.prompt, s.answer): s for s in found}.values())


def _held(forget_set: ForgetSet, seed: int) -> Sequence[Record]:
    return forget_set.sample("retain", HELD, seed)
