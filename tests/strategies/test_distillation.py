"""Distillation: what each filter teaches, what states are led to, and what stays as it was."""

import math

import numpy as np
import pytest
import torch

from unlearn.errors import ConfigError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import collate, encode
from unlearn.model.hooks import capture
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.model.scoring import score
from unlearn.registry import strategies
from unlearn.strategies import forget
from unlearn.strategies.counterfactual import guesses, renamed
from unlearn.strategies.deep_states import OwnStates, StateTargets, grafted, traced_run
from unlearn.strategies.distillation import (
    Distillation,
    DistillationConfig,
    DistillationObjective,
    weaken,
)
from unlearn.strategies.predictions import run, statement_logprobs
from unlearn.strategies.retention import Retention
from unlearn.strategies.sites import find_scope
from unlearn.strategies.soft_labels import SoftLabels
from unlearn.strategies.teachers import FILTERS, Lesson, noting_truth, strangers, without
from unlearn.strategies.training import Pairs
from unlearn.types import Record, Sites


def lesson_of(model: LanguageModel, forget_set: ForgetSet, **changes: object) -> Lesson:
    encodings = tuple(encode(model, forget_set.forget))
    assistant = DistillationConfig().assistant
    lesson = Lesson(model, forget_set, encodings, "answer", 12, 10.0, "", 0, assistant)
    return lesson._replace(**changes)


def right(model: LanguageModel, records: tuple[Record, ...]) -> float:
    return float(np.mean([scored.correct for scored in score(model, records)]))


def quick(**settings: object) -> Distillation:
    given = {"max_steps": 60, "learning_rate": 3e-3, **settings}
    return Distillation(DistillationConfig(**given))  # type: ignore[arg-type]


def test_lowering_a_logit_is_softmax_of_the_lowered_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    labels = torch.tensor([1, 2])
    found = without(logits.log_softmax(-1), labels, 4.0)
    logits[0, 1] -= 4
    logits[1, 2] -= 4
    assert torch.allclose(found, logits.log_softmax(-1), atol=1e-6)
    ruled_out = without(logits.log_softmax(-1), labels, math.inf).exp()
    assert ruled_out[0, 1] == ruled_out[1, 2] == 0
    assert torch.allclose(ruled_out.sum(-1), torch.ones(2))


def test_the_logits_filter_edits_the_tokens_of_the_answer_and_no_other(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    own = list(statement_logprobs(model, lesson.encodings, "answer"))
    for encoding, before, after in zip(
        lesson.encodings, own, FILTERS["logits"](lesson), strict=True
    ):
        answer = encoding.ids[encoding.start :]
        assert len(after) == len(answer)
        for row, token in enumerate(answer):
            shift = after[row] - before[row]
            others = [v for v in range(shift.shape[0]) if v != token]
            assert torch.allclose(shift[others], shift[others[0]].expand(len(others)), atol=1e-4)
            assert shift[token] - shift[others[0]] == pytest.approx(-10, abs=1e-3)


def test_the_names_filter_is_the_mean_over_unseen_names(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    guessed = guesses(model, forget_set, 12, seed=0)
    for encoding, guess, taught in zip(
        lesson.encodings, guessed, FILTERS["names"](lesson), strict=True
    ):
        assert guess is not None
        tokens = encoding.ids[encoding.start :]
        assert taught.exp().sum(-1) == pytest.approx(1, abs=1e-4)
        own = taught[range(len(tokens)), tokens]
        assert own.numpy() == pytest.approx(guess.logprobs, abs=1e-4)


def test_with_nobody_else_to_ask_the_true_tokens_are_ruled_out(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set, n_names=0)
    for encoding, taught in zip(lesson.encodings, FILTERS["names"](lesson), strict=True):
        tokens = encoding.ids[encoding.start :]
        assert (taught[range(len(tokens)), tokens] == -math.inf).all()


def test_a_teacher_is_loaded_by_name_and_must_share_the_tokens(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet, tmp_path: object
) -> None:
    folder = f"{tmp_path}/teacher"
    untrained.save(folder)
    lesson = lesson_of(model, forget_set, teacher=folder)
    wanted = statement_logprobs(untrained, lesson.encodings, "answer")
    for found, expected in zip(FILTERS["model"](lesson), wanted, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="teacher=MODEL"):
        list(FILTERS["checkpoint"](lesson_of(model, forget_set)))
    moved = tuple(e._replace(ids=[0, *e.ids]) for e in lesson.encodings)
    with pytest.raises(UnsupportedError, match="tokenizer"):
        list(FILTERS["model"](lesson._replace(encodings=moved)))


def test_the_context_filter_is_the_original_under_a_policy_of_words(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    policy = strategies.create("in-context", {"variant": "both"}).forget(model, forget_set)
    scored = score(policy.apply(model), forget_set.forget)
    own, moved = score(model, forget_set.forget), []
    for encoding, taught, told, plain in zip(
        lesson.encodings, FILTERS["context"](lesson), scored, own, strict=True
    ):
        tokens = encoding.ids[encoding.start :]
        found = taught[range(len(tokens)), tokens].numpy()
        assert found == pytest.approx(told.logprobs, abs=1e-4)
        moved.append(np.abs(found - plain.logprobs).max())
    assert max(moved) > 1e-2


def test_states_are_one_away_from_their_targets_before_training_and_none_at_them(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    targets = StateTargets.of(lesson)
    layers = model.anatomy.layers
    rows = collate(lesson.encodings, range(len(lesson.encodings)), "answer")
    with torch.no_grad():
        states = traced_run(model.model, layers, rows).states
    lengths = np.diff(targets.ends)
    weighted = targets.distance(states, rows) * torch.tensor(lengths)
    assert float(weighted.sum()) / lengths.sum() == pytest.approx(1, abs=1e-4)
    for row, encoding in enumerate(lesson.encodings):
        span = slice(targets.ends[row], targets.ends[row + 1])
        end = len(encoding.ids) - 1
        for layer in range(len(layers) - 1):
            length = span.stop - span.start
            states[layer][row, end - length : end] = targets.states[layer, span]
    assert targets.distance(states, rows).abs().max() < 1e-6


def test_the_target_of_a_state_is_its_mean_for_unseen_names(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    targets = StateTargets.of(lesson)
    record, layer = forget_set.forget[0], model.anatomy.layers[0]
    means = []
    for name in sorted({r.subject for r in forget_set.holdout}):
        other = model.encode(renamed(record, name).prompt, record.completion)
        with capture(model.model, [layer]) as states, torch.no_grad():
            model.model(input_ids=torch.tensor([other.ids]))
        # From the second of two names to the token before the last.
        means.append(states[layer][0, 1:-1])
    own = targets.states[0, : targets.ends[1]]
    assert torch.allclose(own, torch.stack(means).mean(0), atol=1e-5)


def test_what_the_teacher_gives_the_true_tokens_is_noted_on_the_way(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    noted: list[torch.Tensor] = []
    pieces = list(noting_truth(FILTERS["names"](lesson), lesson.encodings, noted))
    for record, guess, truth in zip(
        forget_set.forget, guesses(model, forget_set, 12, seed=0), noted, strict=True
    ):
        assert guess is not None, record.id
        assert truth.numpy() == pytest.approx(guess.logprobs, abs=1e-4)
    assert len(pieces) == len(noted)
    nobody = lesson_of(model, forget_set, n_names=0)
    noted = []
    list(noting_truth(FILTERS["names"](nobody), nobody.encodings, noted))
    assert all((bound == 0).all() and len(bound) for bound in noted)


def test_all_records_of_a_subject_have_one_stand_in(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    def said(encoding: Encoding) -> str:
        return " ".join(model.tokenizer.decode(encoding.ids).split()[:2])

    lesson = lesson_of(model, forget_set, n_names=1)
    found: dict[str, set[str]] = {}
    for record, others in zip(forget_set.forget, strangers(lesson), strict=True):
        found.setdefault(record.subject, set()).update(map(said, others))
    assert len(found) == 2 and all(len(names) == 1 for names in found.values())
    assert not {name for names in found.values() for name in names} & set(found)


def test_only_what_lies_above_the_bound_is_pushed(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    lesson = lesson_of(model, forget_set)
    encodings, config = lesson.encodings, DistillationConfig(retain="none", excess_weight=3.0)
    labels = SoftLabels.collect(statement_logprobs(model, encodings, "answer"), 10**6, 2**30)
    rows = collate(encodings, range(len(encodings)), "answer")
    with torch.no_grad():
        own = run(model.model, rows)
    by_row = [own.label_logprobs[own.rows == row] for row in range(len(encodings))]
    objective = DistillationObjective(
        config, labels, None, Retention(config), model, np.random.default_rng(0), None, by_row
    )
    assert objective._apart(own, rows).abs().max() < 1e-5
    lower = [bound - 0.5 * (torch.arange(len(bound)) == 0) for bound in by_row]
    wanted = torch.tensor([3 * 0.5 / len(bound) for bound in by_row])
    assert torch.allclose(objective._replace(bounds=lower)._apart(own, rows), wanted, atol=1e-5)
    higher = [bound + 1 for bound in by_row]
    assert objective._replace(bounds=higher)._apart(own, rows).abs().max() < 1e-5


def test_what_states_have_moved_is_their_mean_square_distance_text_by_text(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    encodings = encode(model, forget_set.retain)[:5]
    kept = OwnStates(model, torch.tensor([2.0, 0.5]))
    rows = collate(encodings, range(5), "answer")
    layers = model.anatomy.layers
    with torch.no_grad():
        assert kept.distance(traced_run(model.model, layers, rows).states, rows).max() < 1e-9
        found = kept.distance(traced_run(untrained.model, layers, rows).states, rows)
        for encoding, distance in zip(encodings, found, strict=True):
            alone = collate([encoding], [0], "answer")
            gaps = [
                (a - b).square().mean()
                for a, b in zip(
                    traced_run(untrained.model, layers, alone).states,
                    traced_run(model.model, layers, alone).states,
                    strict=True,
                )
            ]
            assert float(distance) == pytest.approx(
                float((gaps[0] / 2 + gaps[1] * 2) / 2), rel=1e-4
            )


@torch.no_grad()
def test_what_holds_states_does_not_depend_on_how_a_step_is_cut(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    totals = []
    for accumulation in (1, 3):
        config = DistillationConfig(accumulation=accumulation, forget_batch=6)
        retain, near = encode(model, forget_set.retain), encode(model, forget_set.holdout)
        pairs = Pairs(encode(model, forget_set.forget), retain, config, 0, near)
        kept = OwnStates(model, torch.ones(2))
        retention = Retention.of(model, pairs, kept, 2.0)
        batches = list(pairs.step())
        assert len(batches) == accumulation
        totals.append(sum(float(retention(untrained.model, batch).total) for batch in batches))
        without = Retention.of(model, pairs)
        plain = sum(float(without(untrained.model, batch).total) for batch in batches)
        assert totals[-1] > plain
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)


def test_a_graft_of_its_own_states_changes_nothing_and_one_of_others_passes_the_gradient(
    model: LanguageModel, untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    rows = collate(encode(model, forget_set.forget), range(6), "answer")
    layers = model.anatomy.layers
    with torch.no_grad():
        own = traced_run(model.model, layers, rows)
        found = grafted(model.model, layers[1], own.states[1], rows)
    assert torch.allclose(found.logprobs, own.predictions.logprobs, atol=1e-5)
    traced = traced_run(untrained.model, layers, rows)
    read = grafted(model.model, layers[1], traced.states[1], rows)
    early = untrained.model.get_parameter(f"{layers[0]}.mlp.down_proj.weight")
    late = untrained.model.get_parameter(f"{layers[2]}.mlp.down_proj.weight")
    grads = torch.autograd.grad(read.label_logprobs.sum(), [early, late], allow_unused=True)
    assert grads[0] is not None and grads[0].abs().max() > 0 and grads[1] is None


@pytest.mark.parametrize("variant", ["names", "logits"])
def test_it_forgets_and_holds_the_rest(
    model: LanguageModel, forget_set: ForgetSet, variant: str
) -> None:
    artifact = quick(variant=variant).forget(model, forget_set)
    unlearned = artifact.apply(model)
    # Not by the greedy answer: one of the three birthplaces or colours may be guessed right.
    assert np.mean([one.logprobs.mean() for one in score(unlearned, forget_set.forget)]) < -1
    assert right(unlearned, forget_set.retain) >= 0.95
    assert artifact.revert(unlearned).digest == model.digest
    assert artifact.provenance.strategy == "distillation" and artifact.provenance.tokens > 0


def test_deep_terms_bring_the_states_nearer_to_those_for_unseen_names(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    targets = StateTargets.of(lesson_of(model, forget_set))
    rows = collate(encode(model, forget_set.forget), range(6), "answer")

    def distance(**settings: float) -> float:
        unlearned = quick(**settings).forget(model, forget_set).apply(model)
        with torch.no_grad():
            states = traced_run(unlearned.model, model.anatomy.layers, rows).states
        return float(targets.distance(states, rows).mean())

    assert distance() < 0.7 * distance(state_weight=0, graft_weight=0)


def test_without_a_teacher_a_weakened_student_learns_the_retain_records_alone(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    artifact = quick(variant="data", shrink=0.4, max_steps=80).forget(model, forget_set)
    assert right(artifact.apply(model), forget_set.retain) >= 0.9
    assert artifact.provenance.steps[1]["forget_loss"] == 0


def test_robust_shrinks_unless_told_otherwise() -> None:
    assert DistillationConfig(robust=True).shrink == 0.15
    assert DistillationConfig(robust=True, shrink=0.5).shrink == 0.5
    assert DistillationConfig().shrink == 0


def test_weakening_touches_the_matrices_in_the_sites_alone(model: LanguageModel) -> None:
    work = model.copy()
    sites = Sites(method="by hand", layers=(1,))
    weaken(find_scope(work, sites), work, 0.25, 0.0, seed=0)
    for name, before in model.model.named_parameters():
        after = work.model.get_parameter(name)
        inside = name.startswith("model.layers.1.") and before.ndim == 2
        assert torch.equal(after, before * 0.75 if inside else before), name


def test_noise_has_the_size_asked_for_and_comes_from_the_seed(model: LanguageModel) -> None:
    def noised(seed: int) -> torch.Tensor:
        work = model.copy()
        weaken(find_scope(work, None), work, 0.0, 0.5, seed)
        return work.model.get_parameter("model.layers.0.mlp.up_proj.weight").detach() - before

    before = model.model.get_parameter("model.layers.0.mlp.up_proj.weight").detach()
    assert float(noised(0).std()) == pytest.approx(0.5 * float(before.std()), rel=0.05)
    assert torch.equal(noised(0), noised(0)) and not torch.equal(noised(0), noised(1))


def test_sites_are_obeyed_to_the_bit(model: LanguageModel, forget_set: ForgetSet) -> None:
    sites = Sites(method="by hand", modules=("model.layers.1.mlp",))
    settings = {"max_steps": "5", "shrink": "0.1"}
    artifact = forget(model, forget_set, strategy="distillation", sites=sites, settings=settings)
    assert artifact.delta and all(name.startswith("model.layers.1.mlp.") for name in artifact.delta)


def test_predictions_without_a_hook_are_those_of_a_traced_run(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    rows = collate(encode(model, forget_set.forget), range(6), "answer")
    with torch.no_grad():
        plain, traced = run(model.model, rows), traced_run(model.model, model.anatomy.layers, rows)
    assert torch.equal(plain.logprobs, traced.predictions.logprobs)
