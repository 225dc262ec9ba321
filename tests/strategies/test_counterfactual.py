"""The forget prompts said of somebody else."""

from dataclasses import replace

import numpy as np
import pytest

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies import counterfactual
from unlearn.strategies.counterfactual import guesses, renamed
from unlearn.types import Record


def subjects(records: tuple[Record, ...]) -> list[str]:
    return sorted({record.subject for record in records})


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
