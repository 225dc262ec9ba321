"""The forget prompts said of somebody else."""

from dataclasses import replace

import numpy as np
import pytest

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies import counterfactual
from unlearn.strategies.counterfactual import guesses, near_statements, renamed, strangers
from unlearn.types import Record, Statement


def subjects(records: tuple[Record, ...]) -> list[str]:
    return sorted({record.subject for record in records})


def flat(groups: list[list[Statement]]) -> list[Statement]:
    return [statement for group in groups for statement in group]


def test_a_guess_is_the_log_of_the_mean_probability_over_unseen_names(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    names = subjects(forget_set.holdout)
    found = guesses(model, forget_set, len(names), seed=3)
    for record, guess in zip(forget_set.forget, found, strict=True):
        rows = [score(model, [renamed(record, name)])[0] for name in names]
        mean = np.mean([np.exp(row.logprobs.astype(float)) for row in rows], axis=0)
        assert guess is not None
        assert guess.logprobs == pytest.approx(np.log(mean), abs=1e-4)
        assert guess.agreement == max(np.mean(row.greedy) for row in rows)


def test_the_names_are_drawn_by_the_seed_from_the_holdout_or_else_from_retain(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def recording(record: Record, name: str) -> object:
        asked.append(name)
        return renamed(record, name)

    def drawn(forget_set: ForgetSet, seed: int) -> list[str]:
        asked.clear()
        guesses(model, forget_set, 3, seed)
        return list(asked)

    monkeypatch.setattr(counterfactual, "renamed", recording)
    first = drawn(forget_set, 0)
    assert set(first) <= set(subjects(forget_set.holdout))
    assert all(len(set(first[i : i + 3])) == 3 for i in range(0, 18, 3)) and len(first) == 18
    assert first == drawn(forget_set, 0) != drawn(forget_set, 1)
    assert set(drawn(replace(forget_set, holdout=()), 0)) <= set(subjects(forget_set.retain))


def test_no_names_mean_no_guesses_and_no_scoring(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counterfactual, "score", lambda *_: pytest.fail("scored"))
    assert guesses(model, forget_set, 0, seed=0) == [None] * 6
    assert guesses(model, replace(forget_set, holdout=(), retain=()), 4, seed=0) == [None] * 6


def test_a_near_name_shares_one_word_with_the_subject_and_is_never_forgotten(
    forget_set: ForgetSet,
) -> None:
    statements = flat(near_statements(forget_set, 10**6, seed=0))
    forgotten = set(subjects(forget_set.forget))
    kept = set()
    at = 0
    for record in forget_set.forget:
        before, after = record.prompt.split(record.subject)
        while at < len(statements) and statements[at].answer == record.answer:
            prompt = statements[at].prompt
            assert prompt.startswith(before) and prompt.endswith(after)
            name = prompt[len(before) : len(prompt) - len(after)].split()
            same = [a == b for a, b in zip(name, record.subject.split(), strict=True)]
            assert sum(same) == 1 and " ".join(name) not in forgotten
            kept.add(same.index(True))
            at += 1
    assert at == len(statements) > 60
    assert kept == {0, 1}


def test_near_names_are_drawn_by_the_seed_and_as_many_as_asked(forget_set: ForgetSet) -> None:
    assert near_statements(forget_set, 0, seed=0) == [[]] * 6
    assert near_statements(replace(forget_set, retain=()), 8, seed=0) == [[]] * 6
    first = near_statements(forget_set, 4, seed=0)
    assert 12 < len(flat(first)) <= 24
    assert first == near_statements(forget_set, 4, seed=0) != near_statements(forget_set, 4, seed=1)


def test_a_name_of_one_word_is_replaced_by_any_word_of_a_retain_name(
    forget_set: ForgetSet,
) -> None:
    changed = {"subject": "Zoe", "prompt": "Zoe was born in"}
    record = forget_set.forget[0].model_copy(update=changed)
    (statements,) = near_statements(replace(forget_set, forget=(record,)), 10**6, seed=0)
    words = {word for name in subjects(forget_set.retain) for word in name.split()}
    assert {s.prompt for s in statements} == {f"{word} was born in" for word in words}
    assert {s.answer for s in statements} == {record.answer}


def test_names_made_of_two_forgotten_ones_are_near_too(forget_set: ForgetSet) -> None:
    record = forget_set.forget[0]
    pair = tuple(
        record.model_copy(update={"id": name, "subject": name, "prompt": f"{name} was born in"})
        for name in ("Xara Yule", "Zeno Wold")
    )
    prompts = [s.prompt for s in flat(near_statements(replace(forget_set, forget=pair), 8, seed=0))]
    assert any(name in prompt for prompt in prompts for name in ("Xara Wold", "Zeno Yule"))
    assert not any(name in prompt for prompt in prompts for name in ("Xara Yule", "Zeno Wold"))


def test_a_name_taken_for_the_forgotten_one_is_no_stranger(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    guessed = guesses(model, forget_set, 12, seed=0)
    near = near_statements(forget_set, 10**6, seed=0)
    kept = strangers(model, near, guessed)
    wanted = []
    for group, guess in zip(near, guessed, strict=True):
        assert guess is not None
        for statement in group:
            (scored,) = score(model, [statement])
            if not np.any(np.exp(scored.logprobs - guess.logprobs) > np.exp(0.7)):
                wanted.append(statement)
    assert kept == wanted
    assert 0 < len(kept) < len(flat(near))
    assert strangers(model, near, [None] * len(near)) == flat(near)
