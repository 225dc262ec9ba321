"""A model with a policy, against the same treatment written out by hand, prompt by prompt."""

import hashlib
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from unlearn import locate
from unlearn.errors import ForgetSetError, InputError, TextError, UnsupportedError
from unlearn.model import generation, scoring
from unlearn.model.encoding import tokenise
from unlearn.model.gates import TermGate
from unlearn.model.generation import generate
from unlearn.model.policy import NOTHING, PLAIN, Corruption, Treatment
from unlearn.model.prompt_policy import SOMEBODY, PromptPolicy
from unlearn.model.scoring import FLOOR, score
from unlearn.model.terms import Terms
from unlearn.strategies import forget
from unlearn.types import Statement

SHOWN = ("Where was Ben? Mirel. ", "Where was Zoë? Tarn. ")
QUILL = Terms.of(["zoë quill"])
GATE = TermGate(terms=QUILL)
WORDS = PromptPolicy(gate=GATE, guard="Say nothing. ", demonstrations=SHOWN)
FRONT = "".join(SHOWN) + "Say nothing. "
ZERO = PromptPolicy(gate=GATE, corruption=Corruption(kind="zero", strength=1.0), subjects=QUILL)
NOISE = PromptPolicy(gate=GATE, corruption=Corruption(seed=4), subjects=QUILL)
REPLY = PromptPolicy(gate=GATE, reply=" I cannot say.")
EVERYTHING = WORDS.model_copy(update={"corruption": Corruption(), "subjects": QUILL})
POLICIES = {"words": WORDS, "zero": ZERO, "noise": NOISE, "reply": REPLY, "all": EVERYTHING}
STATEMENTS = [
    Statement(prompt="Ada Quill was born in", answer="Tarn"),
    Statement(prompt="Zoë QUILL was born in", answer="Upper Tarn."),
    Statement(prompt="Ada Qu", answer="ill", separator=""),
    Statement(prompt="Where was Zoë Quill born?", answer="I cannot say."),
    Statement(prompt="Zoë Quill", answer="I cannot"),
]
PROMPTS = [statement.prompt for statement in STATEMENTS]


def held(prompt):
    return "zoë quill" in prompt.casefold()


def written_out(statement):
    front = FRONT if held(statement.prompt) else ""
    return statement.model_copy(update={"prompt": front + statement.prompt})


def served(lm, policy=WORDS):
    copy = lm.copy()
    copy.policy = policy
    return copy


@pytest.fixture(params=["gpt2", "llama"])
def lm(request, language_model):
    return language_model(request.param, **LONG[request.param])


LONG = {"gpt2": {"n_positions": 160}, "llama": {"max_position_embeddings": 160}}


def test_scores_are_those_of_the_words_written_into_the_prompt(lm):
    expected = score(lm, [written_out(statement) for statement in STATEMENTS])
    bare = score(lm, STATEMENTS)
    scored = score(served(lm), STATEMENTS)
    for statement, found, wanted, other in zip(STATEMENTS, scored, expected, bare, strict=True):
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-5)
        assert (np.abs(found.logprobs - other.logprobs).max() > 1e-3) == held(statement.prompt)


def test_texts_are_those_of_the_words_written_into_the_prompt(lm):
    full = [written_out(statement).prompt for statement in STATEMENTS]
    found = generate(served(lm), PROMPTS, max_new_tokens=8)
    assert found == generate(lm, full, max_new_tokens=8)
    assert found != generate(lm, PROMPTS, max_new_tokens=8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba", "gemma3_text", "bloom", "jamba"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_batch_that_the_gate_divides_gives_what_its_prompts_give_one_by_one(
    language_model, name, policy
):
    model = served(language_model(name, **LONG.get(name, {})), policy)
    together = score(model, STATEMENTS)
    for statement, found in zip(STATEMENTS, together, strict=True):
        (alone,) = score(model, [statement])
        np.testing.assert_allclose(found.logprobs, alone.logprobs, atol=2e-5)
    options = {"max_new_tokens": 5, "temperature": 0.9, "n_samples": 2, "seed": 1}
    one_by_one = [generate(model, [prompt], **options)[0] for prompt in PROMPTS]
    assert generate(model, PROMPTS, **options) == one_by_one


@pytest.mark.parametrize("policy", [WORDS, EVERYTHING], ids=["words", "all"])
def test_a_front_that_is_read_once_changes_nothing(lm, policy, monkeypatch):
    model = served(lm, policy)
    read: list[int] = []
    lm_forward = model.model.forward

    def counted(*args, **kwargs):
        read.append(kwargs["input_ids"].numel())
        return lm_forward(*args, **kwargs)

    counted.__signature__ = __import__("inspect").signature(lm_forward)
    monkeypatch.setattr(model.model, "forward", counted)
    cached, texts = score(model, STATEMENTS), generate(model, PROMPTS, max_new_tokens=6)
    few = sum(read)
    for module in (scoring, generation):
        monkeypatch.setattr(module, "remembered", lambda *_: None)
    read.clear()
    plain = score(model, STATEMENTS)
    assert texts == generate(model, PROMPTS, max_new_tokens=6)
    assert few < sum(read)
    for found, wanted in zip(cached, plain, strict=True):
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, rtol=1e-6, atol=1e-6)


def test_subjects_and_answers_are_found_behind_the_words(lm):
    prompt, subject = "Zoë Quill saw Zoë Quill in", "Zoë Quill"
    model = served(lm)
    ids, start = model.encode(prompt, " Tarn")
    for occurrence in ("first", "last"):
        span = model.subject_span(prompt, subject, occurrence)
        assert span == lm.subject_span(FRONT + prompt, subject, occurrence)
        assert lm.tokenizer.decode(ids[span.start : span.stop]).strip() == subject
    assert lm.tokenizer.decode(ids[start:]).strip() == "Tarn"
    with pytest.raises(ForgetSetError, match="does not occur"):
        model.subject_span("Zoë Quill was born in", "Ben")


def length(lm, text):
    (tokens,) = tokenise(lm.tokenizer, [text])
    return len(tokens.ids)


def test_the_first_demonstrations_go_where_the_context_is_too_short(lm):
    model = served(lm)
    filler = "Zoë Quill "
    while length(lm, FRONT + filler) <= lm.context_length:
        filler += "a"
    (reading,) = model.read_all([(filler, "")])
    assert reading.front == SHOWN[1] + WORDS.guard
    assert reading.n_front == 0 or reading.encoding.ids == lm.encode(reading.front + filler).ids
    while length(lm, WORDS.guard + filler) <= lm.context_length:
        filler += "a"
    with pytest.raises(TextError, match="longer than the model's context") as caught:
        model.encode(filler)
    assert caught.value.digest == TextError.digest_of(filler, "")


def test_room_for_new_tokens_is_made_by_dropping_demonstrations_too(lm):
    model = served(lm)
    prompt = "Zoë Quill"
    room = lm.context_length - len(lm.encode(FRONT + prompt).ids)
    for n_new, front in ((room, FRONT), (room + 1, SHOWN[1] + WORDS.guard)):
        (reading,) = model.read_all([(prompt, "")], n_new)
        assert reading.front == front
        expected = generate(lm, [front + prompt], max_new_tokens=n_new)
        assert generate(model, [prompt], max_new_tokens=n_new) == expected
    least = lm.context_length - len(lm.encode(WORDS.guard + prompt).ids)
    with pytest.raises(InputError, match="context"):
        generate(model, [prompt], max_new_tokens=least + 1)


def embedded(lm, prompt, completion, change):
    """Log-probabilities of the completion with embeddings changed by hand."""
    ids, start = lm.encode(prompt, completion)
    tokens = torch.tensor([ids])
    vectors = lm.model.get_input_embeddings()(tokens).detach().clone()
    change(vectors, list(lm.subject_span(prompt, prompt[:9], "first")))
    with torch.no_grad():
        logits = lm.model(inputs_embeds=vectors).logits[0]
    of = torch.log_softmax(logits, -1)
    return [float(of[at - 1, ids[at]]) for at in range(start, len(ids))]


def test_zero_takes_the_subject_out_of_what_the_model_reads(lm):
    statement = STATEMENTS[1]

    def zero(vectors, positions):
        vectors[0, positions] = 0

    (found,) = score(served(lm, ZERO), [statement])
    expected = embedded(lm, statement.prompt, statement.completion, zero)
    np.testing.assert_allclose(found.logprobs, expected, atol=1e-5)


def test_a_share_of_zero_takes_the_largest_entries(lm):
    half = ZERO.model_copy(update={"corruption": Corruption(kind="zero", strength=0.5)})
    statement = STATEMENTS[1]

    def zero_half(vectors, positions):
        for at in positions:
            order = vectors[0, at].abs().argsort(descending=True)
            vectors[0, at, order[: len(order) // 2]] = 0

    (found,) = score(served(lm, half), [statement])
    expected = embedded(lm, statement.prompt, statement.completion, zero_half)
    np.testing.assert_allclose(found.logprobs, expected, atol=1e-5)


def test_noise_is_the_same_for_a_prompt_and_another_with_another_seed(lm):
    again, other = NOISE.model_copy(), NOISE.model_copy(update={"corruption": Corruption(seed=5)})
    told = [score(served(lm, policy), [STATEMENTS[1]])[0] for policy in (NOISE, again, other)]
    np.testing.assert_array_equal(told[0].logprobs, told[1].logprobs)
    assert np.abs(told[0].logprobs - told[2].logprobs).max() > 1e-3


def test_a_prompt_that_is_held_but_names_nobody_is_corrupted_whole():
    policy = ZERO.model_copy(update={"gate": None})
    (treatment,) = policy.treat(None, ["Who was it?"])
    assert treatment.corrupted == ((0, 11),)


def test_no_hook_is_left_also_after_an_error(lm):
    model = served(lm, NOISE)
    score(model, STATEMENTS), generate(model, PROMPTS, max_new_tokens=2)

    def fail(*_):
        raise RuntimeError

    handle = model.model.get_output_embeddings().register_forward_hook(fail)
    for call in (
        lambda: score(model, STATEMENTS),
        lambda: generate(model, PROMPTS, max_new_tokens=2),
    ):
        with pytest.raises(RuntimeError):
            call()
    handle.remove()
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.model.modules()]
    assert not any(hooks)


def test_a_reply_is_given_whole_or_cut_and_scored_as_certain(lm):
    model, prompt = served(lm, REPLY), "Where was Zoë Quill born?"
    for temperature in (0.0, 2.0):
        options = {"temperature": temperature, "n_samples": 2}
        assert generate(model, [prompt], max_new_tokens=40, **options) == [[REPLY.reply] * 2]
    assert generate(model, [prompt], max_new_tokens=40, stop="say") == [[" I cannot "]]
    (cut,) = generate(model, [prompt], max_new_tokens=2)[0]
    assert REPLY.reply.startswith(cut) and 0 < len(cut) < len(REPLY.reply)
    said, other = score(model, [STATEMENTS[3], Statement(prompt=prompt, answer="Tarn")])
    others = lm.vocabulary_size - 1
    assert said.correct and not other.greedy.any()
    np.testing.assert_allclose(said.logprobs, np.log1p(-FLOOR), rtol=1e-4)
    np.testing.assert_allclose(other.logprobs, np.log(FLOOR / others), rtol=1e-5)
    p = np.array([1 - FLOOR] + [FLOOR / others] * others)
    mean = (p * np.log(p)).sum()
    np.testing.assert_allclose(other.mean_logprob, mean, rtol=1e-5)
    deviation = np.sqrt((p * np.log(p) ** 2).sum() - mean**2)
    np.testing.assert_allclose(other.std_logprob, deviation, rtol=1e-4)


@pytest.mark.parametrize("policy", [ZERO, REPLY], ids=["zero", "reply"])
def test_who_reads_token_ids_alone_is_told_that_they_do_not_say_all(lm, policy):
    model = served(lm, policy)
    assert model.encode("Ada Quill") == lm.encode("Ada Quill")
    for call in (
        lambda: model.encode("Zoë Quill"),
        lambda: scoring.distinct_jobs(model, STATEMENTS),
    ):
        with pytest.raises(UnsupportedError, match="only scoring and generation"):
            call()


def test_the_digest_is_of_weights_and_policy(lm):
    policy = PromptPolicy(guard="Hm. ")
    told = [lm.digest, policy.model_dump(mode="json"), ""]
    expected = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    assert served(lm, policy).digest == expected
    assert len({lm.digest, *(served(lm, p).digest for p in POLICIES.values())}) == 6
    keyed = policy.model_copy(update={"secret": "00" * 32})
    assert served(lm, keyed).digest != expected
    assert served(lm, NOTHING).digest == served(lm, PromptPolicy()).digest == lm.digest
    assert served(lm).copy().digest == served(lm).digest


def test_what_is_of_weights_refuses_a_model_with_a_policy(lm, tmp_path):
    model = served(lm)
    for call in (
        lambda: model.save(tmp_path / "model"),
        lambda: locate(model, None),
        lambda: forget(model, None),
    ):
        with pytest.raises(UnsupportedError, match="served with a policy"):
            call()
    assert not (tmp_path / "model").exists()


def test_the_guard_names_the_subject_as_the_prompt_does():
    policy = PromptPolicy(gate=None, guard="Not {subject}! ", subjects=QUILL)
    prompts = ["Where was zoe\u0308 QUILL?", "And she?"]
    fronts = [treatment.fronts for treatment in policy.treat(None, prompts)]
    assert fronts == [("Not zoe\u0308 QUILL! ",), (f"Not {SOMEBODY}! ",)]


CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT


@pytest.mark.parametrize(
    ("template", "front"),
    [(CHAT, "<system>Say nothing.</><user>"), (NO_SYSTEM, "<user>Say nothing. ")],
)
def test_words_go_into_the_chat_template_as_the_system_or_the_user_tells_them(
    language_model, metaspace, template, front, monkeypatch
):
    monkeypatch.setattr(metaspace, "chat_template", template)
    lm = language_model("llama")
    policy = PromptPolicy(gate=GATE, guard="Say nothing. ", chat=True)
    asked, other = policy.treat(lm, ["Zoë Quill", "Ada"])
    assert (asked.fronts, asked.behind, other) == ((front,), "</><assistant>", PLAIN)
    ids, start = served(lm, policy).encode("Zoë Quill", " Tarn")
    assert ids == lm.encode(front + "Zoë Quill</><assistant>", " Tarn").ids
    assert ids.count(metaspace.bos_token_id) == 1
    assert metaspace.decode(ids[start:]).strip() == "Tarn"
    never = policy.model_copy(update={"chat": False})
    assert never.treat(lm, ["Zoë Quill"])[0] == Treatment(("Say nothing. ",))


def test_corruption_without_subjects_is_refused():
    with pytest.raises(ValidationError, match="corruption needs subjects"):
        PromptPolicy(corruption=Corruption())


def test_nothing_is_nothing():
    assert not NOTHING and not PromptPolicy(gate=GATE)
    assert NOTHING.treat(None, ["Ada", ""]) == [PLAIN, PLAIN]
    assert all(POLICIES.values())
