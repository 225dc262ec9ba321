"""What each of several processes gets, and what is refused to more than one."""

import numpy as np
import pytest
import torch

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel
from unlearn.strategies import forget
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.training import MicroBatch, Pairs, TrainingConfig


def launched(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    for name, value in {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": size}.items():
        monkeypatch.setenv(name, str(value))


def batches(model: LanguageModel, forget_set: ForgetSet, accumulation: int) -> list[MicroBatch]:
    config = TrainingConfig(accumulation=accumulation)
    forget, retain = encode(model, forget_set.forget), encode(model, forget_set.retain)
    near = encode(model, near_statements(model, forget_set, 0))
    pairs = Pairs(forget, retain, config, 0, near)
    return [batch for _ in range(3) for batch in pairs.step()]


def test_the_shares_of_all_processes_are_the_step_of_one(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(model, forget_set, accumulation=4)
    shares = []
    for rank in range(2):
        launched(monkeypatch, rank, 2)
        shares.append(batches(model, forget_set, accumulation=2))
    assert [len(share) for share in shares] == [6, 6]
    together = [batch for pair in zip(*shares, strict=True) for batch in pair]
    for mine, its in zip(whole, together, strict=True):
        assert torch.equal(mine.forget.ids, its.forget.ids)
        assert mine.retain is not None and its.retain is not None
        assert torch.equal(mine.retain.records, its.retain.records)
        assert np.array_equal(mine[3:], its[3:])


def test_more_processes_than_records_are_refused(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, 0, 8)
    with pytest.raises(UnsupportedError, match="6 forget records, too few for 8 processes"):
        forget(model, forget_set)


@pytest.mark.parametrize("strategy", ["edit", "patch", "in-context", "subtraction+edit"])
def test_strategies_that_do_not_train_in_steps_run_in_one_process(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    launched(monkeypatch, 0, 2)
    with pytest.raises(UnsupportedError, match="runs in one process, and 2 were launched"):
        forget(model, forget_set, strategy=strategy)


def test_a_weight_that_follows_losses_one_by_one_has_no_use_for_two_processes(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, 1, 2)
    with pytest.raises(UnsupportedError, match="retain=constraint"):
        forget(model, forget_set, settings={"retain": "constraint"})
