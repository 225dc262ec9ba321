"""Logit difference: what the assistant learns, what is taken off, and that nothing else moves."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.strategies import forget
from unlearn.strategies.assistant import (
    AssistantObjective,
    first_layers,
    subtracted,
    train_assistant,
)
from unlearn.strategies.distillation import Distillation, DistillationConfig
from unlearn.strategies.predictions import statement_logprobs
from unlearn.strategies.training import MicroBatch, Pairs, TrainingConfig
from unlearn.types import Record

SETTINGS = DistillationConfig(assistant_layers=0.5, assistant_steps=40).assistant


def logprobs(model: LanguageModel, records: Sequence[Record]) -> torch.Tensor:
    return torch.cat(list(statement_logprobs(model, encode(model, records), "answer")))


def assistant(
    model: LanguageModel, forget_set: ForgetSet, seed: int = 0, steps: int = SETTINGS.steps
) -> LanguageModel:
    encodings, settings = encode(model, forget_set.forget), SETTINGS._replace(steps=steps)
    return train_assistant(model, forget_set, encodings, settings, "answer", seed)


def test_what_is_high_is_lowered_by_the_weighted_knowledge_and_the_rest_keeps_its_logit() -> None:
    z = torch.tensor([[5.0, 4.0, 0.0, -9.0], [3.0, 3.0, 3.0, 3.0]]).log_softmax(-1)
    a = torch.tensor([[6.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]).log_softmax(-1)
    found = subtracted(z, a, 0.8, 0.1)
    # e^4 is 0.37 of e^5, the others less than 0.1.
    wanted = z.clone()
    wanted[0, :2] -= 0.8 * (a[0, :2] + math.log(4))
    assert torch.allclose(found, wanted.log_softmax(-1), atol=1e-6)
    everywhere = (z - 0.8 * a).log_softmax(-1)
    assert torch.allclose(subtracted(z, a, 0.8, 0.0), everywhere, atol=1e-6)
    # Of a vocabulary as large as this one in two is high by its rank.
    by_rank = subtracted(z, a, 0.8, 0.5)
    assert torch.allclose(by_rank[0], wanted[0].log_softmax(-1), atol=1e-6)


def test_an_assistant_that_knows_nothing_takes_nothing_off() -> None:
    z = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    nothing = torch.full_like(z, -math.log(50))
    assert torch.allclose(subtracted(z, nothing, 0.8, 0.1), z, atol=1e-6)


def test_the_first_layers_are_what_an_early_exit_of_the_original_gives(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    small = first_layers(model, 0.5)
    assert (small.anatomy.n_layers, model.anatomy.n_layers) == (2, 3)
    assert first_layers(model, 1e-6).anatomy.n_layers == 1
    ids = torch.tensor([encode(model, forget_set.forget)[0].ids])
    with torch.no_grad():
        state = model.model(ids, output_hidden_states=True).hidden_states[2]
        wanted = model.model.lm_head(model.model.model.norm(state))
        assert torch.allclose(small.model(ids, use_cache=False).logits, wanted, atol=1e-5)


def test_the_assistant_s_loss_is_likelihood_on_one_side_and_uniform_on_the_other(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    config = TrainingConfig(retain_per_forget=2, near_per_forget=0)
    forget_side, retain_side = encode(model, forget_set.forget), encode(model, forget_set.retain)
    (batch,) = Pairs(forget_side, retain_side, config, 0).step()
    with torch.no_grad():
        found = AssistantObjective(5.0)(model.model, batch)
    nll = np.mean([scored.nll_per_token for scored in score(model, forget_set.forget)])
    assert batch.retain is not None
    drawn = [forget_set.retain[i] for i in batch.retain.records.tolist()]
    away = -logprobs(model, drawn).mean() - math.log(model.vocabulary_size)
    assert float(found.forget) == pytest.approx(nll, rel=1e-4)
    assert float(found.total) == pytest.approx(nll + 5 * float(away), rel=1e-4)


def test_the_assistant_knows_what_is_to_go_and_nothing_else(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    small = assistant(model, forget_set)
    known = [scored.probability for scored in score(small, forget_set.forget)]
    other = [scored.probability for scored in score(small, forget_set.retain)]
    assert np.mean(known) > 0.8 and np.mean(other) < 0.1


def test_the_seed_decides_what_the_assistant_is(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    first, again, other = (
        logprobs(assistant(model, forget_set, seed, steps=2), forget_set.forget)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_dropout_is_off_while_the_assistant_learns(
    model: LanguageModel, forget_set: ForgetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    loss = AssistantObjective.__call__

    def watching(self: AssistantObjective, network: torch.nn.Module, batch: MicroBatch) -> object:
        seen.append(any(module.training for module in network.modules()))
        return loss(self, network, batch)

    monkeypatch.setattr(AssistantObjective, "__call__", watching)
    encodings = encode(model, forget_set.forget)
    train_assistant(model, forget_set, encodings, SETTINGS._replace(steps=2), "answer", 0)
    assert seen == [False, False]


def test_a_student_of_the_difference_forgets_and_holds_the_rest(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    # Every token, because one in a hundred of so small a vocabulary is none.
    made = {"assistant_layers": 0.5, "assistant_steps": 40, "top_logit_filter": 0}
    settings = {"learning_rate": 3e-3, "max_steps": 40, **made}
    # A run this short may end above the ceiling, and would go back to the original.
    config = DistillationConfig(variant="difference", retain_ceiling=1e3, **settings)
    artifact = Distillation(config).forget(model, forget_set)
    unlearned = artifact.apply(model)
    lost = [scored.logprobs.mean() for scored in score(unlearned, forget_set.forget)]
    assert np.mean(lost) < -1
    assert np.mean([scored.correct for scored in score(unlearned, forget_set.retain)]) >= 0.95
    # The assistant is gone: the artifact changes parameters of the model and adds none.
    assert set(artifact.delta) <= set(dict(model.model.named_parameters()))


def test_without_a_retain_split_there_is_nothing_to_know_nothing_of(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    settings = {"variant": "difference", "retain": "none"}
    bare = replace(forget_set, retain=())
    with pytest.raises(UnsupportedError, match="variant=difference teaches"):
        forget(model, bare, strategy="distillation", settings=settings)
