"""Forgetting by gradient ascent, end to end on a model that learned invented people by heart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unlearn.artifact import FullWeights
from unlearn.errors import ConfigError, InputError, UnknownNameError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.registry import strategies
from unlearn.strategies import forget
from unlearn.strategies.counterfactual import guesses
from unlearn.strategies.gradient_ascent import GradientAscent, GradientAscentConfig
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.stopping import TOLERANCE, find_targets
from unlearn.types import Record, Sites

FAST = {"learning_rate": "1e-3"}


def run(
    model: LanguageModel, forget_set: ForgetSet, sites: Sites | None = None, **settings: Any
) -> FullWeights:
    config = GradientAscentConfig(**{"learning_rate": 1e-3, **settings})
    return GradientAscent(config).forget(model, forget_set, sites)


def nll(model: LanguageModel, records: Sequence[Record]) -> np.ndarray:
    return np.array([scored.nll_per_token for scored in score(model, records)])


def right(model: LanguageModel, records: Sequence[Record]) -> float:
    return float(np.mean([scored.correct for scored in score(model, records)]))


def test_every_token_falls_to_its_guess_and_the_rest_stays(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    assert right(model, forget_set.forget) == 1.0
    artifact = forget(model, forget_set, settings=FAST)
    unlearned = artifact.apply(model)
    guessed = guesses(model, forget_set, GradientAscentConfig().guess_names, seed=0)
    before = score(model, forget_set.forget)
    after = score(unlearned, forget_set.forget)
    for known, scored, guess in zip(before, after, guessed, strict=True):
        assert guess is not None
        assert (known.logprobs > guess.logprobs + TOLERANCE).any()
        assert (scored.logprobs <= guess.logprobs + TOLERANCE + 1e-4).all()
    assert right(unlearned, forget_set.retain) >= 0.95
    assert right(unlearned, forget_set.neighbors) >= 0.8
    assert artifact.provenance.stop_reason.startswith("matched")


def test_forgetting_stops_near_ignorance_instead_of_maximising_the_loss(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    matched = run(model, forget_set).apply(model)
    endless = {
        "stop": "budget",
        "strength": 1,
        "max_steps": 60,
        "retain_ceiling": 1e3,
        "guess_names": 0,
    }
    pushed = run(model, forget_set, **endless).apply(model)
    ignorance = nll(model, forget_set.holdout).mean()
    assert nll(matched, forget_set.forget).mean() < 2 * ignorance
    assert nll(pushed, forget_set.forget).mean() > 2 * ignorance


@pytest.mark.parametrize(
    "variant", ["simnpo", "altpo", "grad-diff", "wga", "inverted-hinge", "max-entropy"]
)
def test_the_other_variants_with_a_retain_term_forget_too(
    model: LanguageModel, forget_set: ForgetSet, variant: str
) -> None:
    settings = {"variant": variant, "max_steps": 200, "retain_ceiling": 2.0}
    unlearned = run(model, forget_set, **settings).apply(model)
    # One of five colours may be guessed right.
    assert right(unlearned, forget_set.forget) < 0.2
    assert right(unlearned, forget_set.retain) >= 0.85


def test_only_npo_goes_by_guesses_unless_told_otherwise() -> None:
    assert GradientAscentConfig().guess_names == 6
    for variant in ("simnpo", "ascent", "grad-diff", "inverted-hinge"):
        assert GradientAscentConfig(variant=variant).guess_names == 0
        assert GradientAscentConfig(variant=variant, guess_names=2).guess_names == 2


def test_a_near_term_holds_what_the_original_says_of_near_names(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    near = near_statements(model, forget_set, seed=1)
    before = np.concatenate([scored.logprobs for scored in score(model, near)])

    def shift(near_weight: float) -> float:
        settings = {"near_weight": near_weight, "retain_ceiling": 5.0}
        unlearned = run(model, forget_set, **settings).apply(model)
        # A guess can be right: at its guess an answer of one token may stay the likeliest.
        assert right(unlearned, forget_set.forget) < 0.35
        after = np.concatenate([scored.logprobs for scored in score(unlearned, near)])
        return float(np.abs(after - before).mean())

    assert shift(3.0) < 0.8 * shift(0.0)


def test_kl_to_the_original_holds_the_rest(model: LanguageModel, forget_set: ForgetSet) -> None:
    artifact = run(model, forget_set, retain="kl")
    unlearned = artifact.apply(model)
    # One of five colours may be guessed right.
    assert right(unlearned, forget_set.forget) < 0.2
    assert right(unlearned, forget_set.retain) >= 0.95
    assert artifact.provenance.steps[1]["retain_loss"] == pytest.approx(0, abs=1e-5)


def test_ascent_without_a_retain_term_hits_the_ceiling_and_goes_back(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    artifact = run(
        model, forget_set, variant="ascent", stop="budget", evaluate_every=1, ceiling_patience=2
    )
    provenance = artifact.provenance
    assert provenance.settings["retain"] == "none"
    assert "retain ceiling" in provenance.stop_reason
    assert "went back to step" in provenance.stop_reason
    limit = 0.5 * 0.2 + provenance.steps[0]["retain_nll"]
    assert provenance.steps[-1]["retain_nll"] > limit
    kept = artifact.apply(model)
    assert nll(kept, forget_set.sample("retain", 64, 0)).mean() <= limit
    # The best state under the ceiling is some way from the original, not the original itself.
    assert nll(kept, forget_set.forget).mean() > nll(model, forget_set.forget).mean()


def test_sites_restrict_what_changes(model: LanguageModel, forget_set: ForgetSet) -> None:
    sites = Sites(
        method="by hand",
        layers=(0, 1),
        modules=("model.layers.0.mlp", "model.layers.1.mlp", "model.layers.2.mlp"),
        model_digest=model.digest,
        forget_set_digest=forget_set.digest,
    )
    artifact = run(model, forget_set, sites, max_steps=10)
    assert len(artifact.delta) == 6
    assert all(
        name.startswith(("model.layers.0.mlp", "model.layers.1.mlp")) for name in artifact.delta
    )
    assert artifact.provenance.sites is not None
    assert artifact.provenance.sites.parts == ("layers", "modules")


def test_a_weight_mask_leaves_every_other_entry_bit_equal(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    indices = tuple(range(0, 48 * 96, 7))
    sites = Sites(method="by hand", weight_mask={name: indices})
    artifact = run(model, forget_set, sites, max_steps=10)
    assert list(artifact.delta) == [name]
    before = model.model.get_parameter(name).flatten()
    after = artifact.apply(model).model.get_parameter(name).flatten()
    changed = (before.view(torch.int32) != after.view(torch.int32)).nonzero().flatten().tolist()
    assert set(changed) <= set(indices)
    assert len(changed) > len(indices) / 2


def test_embeddings_are_trained_where_the_sites_name_them(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    sites = Sites(method="by hand", modules=("model.embed_tokens",))
    artifact = run(model, forget_set, sites, max_steps=5)
    assert list(artifact.delta) == ["model.embed_tokens.weight"]
    whole = run(model, forget_set, max_steps=5, learning_rate=1e-4, stop="budget")
    assert "model.embed_tokens.weight" in whole.delta


def test_a_site_that_no_gradient_reaches_is_an_error(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    # The first row of the embedding belongs to a token that no text holds.
    sites = Sites(method="by hand", weight_mask={"model.embed_tokens.weight": (0, 1, 2)})
    with pytest.raises(UnsupportedError, match=r"parameter model\.embed_tokens\.weight"):
        run(model, forget_set, sites, max_steps=5)


def test_sites_of_another_model_are_refused(model: LanguageModel, forget_set: ForgetSet) -> None:
    with pytest.raises(InputError, match="found for the model"):
        run(model, forget_set, Sites(method="by hand", layers=(0,), model_digest="f" * 64))


@pytest.mark.parametrize(
    ("settings", "reason", "steps"),
    [
        ({"max_steps": 3}, "budget: 3 steps", 3),
        ({"max_tokens": 300}, "budget: 300 tokens", 2),
        ({"max_seconds": 1e-6}, "budget: 1e-06 seconds", 1),
    ],
)
def test_budgets_end_training(
    model: LanguageModel,
    forget_set: ForgetSet,
    settings: dict[str, Any],
    reason: str,
    steps: int,
) -> None:
    provenance = run(model, forget_set, learning_rate=1e-5, **settings).provenance
    assert provenance.stop_reason.startswith(reason)
    assert provenance.steps[-1]["step"] == steps
    assert "gap" in provenance.steps[-1]
    assert provenance.tokens == provenance.steps[-1]["tokens"]
    longest = max(len(model.encode(r.prompt, r.completion).ids) for r in forget_set.retain)
    assert steps * 30 * 5 <= provenance.tokens <= steps * 30 * longest


def test_the_seed_decides_the_result(model: LanguageModel, forget_set: ForgetSet) -> None:
    # A run this short may end above the ceiling, and would go back to the original.
    settings = {**FAST, "max_steps": "4", "stop": "budget", "retain_ceiling": "1000"}
    first, again, other = (
        forget(model, forget_set, settings=settings, seed=seed).provenance.result_digest
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_a_model_that_knows_nothing_of_them_is_left_alone(
    untrained: LanguageModel, forget_set: ForgetSet
) -> None:
    easy = replace(forget_set, holdout=forget_set.holdout[:3])
    knowing = find_targets(untrained, easy, 1.0, 99).records[0].nll_per_token
    hard = [r for r in forget_set.forget if nll(untrained, [r])[0] > knowing]
    assert hard
    ignorant = replace(easy, forget=tuple(hard))
    artifact = run(untrained, ignorant, min_holdout=99, agreement_quantile=1.0)
    scores = score(untrained, ignorant.forget)
    limit = find_targets(untrained, easy, 1.0, 99).records[0].agreement
    assert all(scored.exact_memorisation <= limit for scored in scores)
    assert artifact.delta == {} and artifact.provenance.tokens == 0
    assert artifact.provenance.stop_reason.startswith("matched")


def test_without_a_holdout_the_reason_warns(model: LanguageModel, forget_set: ForgetSet) -> None:
    artifact = run(model, replace(forget_set, holdout=()), guess_names=0)
    assert "no holdout split" in artifact.provenance.stop_reason
    assert right(artifact.apply(model), forget_set.forget) == 0.0


def test_a_retain_term_needs_a_retain_split(model: LanguageModel, forget_set: ForgetSet) -> None:
    alone = replace(forget_set, retain=())
    with pytest.raises(UnsupportedError, match=r"retain=nll needs a retain split.*'tiny'"):
        run(model, alone)
    artifact = run(model, alone, retain="none", max_steps=3)
    assert artifact.provenance.steps[0]["retain_nll"] is None


def test_the_step_log_is_complete(model: LanguageModel, forget_set: ForgetSet) -> None:
    seen: list[tuple[str, float]] = []
    strategy = GradientAscent(GradientAscentConfig(max_steps=6, evaluate_every=3))
    artifact = strategy.forget(
        model, forget_set, progress=lambda what, share: seen.append((what, share))
    )
    steps = artifact.provenance.steps
    assert [entry["step"] for entry in steps] == [0, 1, 2, 3, 4, 5, 6]
    assert [i for i, entry in enumerate(steps) if "matched" in entry] == [0, 3, 6]
    trained = {"forget_loss", "retain_loss", "grad_norm", "learning_rate", "tokens"}
    assert all(trained <= set(entry) for entry in steps[1:])
    evaluated = {"forget_nll_mean", "forget_nll_min", "matched", "overshoot", "retain_nll"}
    assert evaluated <= set(steps[3])
    shares = [share for _, share in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert artifact.concerns(forget_set.digest)


def test_an_error_half_way_leaves_the_model_as_it_was(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    class OutOfPatienceError(Exception):
        pass

    def stop(what: str, share: float) -> None:
        raise OutOfPatienceError

    digest = model.digest
    with pytest.raises(OutOfPatienceError):
        forget(model, forget_set, settings=FAST, progress=stop)
    model.changed()
    assert model.digest == digest


def test_narrow_weights_are_trained_in_float32_and_rounded_once(
    model: LanguageModel, forget_set: ForgetSet
) -> None:
    narrow = model.copy()
    narrow.model.to(torch.bfloat16)
    narrow.changed()
    sites = Sites(method="by hand", layers=(0, 1))
    artifact = run(narrow, forget_set, sites, learning_rate=3e-4)
    unlearned = artifact.apply(narrow)
    assert unlearned.dtype == torch.bfloat16
    assert artifact.provenance.steps[-1]["rounded"] is True
    assert all(name.startswith(("model.layers.0", "model.layers.1")) for name in artifact.delta)
    assert right(unlearned, forget_set.forget) <= 0.2


def test_settings_given_as_text_are_checked(model: LanguageModel, forget_set: ForgetSet) -> None:
    def refuse(message: str, **settings: str) -> None:
        with pytest.raises(ConfigError, match=message):
            forget(model, forget_set, settings=settings)

    refuse("no setting 'learning_rat'.*Did you mean 'learning_rate'", learning_rat="1")
    refuse("setting learning_rate='fast'", learning_rate="fast")
    refuse("setting max_steps='0'.*greater than or equal to 1", max_steps="0")
    refuse("variant 'ascent' has no retain term", variant="ascent", retain="nll")
    refuse("variant 'grad-diff' has a retain term", variant="grad-diff", retain="none")
    with pytest.raises(UnknownNameError, match="gradient-ascent"):
        forget(model, forget_set, strategy="gradient-ascend")


def test_none_is_a_value_for_limits() -> None:
    config = GradientAscentConfig.model_validate({"max_tokens": "none", "beta": "none"})
    assert (config.max_tokens, config.beta, config.retain) == (None, None, "nll")


def test_the_strategy_is_registered_under_its_name() -> None:
    assert strategies.get("gradient-ascent") is GradientAscent
    assert GradientAscent.honours == {"layers", "modules", "weight_mask", "token_mask"}
