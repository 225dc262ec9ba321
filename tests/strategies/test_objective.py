"""The loss of one batch against closed forms, and what leaves it."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from unlearn.forget_set import ForgetSet
from unlearn.model.batches import IGNORED, encode
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies.ascent_config import GradientAscentConfig
from unlearn.strategies.ascent_objective import (
    AscentObjective,
    Gate,
    Guesses,
    scores_by_token,
)
from unlearn.strategies.retention import Retention
from unlearn.strategies.training import Pairs
from unlearn.types import Record


def nll(model: LanguageModel, records: Sequence[Record]) -> np.ndarray:
    return np.array([scored.nll_per_token for scored in score(model, records)])


def no_guesses(encodings: Sequence[Encoding]) -> Guesses:
    width = max(len(encoding.ids) for encoding in encodings)
    return Guesses(torch.full((len(encodings), width), -torch.inf))


def test_npo_per_answer_on_log_prob_is_the_loss_of_the_paper(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    config = GradientAscentConfig(per="answer", on="log-prob", retain="none", beta=0.3)
    pairs = Pairs(encode(model, forget_set.forget), (), config, 0)
    reference = scores_by_token(model, pairs.forget, config.loss_on, config.on)
    objective = AscentObjective(
        config, reference, None, no_guesses(pairs.forget), Retention(config)
    )
    (batch,) = pairs.step()
    ours = np.array([scored.logprobs.sum() for scored in score(untrained, forget_set.forget)])
    theirs = np.array([scored.logprobs.sum() for scored in score(model, forget_set.forget)])
    expected = np.mean(2 / 0.3 * np.log1p(np.exp(0.3 * (ours - theirs))))
    assert float(objective(untrained.model, batch).forget) == pytest.approx(expected, rel=1e-4)


def test_npo_per_token_bounds_the_log_odds_of_each_token_above_its_guess(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    config = GradientAscentConfig(retain="none", beta=0.3)
    pairs = Pairs(encode(model, forget_set.forget), (), config, 0)
    (batch,) = pairs.step()
    ours, theirs = score(untrained, forget_set.forget), score(model, forget_set.forget)
    guessed = no_guesses(pairs.forget)
    expected = 0.0
    for i, (encoding, new, old) in enumerate(zip(pairs.forget, ours, theirs, strict=True)):
        # The first token stands above its guess, the others below.
        above = np.arange(len(new.logprobs)) == 0
        guess = new.logprobs + np.where(above, -1, 1)
        guessed.logprobs[i, encoding.start : len(encoding.ids)] = torch.tensor(guess)
        odds = [s.logprobs - np.log(-np.expm1(s.logprobs.astype(float))) for s in (new, old)]
        loss = 2 / 0.3 * np.log1p(np.exp(0.3 * (odds[0] - odds[1])))
        expected += loss[above].sum() / len(ours)
    assert (batch.forget.labels != IGNORED).sum() > len(ours)
    reference = scores_by_token(model, pairs.forget, config.loss_on, config.on)
    objective = AscentObjective(config, reference, None, guessed, Retention(config))
    assert float(objective(untrained.model, batch).forget) == pytest.approx(expected, rel=1e-2)


def test_a_record_past_its_target_gives_no_gradient(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    n = len(forget_set.forget)
    config = GradientAscentConfig(variant="grad-diff")
    pairs = Pairs(encode(model, forget_set.forget), encode(model, forget_set.retain), config, 0)
    (batch,) = pairs.step()

    def loss(nll_target: float, agreement_target: float, by_tokens: bool = False) -> float:
        by_token = torch.full((n,), by_tokens)
        gate = Gate(torch.full((n,), nll_target), torch.full((n,), agreement_target), by_token)
        guessed = no_guesses(pairs.forget)
        objective = AscentObjective(config, torch.zeros(0, 0), gate, guessed, Retention(config))
        return float(objective(model.model, batch).forget)

    mean = nll(model, forget_set.forget).mean()
    assert loss(100.0, 1.0) == pytest.approx(-mean, rel=1e-4)
    assert loss(0.0, 1.0) == 0.0
    # Every answer is the likeliest one, so a limit on agreement alone keeps the gate open.
    assert loss(0.0, 0.9) == pytest.approx(-mean, rel=1e-4)
    # Where tokens have guesses they leave one by one, and the record as a whole never.
    assert loss(0.0, 1.0, by_tokens=True) == pytest.approx(-mean, rel=1e-4)


def test_the_gate_judges_the_answer_even_where_the_loss_is_on_the_text(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    config = GradientAscentConfig(variant="grad-diff", loss_on="text")
    encodings = encode(untrained, forget_set.forget)
    (batch,) = Pairs(encodings, encode(untrained, forget_set.retain), config, 0).step()
    answers = torch.tensor(nll(untrained, forget_set.forget), dtype=torch.float32)
    for shift, opened in ((1e-3, 1.0), (-1e-3, 0.0)):
        ones = torch.ones(len(answers))
        gate = Gate(answers + shift, ones, torch.zeros_like(ones, dtype=torch.bool))
        guessed = no_guesses(encodings)
        objective = AscentObjective(config, torch.zeros(0, 0), gate, guessed, Retention(config))
        assert (float(objective(untrained.model, batch).forget) != 0) == bool(opened)
