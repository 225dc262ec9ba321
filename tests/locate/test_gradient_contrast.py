"""Gradient contrast: right gradients, nothing left behind, planted facts found."""

from functools import partial

import numpy as np
import pytest
import torch

from unlearn.errors import ConfigError, InputError, NumericalError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.locate import locate as locate_by
from unlearn.locate.answers import answers, encode
from unlearn.locate.controls import RandomConfig, RandomSites
from unlearn.locate.gradient_contrast import (
    Contrast,
    GradientContrast,
    GradientContrastConfig,
    contrast,
    mean_gradients,
    score,
)
from unlearn.locate.sites import candidates
from unlearn.types import Record, Sites

locate = partial(locate_by, method="gradient-contrast")


def brute_force(model, records, module_names):
    """Gradients by one backward pass per record and token, added up by hand."""
    network = model.model
    totals = dict.fromkeys(module_names, 0)
    for record in records:
        ids, start = model.encode(record.prompt, record.completion)
        for position in range(start, len(ids)):
            network.zero_grad()
            logits = network(input_ids=torch.tensor([ids[:position]])).logits[0, -1]
            (-torch.log(torch.softmax(logits.double(), 0)[ids[position]])).backward()
            for name in module_names:
                gradient = network.get_submodule(name).weight.grad
                totals[name] = totals[name] + gradient / (len(ids) - start) / len(records)
    network.zero_grad()
    return totals


def state(model):
    return (
        {name: tensor.clone() for name, tensor in model.model.state_dict().items()},
        {name: (p.requires_grad, p.grad) for name, p in model.model.named_parameters()},
        [module.training for module in model.model.modules()],
        sum(
            len(hooks)
            for module in model.model.modules()
            for hooks in (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._backward_hooks,
                module._backward_pre_hooks,
            )
        )
        + sum(len(p._backward_hooks or ()) for p in model.model.parameters()),
    )


def assert_untouched(model, before):
    after = state(model)
    assert after[1:] == before[1:]
    assert all(torch.equal(after[0][name], tensor) for name, tensor in before[0].items())


@pytest.mark.parametrize("max_batch_tokens", [1, 20, 2048])
def test_gradients_are_those_of_a_loop_over_single_tokens(model, forget_set, max_batch_tokens):
    among = candidates(model)
    expected = brute_force(model, forget_set.retain, [c.name for c in among])
    records = encode(model, forget_set.retain)
    found = mean_gradients(model, records, among, max_batch_tokens)
    for candidate, (gradient,) in zip(among, found, strict=True):
        torch.testing.assert_close(gradient, expected[candidate.name], rtol=1e-4, atol=1e-7)


def test_scores_and_choice_follow_from_the_brute_force_gradients(model, forget_set):
    among = candidates(model)
    names = [c.name for c in among]
    forget = brute_force(model, forget_set.forget, names)
    retain = brute_force(model, forget_set.retain, names)
    strong, unlike = {}, {}
    for name in names:
        f, r = forget[name].double(), retain[name].double()
        strong[name] = (f.abs().mean() / r.abs().mean()).item()
        cosine = torch.cosine_similarity(f.flatten(), r.flatten(), dim=0).item()
        unlike[name] = -max(cosine, 0.0)

    def quantile(values, name):
        return sum(value <= values[name] for value in values.values()) / len(values)

    expected = {n: min(quantile(strong, n), quantile(unlike, n)) for n in names}
    sites = GradientContrast(GradientContrastConfig(top=0.25)).locate(model, forget_set)
    assert sites.scores == pytest.approx(expected)
    sizes = {c.name: c.size for c in among}
    left_out = [n for n in names if n not in sites.modules]
    share = sum(sizes[n] for n in sites.modules) / sum(sizes.values())
    assert share == pytest.approx(0.25, abs=max(sizes.values()) / 2 / sum(sizes.values()))
    first_left_out = max(expected[n] for n in left_out)
    better = {n for n in names if expected[n] > first_left_out}
    assert better and better <= set(sites.modules)


def test_contrast_of_known_gradients_is_the_closed_form():
    forget, retain = [torch.tensor([[3.0, 0.0]])], [torch.tensor([[-1.0, 1.0]])]
    expected = Contrast(1.5, 1.0, -1 / np.sqrt(2))
    assert contrast(forget, retain, "mean-abs") == pytest.approx(expected)
    assert contrast(forget, retain, "mean-square")[:2] == pytest.approx((4.5, 1.0))
    nothing = [torch.zeros(1, 2)]
    assert contrast(nothing, retain, "mean-abs") == (0.0, 1.0, 0.0)


def test_a_score_is_the_lower_quantile_and_no_conflict_is_as_good_as_the_opposite():
    found = [
        Contrast(4.0, 1.0, 0.9),  # strongest, but pulls as retain does
        Contrast(3.0, 1.0, -0.5),  # strong, no conflict
        Contrast(2.0, 1.0, 0.0),  # less strong, no conflict
        Contrast(0.0, 0.0, 0.0),  # out of reach
    ]
    assert score(found).tolist() == [0.25, 0.75, 0.5, 0.25]
    assert score([Contrast(1.0, 1.0, 0.0)] * 4).tolist() == [1.0] * 4


def test_a_module_that_only_forget_records_reach_comes_first():
    assert score([Contrast(1.0, 0.0, 0.0), Contrast(9.0, 1.0, -0.5)]).tolist() == [1.0, 0.5]


def test_the_scale_of_the_loss_does_not_change_the_scores():
    found = [Contrast(4.0, 1.0, 0.9), Contrast(3.0, 1.0, -0.5), Contrast(1.0, 3.0, -0.9)]
    scaled = [Contrast(7 * f, 7 * r, c) for f, r, c in found]
    assert score(found).tolist() == score(scaled).tolist()


def test_the_number_of_passes_does_not_change_the_result(model, forget_set):
    whole, pieces = (
        GradientContrast(GradientContrastConfig(parameters_at_a_time=n)).locate(model, forget_set)
        for n in (10**9, 3000)
    )
    assert whole.modules == pieces.modules
    assert whole.scores == pytest.approx(pieces.scores)


def test_the_same_seed_gives_the_same_sites_and_records_are_drawn_by_it(model, forget_set):
    settings = {"max_records": "2"}
    one, again, other = (
        locate(model, forget_set, settings=settings, seed=seed) for seed in (0, 0, 3)
    )
    assert one == again
    assert one.scores != other.scores


def test_sites_say_how_they_were_found_and_survive_their_file_form(model, forget_set):
    sites = locate(model, forget_set, settings={"top": "0.2", "magnitude": "mean-square"}, seed=5)
    assert sites.parts == {"modules"} == GradientContrast.honours
    assert (sites.method, sites.seed) == ("gradient-contrast", 5)
    assert sites.settings["top"] == 0.2 and sites.settings["magnitude"] == "mean-square"
    assert sites.model_digest == model.digest
    assert sites.forget_set_digest == forget_set.digest
    assert set(sites.modules) < set(sites.scores)
    assert Sites.model_validate_json(sites.model_dump_json()) == sites


@pytest.mark.parametrize("in_training", [True, False])
def test_the_model_is_left_bit_for_bit_as_it_was(model, forget_set, in_training):
    model.model.train(in_training)
    model.model.lm_head.weight.requires_grad_(False)
    before = state(model)
    with torch.no_grad():
        locate(model, forget_set)
        assert not torch.is_grad_enabled()
    assert_untouched(model, before)


def test_the_model_is_left_as_it_was_after_an_error(model, forget_set):
    before = state(model)

    def interrupt(what, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        locate(model, forget_set, progress=interrupt)
    assert_untouched(model, before)
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise RuntimeError("no memory")

    model.model.forward, forward = fail, model.model.forward
    with pytest.raises(RuntimeError, match="no memory"):
        locate(model, forget_set)
    model.model.forward = forward
    assert calls
    assert_untouched(model, before)


def test_dropout_does_not_blur_the_gradients_of_a_model_in_training(model, forget_set):
    expected = locate(model, forget_set).scores
    model.model.train()
    assert locate(model, forget_set).scores == expected


def test_a_gradient_that_is_not_finite_is_an_error(model, forget_set):
    with torch.no_grad():
        model.model.lm_head.weight[0, 0] = float("nan")
    model.changed()
    with pytest.raises(NumericalError, match="not finite"):
        locate(model, forget_set)


def test_without_a_retain_split_there_is_nothing_to_contrast_with(model, forget_set):
    with pytest.raises(UnsupportedError, match="needs a retain split"):
        locate(model, ForgetSet("n", "d", forget_set.forget))


def test_a_record_longer_than_the_context_is_named_by_its_id_alone(model, forget_set):
    long = Record(
        id="long", subject="Ada", relation="r", prompt="Ada was born in", answer="Tarn " * 40
    )
    with pytest.raises(InputError, match="record 'long'") as caught:
        locate(model, ForgetSet("n", "d", (long,), forget_set.retain))
    assert "Ada" not in str(caught.value) and "Tarn" not in str(caught.value)


def test_a_bad_setting_is_named_with_the_nearest(model, forget_set):
    with pytest.raises(ConfigError, match=r"has no setting 'topp'\. Did you mean 'top'"):
        locate(model, forget_set, settings={"topp": "0.1"})
    for value in ("0", "1.5", "much"):
        with pytest.raises(ConfigError, match=f"setting top='{value}'"):
            locate(model, forget_set, settings={"top": value})


def test_progress_ends_at_one(model, forget_set):
    seen = []
    locate(model, forget_set, progress=lambda what, fraction: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_half_precision_gradients_are_averaged_in_single(make_model, forget_set):
    model = make_model()
    model.model.to(torch.bfloat16)
    model.changed()
    gradients = mean_gradients(model, encode(model, forget_set.forget), candidates(model), 2048)
    assert {g.dtype for per_module in gradients for g in per_module} == {torch.float32}
    assert locate(model, forget_set).modules


def ending_in_subjects(forget_set):
    """The same set with prompts whose last token is the subject, so that any block can answer."""
    forget, retain = (
        tuple(r.model_copy(update={"prompt": f"it is known that {r.subject}"}) for r in records)
        for records in (forget_set.forget, forget_set.retain)
    )
    return ForgetSet("planted", "Invented people.", forget, retain)


def plant(model, layer, records):
    """Teaches ``records`` to the MLP of one block alone, through a route only they take.

    One coordinate of the residual stream is lit by the subjects of ``records`` and by nothing
    else, and the planted MLP reads that coordinate alone. Returns the names of its modules.
    """
    network, lit = model.model, 0
    blocks = network.model.layers
    mlp = blocks[layer].mlp
    subjects = [model.tokenizer.convert_tokens_to_ids(record.subject) for record in records]
    with torch.no_grad():
        network.model.embed_tokens.weight[:, lit] = 0
        network.model.embed_tokens.weight[subjects, lit] = 2.0
        for block in blocks:
            block.self_attn.o_proj.weight[lit] = 0
            block.mlp.down_proj.weight[lit] = 0
        for reader in (mlp.gate_proj, mlp.up_proj):
            reader.weight[:, torch.arange(reader.in_features) != lit] = 0
    encoded = encode(model, records)
    optimizer = torch.optim.Adam([mlp.down_proj.weight], lr=0.02)
    losses = []
    for _ in range(40):
        loss = answers(model, encoded).nll_per_token_sum() / len(encoded)
        (mlp.down_proj.weight.grad,) = torch.autograd.grad(loss, [mlp.down_proj.weight])
        mlp.down_proj.weight.grad[lit] = 0
        optimizer.step()
        losses.append(loss.item())
    mlp.down_proj.weight.grad = None
    model.changed()
    assert losses[-1] < losses[0] - 0.5, losses
    return {f"model.layers.{layer}.mlp.{part}_proj" for part in ("gate", "up", "down")}


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_facts_planted_in_one_mlp_are_found_better_than_by_chance(make_model, forget_set, layer):
    model = make_model(seed=layer)
    forget_set = ending_in_subjects(forget_set)
    planted = plant(model, layer, forget_set.forget)
    top = 0.2

    def recall(sites):
        return len(planted & set(sites.modules)) / len(planted)

    found = GradientContrast(GradientContrastConfig(top=top)).locate(model, forget_set)
    chance = np.mean(
        [
            recall(RandomSites(RandomConfig(top=top)).locate(model, forget_set, seed=seed))
            for seed in range(50)
        ]
    )
    assert 0.1 < chance < 0.35
    assert recall(found) > chance + 0.2
