"""The closed form on linear memories in numpy: exact where it must be, least squares elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlearn.errors import NumericalError
from unlearn.strategies.closed_form import least_change

WIDTH, OUT = 12, 7


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def moment(rng: np.random.Generator) -> np.ndarray:
    seen = rng.normal(size=(50, WIDTH)) * np.linspace(0.1, 3, WIDTH)
    return seen.T @ seen / len(seen)


def change(moment: np.ndarray, keys: np.ndarray, moves: np.ndarray, slack: float = 0) -> np.ndarray:
    given = (torch.from_numpy(a) for a in (moment, keys, moves))
    return least_change(*given, slack).numpy()


def test_one_key_gives_rome_s_update_and_its_answer_exactly(rng, moment):
    weight, key, value = rng.normal(size=(OUT, WIDTH)), rng.normal(size=WIDTH), rng.normal(size=OUT)
    delta = change(moment, key[None], (value - weight @ key)[None])
    u = np.linalg.solve(moment, key)
    np.testing.assert_allclose(delta, np.outer(value - weight @ key, u) / (u @ key), atol=1e-9)
    np.testing.assert_allclose((weight + delta) @ key, value, atol=1e-9)
    assert np.linalg.matrix_rank(delta) == 1


def test_other_keys_move_by_their_overlap_and_by_nothing_else(rng, moment):
    key, move = rng.normal(size=WIDTH), rng.normal(size=OUT)
    delta = change(moment, key[None], move[None])
    u = np.linalg.solve(moment, key)
    for other in rng.normal(size=(5, WIDTH)):
        np.testing.assert_allclose(delta @ other, move * (u @ other) / (u @ key), atol=1e-9)
        blind = other - u * (u @ other) / (u @ u)  # no overlap with u
        np.testing.assert_allclose(delta @ blind, 0, atol=1e-9)


def test_among_all_changes_that_do_it_this_one_disturbs_c_least(rng, moment):
    keys, moves = rng.normal(size=(3, WIDTH)), rng.normal(size=(3, OUT))
    delta = change(moment, keys, moves)
    np.testing.assert_allclose(delta @ keys.T, moves.T, atol=1e-8)
    disturbance = np.trace(delta @ moment @ delta.T)
    # Any other solution differs by a matrix that is blind to the keys.
    blind = np.eye(WIDTH) - np.linalg.pinv(keys) @ keys
    for _ in range(20):
        other = delta + 0.1 * rng.normal(size=(OUT, WIDTH)) @ blind
        assert np.trace(other @ moment @ other.T) > disturbance


@pytest.mark.parametrize("n_keys", [1, 4, 30])
def test_with_slack_it_solves_memit_s_normal_equations(rng, moment, n_keys):
    keys, moves = rng.normal(size=(n_keys, WIDTH)), rng.normal(size=(n_keys, OUT))
    strength = 0.3 * np.mean(np.diag(keys @ np.linalg.solve(moment, keys.T)))
    root = np.linalg.cholesky(strength * moment)
    system = np.vstack([keys, root.T])
    wanted = np.vstack([moves, np.zeros((WIDTH, OUT))])
    by_lstsq = np.linalg.lstsq(system, wanted, rcond=None)[0].T
    by_hand = moves.T @ keys @ np.linalg.inv(strength * moment + keys.T @ keys)
    delta = change(moment, keys, moves, 0.3)
    np.testing.assert_allclose(delta, by_lstsq, atol=1e-8)
    np.testing.assert_allclose(delta, by_hand, atol=1e-8)


@pytest.mark.parametrize("slack", [0.0, 0.1])
def test_two_facts_with_one_key_are_solved_jointly_in_any_order(rng, moment, slack):
    key, other = rng.normal(size=(2, WIDTH))
    keys, moves = np.stack([key, key, other]), rng.normal(size=(3, OUT))
    delta = change(moment, keys, moves, slack)
    turned = change(moment, keys[::-1].copy(), moves[::-1].copy(), slack)
    np.testing.assert_allclose(delta, turned, atol=1e-8)
    if slack == 0:
        np.testing.assert_allclose(delta @ key, moves[:2].mean(0), atol=1e-7)
        np.testing.assert_allclose(delta @ other, moves[2], atol=1e-7)


def test_edits_one_after_another_would_let_the_last_win(rng, moment):
    """What the joint edit is for: the same two facts, one edit each."""
    key, moves, weight = rng.normal(size=WIDTH), rng.normal(size=(2, OUT)), np.zeros((OUT, WIDTH))
    for move in moves:
        weight = weight + change(moment, key[None], (move - weight @ key)[None])
    np.testing.assert_allclose(weight @ key, moves[1], atol=1e-9)
    joint = change(moment, np.stack([key, key]), moves)
    np.testing.assert_allclose(joint @ key, moves.mean(0), atol=1e-7)


def test_numerator_and_denominator_hold_the_same_key(rng, moment):
    """With the averaged key in one place and the bare one in the other, neither gets its answer."""
    averaged, move = rng.normal(size=WIDTH), rng.normal(size=OUT)
    bare = averaged + 0.3 * rng.normal(size=WIDTH)
    u = np.linalg.solve(moment, averaged)
    mixed = np.outer(move, u) / (u @ bare)
    assert np.linalg.norm(mixed @ averaged - move) > 0.01
    right = change(moment, averaged[None], move[None])
    np.testing.assert_allclose(right @ averaged, move, atol=1e-9)


def test_keys_in_bf16_are_solved_in_double(rng, moment):
    keys = torch.from_numpy(rng.normal(size=(3, WIDTH))).bfloat16()
    moves = torch.from_numpy(rng.normal(size=(3, OUT))).bfloat16()
    delta = least_change(torch.from_numpy(moment), keys, moves)
    assert delta.dtype == torch.float64
    torch.testing.assert_close(delta @ keys.double().T, moves.double().T)


def test_what_is_not_finite_or_not_positive_is_an_error(rng, moment):
    keys, moves = rng.normal(size=(2, WIDTH)), rng.normal(size=(2, OUT))
    with pytest.raises(NumericalError, match="larger ridge"):
        change(np.zeros_like(moment), keys, moves)
    moves[0, 0] = np.nan
    with pytest.raises(NumericalError, match="not finite"):
        change(moment, keys, moves)
