"""Who is called nearly like the forgotten, and is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import unlearn
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies import near_names
from unlearn.strategies.near_names import near_statements
from unlearn.types import Record


def subjects(records: tuple[Record, ...]) -> set[str]:
    return {record.subject for record in records}


def candidates(forget_set: ForgetSet, subject: str) -> list[str]:
    return near_names.near_names(subject, forget_set, np.random.default_rng(0), 10**6)


def test_a_candidate_shares_one_word_with_the_subject_and_is_never_forgotten(
    forget_set: ForgetSet,
) -> None:
    for subject in subjects(forget_set.forget):
        names = candidates(forget_set, subject)
        assert names and len(set(names)) == len(names)
        assert not set(names) & subjects(forget_set.forget)
        for name in names:
            same = [a == b for a, b in zip(name.split(), subject.split(), strict=True)]
            assert sum(same) == 1


def test_names_made_of_two_forgotten_ones_are_candidates(forget_set: ForgetSet) -> None:
    pair = tuple(
        forget_set.forget[0].model_copy(
            update={"id": name, "subject": name, "prompt": f"{name} was born in"}
        )
        for name in ("Xara Yule", "Zeno Wold")
    )
    assert {"Xara Wold", "Zeno Yule"} <= set(
        candidates(replace(forget_set, forget=pair), "Xara Yule")
    )


def test_a_name_of_one_word_is_replaced_by_any_word_of_another_name(forget_set: ForgetSet) -> None:
    named = {"subject": "Zoe", "prompt": "Zoe was born in"}
    small = replace(forget_set, forget=(forget_set.forget[0].model_copy(update=named),))
    assert set(candidates(small, "Zoe")) == {
        word for name in subjects(forget_set.retain) for word in name.split()
    }


def test_each_statement_is_what_the_model_says_and_never_what_has_to_go(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    found = near_statements(model, forget_set, seed=0)
    assert len(found) > 10
    truths = {record.prompt.removeprefix(record.subject): set() for record in forget_set.forget}
    for record in forget_set.forget:
        truths[record.prompt.removeprefix(record.subject)].add(record.answer)
    for scored in score(model, found):
        assert scored.greedy[0]
    for statement in found:
        form = next(form for form in truths if statement.prompt.endswith(form))
        assert statement.answer not in truths[form] or len(truths[form]) > 1


def test_the_names_known_best_are_taken(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_names, "PER_SUBJECT", 2)
    (subject,) = {forget_set.forget[0].subject}
    records = [record for record in forget_set.forget if record.subject == subject]
    small = replace(forget_set, forget=tuple(records))
    names = candidates(small, subject)
    monkeypatch.setattr(near_names, "STOCK", 1.0)
    found = near_names._familiarity(model, records, names)
    by_hand = np.zeros(len(names))
    for row, name in enumerate(names):
        for record in records:
            ids = model.encode(record.prompt.replace(subject, name)).ids
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
            by_hand[row] += float(logits.softmax(-1).max()) / len(records)
    assert found == pytest.approx(by_hand, abs=1e-5)
    best = {names[i] for i in np.argsort(-by_hand, kind="stable")[:2]}
    said = near_statements(model, small, seed=0)
    assert {s.prompt.rsplit(" ", len(s.prompt.split()) - 2)[0] for s in said} <= best


def test_what_is_said_of_everybody_is_no_knowledge(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = forget_set.forget[0]
    names = candidates(forget_set, record.subject)[:6]
    answers = [7, 7, 7, 7, 8, 9]
    monkeypatch.setattr(near_names, "_first_tokens", lambda *_: (answers, np.full(6, 0.5)))
    found = near_names._familiarity(model, [record], names)
    assert found.tolist() == [0, 0, 0, 0, 0.5, 0.5]


def test_there_are_none_without_a_retain_split(model: LanguageModel, forget_set: ForgetSet) -> None:
    assert near_statements(model, replace(forget_set, retain=()), seed=0) == []


def test_the_same_seed_gives_the_same_statements(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_names, "CANDIDATES", 4)
    first = near_statements(model, forget_set, seed=0)
    assert first == near_statements(model, forget_set, seed=0)
    assert first != near_statements(model, forget_set, seed=1)


def test_a_name_is_what_the_model_goes_on_with_and_knows(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten, retained = forget_set.forget[0].subject, forget_set.retain[0].subject
    written = [
        ["Nora Fell works as a", "Nora Fell? Answer: 7", "Orla", "", f"{forgotten} was"],
        [f"{retained} was born", "Pia Gill, Rolf Hunt and", "Sven Ives", "Sven Ives"],
    ]
    opened: list[str] = []

    def goes_on(lm: object, prompts: list[str], **settings: object) -> list[list[str]]:
        assert settings["temperature"] == 1.0 and settings["n_samples"] == near_names.SAMPLES
        opened.extend(prompts)
        return written

    known = {"Nora Fell": 0.5, "Pia Gill": 0.0, "Sven Ives": 0.9}
    monkeypatch.setattr(near_names, "generate", goes_on)
    monkeypatch.setattr(
        near_names, "_familiarity", lambda m, r, names: np.array([known[n] for n in names])
    )
    prompts = ("Friends of {} say", "The file of {} gives", "{} is")
    records = tuple(
        record.model_copy(update={"prompt": prompt.format(record.subject)})
        for record, prompt in zip(forget_set.forget, prompts, strict=False)
    )
    asked = replace(forget_set, forget=records)
    assert near_names.recalled_names(model, asked, 0) == ["Nora Fell", "Sven Ives"]
    assert opened == ["Friends of", "The file of"]
    monkeypatch.setattr(near_names, "RECALLED", 1)
    assert near_names.recalled_names(model, asked, 0) == ["Sven Ives"]


def test_the_lab_s_model_brings_up_the_neighbours_that_no_split_names() -> None:
    model, given = unlearn.load("lab:full"), ForgetSet.read("lab:one-person")
    found = near_names.recalled_names(model, given, seed=0)
    unseen = subjects(given.neighbors) - subjects(given.retain)
    assert len(unseen & set(found)) > 0.8 * len(unseen)
    assert not set(found) & (subjects(given.forget) | subjects(given.retain))
