"""Token masks: which tokens of a forget record carry a forget loss, and that nothing else moves."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import IGNORED, encode
from unlearn.model.language_model import LanguageModel
from unlearn.strategies import forget
from unlearn.strategies.ascent_config import GradientAscentConfig
from unlearn.strategies.ascent_objective import (
    AscentObjective,
    Gate,
    Guesses,
    scores_by_token,
)
from unlearn.strategies.gradient_ascent import GradientAscent
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.retention import Retention
from unlearn.strategies.sites import find_scope, find_tokens
from unlearn.strategies.training import MicroBatch, Pairs
from unlearn.types import Sites, Statement

Mask = dict[str, tuple[int, ...]]


@pytest.fixture
def mask(untrained: LanguageModel, forget_set: ForgetSet) -> Mask:
    """The last answer token of every record but the first, which the mask does not list."""
    encodings = encode(untrained, forget_set.forget)
    return {
        record.id: (len(encoding.ids) - 1,)
        for record, encoding in list(zip(forget_set.forget, encodings, strict=True))[1:]
    }


def near_of(model: LanguageModel, forget_set: ForgetSet) -> list[Statement]:
    return near_statements(model, forget_set, 5)


def pairs_of(
    model: LanguageModel, forget_set: ForgetSet, mask: Mask | None, **settings: Any
) -> Pairs:
    config = GradientAscentConfig(**settings)
    encodings = encode(model, forget_set.forget)
    sites = Sites(method="by hand", token_mask=mask)
    counted = find_tokens(forget_set, encodings, sites, config.loss_on)
    retain, near = (
        encode(model, forget_set.retain),
        encode(model, near_of(model, forget_set)),
    )
    return Pairs(encodings, retain, config, 5, near, counted)


def objective_of(model: LanguageModel, pairs: Pairs, gate: Gate | None = None) -> AscentObjective:
    shape = (len(pairs.forget), max(len(encoding.ids) for encoding in pairs.forget))
    config = pairs.config
    assert isinstance(config, GradientAscentConfig)
    reference = torch.zeros(shape)
    if config.variant == "npo":
        reference = scores_by_token(model, pairs.forget, config.loss_on, config.on)
    guessed = Guesses(torch.full(shape, -torch.inf))
    return AscentObjective(config, reference, gate, guessed, Retention.of(model, pairs))


def gradient(model: LanguageModel, loss: torch.Tensor) -> torch.Tensor:
    parameters = list(model.model.parameters())
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


def score_by_hand(model: LanguageModel, ids: list[int], position: int, variant: str) -> Any:
    """The score that a token's loss is made of, from a text alone in its batch."""
    logits = model.model(input_ids=torch.tensor([ids])).logits[0, position - 1]
    logprob = logits.log_softmax(-1)[ids[position]]
    if variant != "npo":
        return logprob
    return logprob - torch.log1p(-logprob.exp())


@pytest.mark.parametrize("loss_on", ["answer", "text"])
@pytest.mark.parametrize("variant", ["npo", "simnpo", "ascent", "inverted-hinge"])
def test_the_forget_loss_is_the_hand_made_one_over_the_masked_positions(
    model: LanguageModel,
    untrained: LanguageModel,
    forget_set: ForgetSet,
    mask: Mask,
    variant: str,
    loss_on: str,
) -> None:
    mask = {name: (*((2,) if loss_on == "text" else ()), *at) for name, at in mask.items()}
    settings = {"variant": variant, "loss_on": loss_on, "retain": "none", "near_per_forget": 0}
    pairs = pairs_of(untrained, forget_set, mask, beta=0.5, gamma=0.3, cap=1e9, **settings)
    (batch,) = pairs.step()
    objective = objective_of(model, pairs)
    found = gradient(
        untrained, objective(untrained.model, batch._replace(retain=None, near=None)).total
    )
    by_hand: Any = 0.0
    for record, encoding in zip(forget_set.forget, pairs.forget, strict=True):
        whole = range(encoding.start if loss_on == "answer" else 1, len(encoding.ids))
        at = mask.get(record.id, tuple(whole))
        scores = [score_by_hand(untrained, encoding.ids, p, variant) for p in at]
        if variant == "npo":
            old = [score_by_hand(model, encoding.ids, p, variant).detach() for p in at]
            for new, before in zip(scores, old, strict=True):
                by_hand = by_hand + 2 / 0.5 * torch.log1p(torch.exp(0.5 * (new - before)))
        elif variant == "simnpo":
            nll = -sum(scores) / len(at)
            by_hand = by_hand + 2 / 0.5 * torch.log1p(torch.exp(0.3 - 0.5 * nll))
        elif variant == "ascent":
            by_hand = by_hand + sum(scores) / len(at)
        else:
            for p, logprob in zip(at, scores, strict=True):
                logits = untrained.model(input_ids=torch.tensor([encoding.ids])).logits[0, p - 1]
                probabilities = logits.softmax(-1)
                others = torch.cat(
                    [probabilities[: encoding.ids[p]], probabilities[encoding.ids[p] + 1 :]]
                )
                by_hand = by_hand + (1 + logprob.exp() - others.max()) / len(at)
    expected = gradient(untrained, by_hand / len(forget_set.forget))
    assert expected.norm() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("per", ["token", "answer"])
@pytest.mark.parametrize("variant", ["npo", "simnpo", "grad-diff", "inverted-hinge"])
def test_a_token_outside_the_mask_gives_its_logits_no_gradient(
    untrained: LanguageModel, forget_set: ForgetSet, mask: Mask, variant: str, per: str
) -> None:
    pairs = pairs_of(untrained, forget_set, mask, variant=variant, per=per)
    batch = next(iter(pairs.step()))._replace(retain=None, near=None)
    objective = objective_of(untrained, pairs)
    with torch.no_grad():
        leaf = untrained.model(input_ids=batch.forget.ids).logits.clone()
    leaf.requires_grad_(True)
    objective(lambda **_: SimpleNamespace(logits=leaf), batch).total.backward()
    assert leaf.grad is not None
    for row, number in enumerate(batch.forget.records.tolist()):
        encoding = pairs.forget[number]
        whole = range(encoding.start, len(encoding.ids))
        expected = mask.get(forget_set.forget[number].id, tuple(whole))
        moved = leaf.grad[row].abs().sum(-1).nonzero().flatten().tolist()
        assert [place + 1 for place in moved] == list(expected)


def test_retain_and_near_terms_are_those_without_a_mask(
    untrained: LanguageModel, forget_set: ForgetSet, mask: Mask
) -> None:
    nudged = untrained.copy()
    with torch.no_grad():
        for parameter in nudged.model.parameters():
            parameter.mul_(1.5)

    def rest(mask: Mask | None) -> tuple[torch.Tensor, MicroBatch]:
        pairs = pairs_of(untrained, forget_set, mask)
        (batch,) = pairs.step()
        found = objective_of(untrained, pairs)._replace(retention=Retention.of(nudged, pairs))
        losses = found(untrained.model, batch)
        return losses.total.detach() - losses.forget, batch

    (masked, ours), (free, theirs) = rest(mask), rest(None)
    assert float(masked) == pytest.approx(float(free), rel=1e-5) and float(free) > 1
    for mine, other in ((ours.retain, theirs.retain), (ours.near, theirs.near)):
        assert mine is not None and other is not None
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
        assert bool(mine.counted.all())


def test_the_gate_judges_the_whole_answer_whatever_the_mask(
    model: LanguageModel, forget_set: ForgetSet, mask: Mask
) -> None:
    pairs = pairs_of(model, forget_set, mask, variant="grad-diff")
    (batch,) = pairs.step()
    batch = batch._replace(retain=None, near=None)
    n = len(forget_set.forget)
    for agreement, pushed in ((0.99, True), (1.0, False)):
        gate = Gate(torch.zeros(n), torch.full((n,), agreement), torch.zeros(n, dtype=torch.bool))
        loss = objective_of(model, pairs, gate)(model.model, batch).forget
        assert bool(loss != 0) == pushed
    # What the gate sees is the same with a mask as without.
    (free,) = pairs_of(model, forget_set, None).step()
    assert torch.equal(
        (batch.forget.labels != IGNORED).sum(), (free.forget.labels != IGNORED).sum()
    )


def test_a_mask_of_whole_answers_changes_nothing(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    encodings = encode(model, forget_set.forget)
    answers = {
        record.id: tuple(range(encoding.start, len(encoding.ids)))
        for record, encoding in zip(forget_set.forget, encodings, strict=True)
    }
    # A run this short may end above the ceiling, and would go back to the original.
    settings = {"max_steps": "3", "stop": "budget", "retain_ceiling": "1000"}
    sites = [None, Sites(method="by hand", token_mask=answers)]
    sites += [Sites(method="by hand", token_mask={name: at[:1] for name, at in answers.items()})]
    plain, whole, part = (
        forget(model, forget_set, sites=chosen, settings=settings).provenance for chosen in sites
    )
    assert plain.result_digest == whole.result_digest != part.result_digest
    assert whole.sites is not None and whole.sites.parts == ("token_mask",)


def test_the_reason_says_how_many_records_a_mask_left_known(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    first = {r.id: (model.encode(r.prompt, r.completion).start,) for r in forget_set.forget}
    sites = Sites(method="by hand", token_mask=first)
    # After one step of this size every record is as well known as it was.
    settings = {"max_steps": "1", "learning_rate": "1e-6"}
    masked = forget(model, forget_set, sites=sites, settings=settings).provenance.stop_reason
    n = len(forget_set.forget)
    assert masked.startswith("budget: 1 steps")
    assert masked.endswith(f"in {n} records, and {n} records do not look never trained on")
    plain = forget(model, forget_set, settings=settings).provenance.stop_reason
    assert plain.startswith("budget: 1 steps") and "mask" not in plain


def test_the_provenance_says_which_tokens_but_no_record(
    model: LanguageModel, forget_set: ForgetSet, mask: Mask
) -> None:
    sites = Sites(method="by hand", layers=(1,), token_mask=mask, settings={"tokens": "fact"})
    config = GradientAscentConfig(max_steps=2, stop="budget", retain_ceiling=1e3)
    artifact = GradientAscent(config).forget(model, forget_set, sites)
    assert artifact.delta and all(name.startswith("model.layers.1.") for name in artifact.delta)
    summary = artifact.provenance.sites
    assert summary is not None
    assert summary.parts == ("layers", "token_mask") and summary.settings == {"tokens": "fact"}
    assert not any(
        record.id in artifact.provenance.model_dump_json() for record in forget_set.forget
    )


def test_a_mask_restricts_no_parameter(
    untrained: LanguageModel, forget_set: ForgetSet, mask: Mask
) -> None:
    alone = find_scope(untrained, Sites(method="by hand", token_mask=mask))
    assert set(alone.trainable) == {name for name, _ in untrained.model.named_parameters()}
    assert alone.declared == () and alone.masks == {}
    both = find_scope(untrained, Sites(method="by hand", token_mask=mask, layers=(1,)))
    assert both.declared == find_scope(untrained, Sites(method="by hand", layers=(1,))).declared


def test_without_a_mask_no_record_is_restricted(
    untrained: LanguageModel, forget_set: ForgetSet, mask: Mask
) -> None:
    encodings = encode(untrained, forget_set.forget)
    free = (None,) * len(encodings)
    assert find_tokens(forget_set, encodings, None, "answer") == free
    assert find_tokens(forget_set, encodings, Sites(method="x", layers=(0,)), "answer") == free
    found = find_tokens(forget_set, encodings, Sites(method="x", token_mask=mask), "answer")
    assert found == (None, *mask.values())


@pytest.mark.parametrize(
    ("positions", "settings", "message"),
    [
        ((5, 99), {}, "positions from 5 to 99.*tokens 0 to"),
        ((-1, 5), {}, "positions from -1 to 5"),
        ((1, 2), {}, "no token that carries a loss.*loss_on=answer.*set loss_on=text"),
        ((), {}, "no token that carries a loss"),
        ((0,), {"loss_on": "text"}, "no token that carries a loss.*loss_on=text those are 1 to"),
    ],
)
def test_a_mask_that_does_not_fit_a_record_is_refused_before_any_work(
    model: LanguageModel,
    forget_set: ForgetSet,
    monkeypatch: pytest.MonkeyPatch,
    positions: tuple[int, ...],
    settings: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(LanguageModel, "copy", lambda self: pytest.fail("copied the model"))
    name = forget_set.forget[1].id
    sites = Sites(method="by hand", token_mask={name: positions})
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        forget(model, forget_set, sites=sites, settings=settings)


def test_a_record_that_is_not_to_be_forgotten_is_refused(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    sites = Sites(method="by hand", token_mask={forget_set.retain[0].id: (4,), "nobody": (4,)})
    with pytest.raises(InputError, match=r"no forget record of 'tiny' \(2 such ids\)"):
        forget(model, forget_set, sites=sites)


def test_subject_tokens_are_pushed_where_the_loss_is_on_the_text(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    sites = Sites(method="by hand", token_mask={r.id: (1, 2) for r in forget_set.forget})
    settings = {"loss_on": "text", "max_steps": "2", "stop": "budget", "retain_ceiling": "1000"}
    artifact = forget(model, forget_set, sites=sites, settings=settings)
    assert artifact.provenance.steps[-1]["step"] == 2
