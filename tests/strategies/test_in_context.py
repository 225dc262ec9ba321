"""In-context unlearning: gates that know their errors, flipped answers, sealed artifacts."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from unlearn.artifact import Artifact
from unlearn.errors import ConfigError, InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.inference_policy import InferencePolicy
from unlearn.model.gates import KeyGate, TermGate, WordGate
from unlearn.model.generation import generate
from unlearn.model.policy import PLAIN
from unlearn.model.scoring import score
from unlearn.model.terms import Keyed, Terms, in_clear
from unlearn.registry import strategies
from unlearn.strategies import forget
from unlearn.strategies.demonstrations import demonstrations
from unlearn.strategies.gating import MIN_TEMPLATES, Wanted, make_gate, parts, template
from unlearn.strategies.in_context import GUARD, InContext, InContextConfig, layers_of
from unlearn.types import Sites


def run(model, forget_set, sites=None, **settings):
    return forget(model, forget_set, strategy="in-context", sites=sites, settings=settings, seed=0)


def reworded(forget_set):
    """The forget set with every prompt in four more wordings."""

    def more(records):
        return tuple(
            record.model_copy(update={"id": f"{record.id}-{n}", "prompt": head + record.prompt})
            for record in records
            for n, head in enumerate(("", "red ", "green ", "grey "))
        )

    return replace(forget_set, forget=more(forget_set.forget), retain=more(forget_set.retain))


@pytest.fixture(scope="module")
def wordings(forget_set):
    return reworded(forget_set)


VARIANTS = [
    {"variant": "none"},
    {"variant": "none", "corrupt": "noise"},
    {"variant": "guard", "guard": "Ada works as a "},
    {"variant": "icul", "n_forget": "1", "n_retain": "1", "between": " "},
    {"variant": "both", "n_forget": "1", "n_retain": "0", "corrupt": "zero"},
    {"variant": "block"},
    {"variant": "keyword"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(s.values())[:20])
def test_forget_prompts_are_treated_others_read_as_they_are_and_all_goes_back(
    model, forget_set, settings, tmp_path
):
    run(model, forget_set, **settings).save(tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    assert artifact.threat_model == "served-only" and artifact.concerns(forget_set.digest)
    served = artifact.apply(model)
    before, after = (score(m, forget_set.forget) for m in (model, served))
    assert all(
        np.abs(a.logprobs - b.logprobs).max() > 1e-4 for a, b in zip(before, after, strict=True)
    )
    for split in (forget_set.retain[:9], forget_set.neighbors):
        for a, b in zip(score(model, split), score(served, split), strict=True):
            np.testing.assert_array_equal(a.logprobs, b.logprobs)
    assert artifact.revert(served).digest == model.digest


def test_the_default_makes_the_model_guess(model, forget_set):
    served = run(model, forget_set).apply(model)
    known = [s.correct for s in score(model, forget_set.forget)]
    left = [s.probability for s in score(served, forget_set.forget)]
    assert all(known) and np.mean(left) < 0.7


def test_block_replies_to_every_prompt_about_the_forgotten(model, forget_set):
    served = run(model, forget_set, variant="block", reply="red").apply(model)
    prompts = [record.prompt for record in forget_set.forget]
    assert generate(served, prompts, max_new_tokens=3) == [[" red"]] * len(prompts)
    red = model.encode("Ada", " red").ids[-1]
    scores = score(served, forget_set.forget)
    assert [bool(s.greedy[0]) for s in scores] == [s.ids[0] == red for s in scores]


@pytest.mark.parametrize("kind", ["keyword", "tfidf", "key"])
def test_rates_are_counts_of_wrong_decisions_on_prompts_the_gate_was_not_made_from(
    model, wordings, kind
):
    wanted = Wanted(kind, Terms.of({r.subject for r in wordings.forget}), in_clear, (1,))
    gate, rates = make_gate(model, wordings, wanted, seed=0)
    assert isinstance(gate, {"keyword": TermGate, "tfidf": WordGate, "key": KeyGate}[kind])
    counted = parts(wordings, 200, 0)[2]
    positive = [r.prompt for r in counted.positive]
    negative = [r.prompt for r in counted.negative] + counted.near
    if kind == "keyword":
        positive = [r.prompt for r in wordings.forget]
        negative = [r.prompt for r in wordings.retain]
    missed = sum(not gate.fires(model, [prompt])[0] for prompt in positive)
    alarms = sum(gate.fires(model, [prompt])[0] for prompt in negative)
    for rate, events, n in (
        (rates.missed, missed, len(positive)),
        (rates.false_alarms, alarms, len(negative)),
    ):
        assert (rate.events, rate.n) == (events, n) and n > 0
        low = stats.beta.ppf(0.025, events, n - events + 1) if events else 0.0
        high = stats.beta.ppf(0.975, events + 1, n - events) if events < n else 1.0
        assert (rate.low, rate.high) == pytest.approx((low, high))
    if kind != "key":
        assert missed == alarms == 0


def test_the_parts_share_no_wording_and_no_retain_subject_and_leave_the_measured_out(wordings):
    found = parts(wordings, 1000, 0)
    of_part = [{template(r) for r in (*p.positive, *p.negative)} for p in found]
    subjects = [{r.subject for r in p.negative} for p in found]
    for sets in (of_part, subjects):
        assert all(sets) and not any(a & b for i, a in enumerate(sets) for b in sets[:i])
    ids = {r.id for p in found for r in (*p.positive, *p.negative)}
    assert ids <= {r.id for r in (*wordings.forget, *wordings.retain)}
    names = {r.subject for r in (*wordings.neighbors, *wordings.holdout)}
    prompts = [*(r.prompt for p in found for r in p.negative), *(t for p in found for t in p.near)]
    forgotten = {r.subject for r in wordings.forget}
    assert not any(name in prompt for name in forgotten for prompt in prompts)
    assert {r.subject for p in found for r in (*p.positive, *p.negative)}.isdisjoint(names)


def test_the_gate_does_not_change_with_what_is_only_measured(model, wordings):
    other = replace(wordings, neighbors=wordings.holdout[:3], holdout=())
    one, two = (run(model, s, gate="tfidf").policy for s in (wordings, other))
    assert one == two


def test_a_gate_that_is_fitted_wants_wordings_to_be_tested_on(model, forget_set):
    assert len({template(r) for r in forget_set.forget}) < MIN_TEMPLATES
    with pytest.raises(UnsupportedError, match="has 3 wordings; set gate=keyword"):
        run(model, forget_set, gate="tfidf")
    with pytest.raises(UnsupportedError, match="as many retain subjects"):
        run(model, replace(reworded(forget_set), retain=()), gate="key")


def test_a_hashed_gate_decides_as_the_one_in_clear(model, wordings):
    everything = (*wordings.forget, *wordings.retain, *wordings.neighbors)
    prompts = [record.prompt for record in everything]
    for kind in ("keyword", "tfidf"):
        clear, sealed = (run(model, wordings, gate=kind, sealed=s) for s in ("false", "true"))
        assert clear.gate_rates == sealed.gate_rates
        decided = [[t == PLAIN for t in a.policy.treat(model, prompts)] for a in (clear, sealed)]
        assert decided[0] == decided[1] and 0 < sum(decided[0]) < len(prompts)
        assert isinstance(sealed.policy.name, Keyed)


@pytest.mark.parametrize("gate", ["keyword", "tfidf", "key", "none"])
@pytest.mark.parametrize("variant", ["none", "both"])
def test_a_sealed_artifact_holds_nobodys_name_or_answer_in_any_byte(
    model, wordings, gate, variant, tmp_path
):
    settings = {"variant": variant, "gate": gate, "corrupt": "zero", "n_forget": "1"}
    if variant == "both":
        settings["guard"] = f"Nothing of {wordings.forget[0].subject}! "
    run(model, wordings, sealed="true", **settings).save(tmp_path / "sealed")
    run(model, wordings, **settings).save(tmp_path / "clear")
    told, clear = (
        b"".join(f.read_bytes() for f in (tmp_path / n).iterdir() if f.suffix != ".key").lower()
        for n in ("sealed", "clear")
    )
    names = {word for r in wordings.forget for word in (*r.subject.split(), r.answer)}
    texts = {name.lower().encode() for name in names if len(name) > 4}
    assert not any(text in told for text in texts)
    assert gate == "key" or any(text in clear for text in texts)
    served = Artifact.load(tmp_path / "sealed").apply(model)
    assert np.isfinite([s.nll_sum for s in score(served, wordings.forget[:3])]).all()


def test_flipped_answers_are_somebody_elses_and_come_from_forget_and_retain_alone(forget_set):
    for seed in range(20):
        shown = demonstrations(forget_set, 6, 6, " | ", seed)
        assert len(shown) == 12 and all(text.endswith(" | ") for text in shown)
        flipped, right = shown[:6], shown[6:]
        of_prompt = {r.prompt: r for r in forget_set.forget}
        retain = {r.text for r in forget_set.retain}
        answers = {r.answer for r in (*forget_set.retain, *forget_set.forget)}
        for text in flipped:
            (prompt,) = [p for p in of_prompt if text.startswith(p)]
            answer = text.removeprefix(prompt).removesuffix(" | ").strip()
            record = of_prompt[prompt]
            own = {r.answer for r in forget_set.forget if r.subject == record.subject}
            assert answer in answers - own
            everyone = (*forget_set.retain, *forget_set.forget)
            assert answer in {r.answer for r in everyone if r.relation == record.relation}
        assert {text.removesuffix(" | ") for text in right} <= retain
        assert len({text.split(" | ")[0] for text in right}) == 6


def test_demonstrations_take_turns_by_relation_and_subject(forget_set):
    shown = demonstrations(forget_set, 3, 3, "", 0)
    forms = {r.prompt.replace(r.subject, "") for r in forget_set.forget}
    assert sorted(sum(form in text for text in shown[:3]) for form in forms) == [1, 1, 1]


def test_without_others_a_wrong_answer_is_an_alternative_or_an_error(forget_set):
    alone = ForgetSet("one", "", forget=forget_set.forget[:1])
    (text,) = demonstrations(alone, 1, 0, "", 0)
    record = alone.forget[0]
    assert text.removeprefix(record.prompt).strip() in record.alternatives
    bare = record.model_copy(update={"alternatives": ()})
    with pytest.raises(UnsupportedError, match="no wrong answer"):
        demonstrations(replace(alone, forget=(bare,)), 1, 0, "", 0)
    with pytest.raises(UnsupportedError, match=r"add retain\.jsonl"):
        demonstrations(alone, 1, 1, "", 0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"variant": "keyword", "gate": "tfidf"}, "use variant=block"),
        ({"variant": "block", "corrupt": "zero"}, "nothing to corrupt"),
        ({"corrupt": "none"}, "does nothing by itself"),
        ({"corrupt": "zero", "strength": "2"}, "at most 1"),
        ({"variant": "icul", "n_forget": "0", "n_retain": "0"}, "no demonstrations"),
        ({"variant": "iculs"}, "variant"),
        ({"reply": ""}, "reply"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        strategies.create("in-context", settings)


def test_the_strength_is_that_of_the_kind_unless_set():
    assert InContextConfig().strength == 1.0
    assert InContextConfig(corrupt="noise").strength == 3.0
    assert InContextConfig(corrupt="noise", strength="2").strength == 2.0
    assert strategies.create("in-context", {"strength": "none"}).config.strength == 1.0


def test_layers_and_modules_say_where_keys_are_compared(model, wordings):
    blocks = model.anatomy.layers
    module = model.anatomy.require_down_projection(2)
    sites = Sites(method="by-hand", modules=(module,), layers=(0,))
    gate = run(model, wordings, sites).policy.gate
    assert isinstance(gate, KeyGate) and set(gate.keys) == set(gate.spreads) == {0, 2}
    assert layers_of(model, None) == (len(blocks) // 2,)
    for strange in (Sites(method="h", modules=("lm_head",)), Sites(method="h", layers=(9,))):
        with pytest.raises(InputError, match=r"in no block|has layers 0 to 2"):
            run(model, wordings, strange)
    with pytest.raises(UnsupportedError, match="layers, which only gate=key reads"):
        run(model, wordings, Sites(method="h", layers=(0,)), gate="tfidf")
    with pytest.raises(UnsupportedError, match="does not honour weight_mask"):
        run(model, wordings, Sites(method="h", weight_mask={}))


def test_a_token_mask_says_which_texts_are_corrupted(model, forget_set):
    record = forget_set.forget[0]
    (last,) = [model.subject_span(record.prompt, record.subject)[-1]]
    mask = {r.id: (model.subject_span(r.prompt, r.subject)[-1],) for r in forget_set.forget}
    sites = Sites(method="by-hand", token_mask=mask)
    policy = run(model, forget_set, sites).policy
    (treatment,) = policy.treat(model, [record.prompt])
    ((begin, end),) = treatment.corrupted
    assert record.prompt[begin:end] == record.subject.split()[-1]
    assert last in mask[record.id]
    with pytest.raises(UnsupportedError, match="nothing is; set corrupt"):
        run(model, forget_set, sites, variant="guard")
    with pytest.raises(InputError, match="no forget record"):
        run(model, forget_set, Sites(method="h", token_mask={"nobody": (1,)}))


def test_equal_seeds_give_equal_policies_and_the_log_holds_the_rates(model, wordings):
    one, two = (run(model, wordings, variant="icul", gate="tfidf") for _ in range(2))
    assert one.policy == two.policy
    (logged,) = one.provenance.steps
    assert logged["missed"]["n"] == one.gate_rates.missed.n
    assert "missed 0 of" in one.notes[0]


def test_an_instruction_of_ones_own_does_not_stand_beside_a_sealed_policy(model, forget_set):
    own = run(model, forget_set, variant="guard", guard="Not Ada! ", sealed="true")
    assert own.provenance.settings["guard"] == "sealed" and own.policy.guard == "Not Ada! "
    assert run(model, forget_set, sealed="true").provenance.settings["guard"] == GUARD


def test_what_it_makes_is_a_policy(model, forget_set):
    made = InContext().forget(model, forget_set)
    assert isinstance(made, InferencePolicy) and made.provenance.settings["gate"] == "keyword"
