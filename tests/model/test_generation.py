"""Generated text, against the library's own greedy search and one prompt at a time."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from unlearn.errors import ConfigError, InputError, NumericalError
from unlearn.model.generation import Decoding, choose, continuation, generate
from unlearn.model.language_model import LanguageModel

ARCHITECTURES = ("gpt2", "llama", "gpt_neox", "opt", "bloom", "gemma2", "mamba")
PROMPTS = [
    "Ada Quill was born in",
    "Ben",
    "Where was Ada Quill born? Ada Quill was born in",
    "Zoë serves 🎉",
    "Ben Ostrow lives",
]


@pytest.fixture(params=ARCHITECTURES)
def lm(request, language_model):
    return language_model(request.param)


@pytest.fixture
def llama(language_model):
    return language_model("llama")


@pytest.fixture
def stories(shared_data):
    return LanguageModel.load(shared_data / "models/stories260K")


def greedy_search(lm: LanguageModel, prompt: str, max_new_tokens: int) -> str:
    """What transformers' own greedy search writes, alone and unpadded."""
    ids = lm.encode(prompt).ids
    written = lm.model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(lm.eos_ids),
        pad_token_id=0,
    )
    new = written[0].tolist()[len(ids) :]
    return continuation(lm, ids, [i for i in new if i not in lm.eos_ids])


def test_greedy_text_is_that_of_the_library_s_greedy_search(lm):
    expected = [[greedy_search(lm, prompt, 10)] for prompt in PROMPTS]
    assert generate(lm, PROMPTS, max_new_tokens=10) == expected
    assert len({text for (text,) in expected}) > 1


def test_a_trained_model_writes_what_the_library_s_greedy_search_writes(stories):
    prompts = ["Once upon a time", "Lily and Tom", "The", "One day, a big dog ran to the park and"]
    expected = [[greedy_search(stories, prompt, 30)] for prompt in prompts]
    assert generate(stories, prompts, max_new_tokens=30) == expected
    assert expected[0][0].startswith(", there was a little girl named Lily.")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("max_batch", [1, 2, 3])
def test_text_does_not_depend_on_the_batch_size(lm, temperature, max_batch):
    options = {"max_new_tokens": 8, "n_samples": 2, "temperature": temperature, "seed": 3}
    assert generate(lm, PROMPTS, max_batch=max_batch, **options) == generate(lm, PROMPTS, **options)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_text_does_not_depend_on_order_or_duplicates(lm, temperature):
    options = {"max_new_tokens": 8, "temperature": temperature, "top_p": 0.9, "seed": 3}
    straight = generate(lm, PROMPTS, **options)
    order = [4, 0, 0, 2, 3, 1]
    shuffled = generate(lm, [PROMPTS[i] for i in order], **options)
    assert shuffled == [straight[i] for i in order]


def test_samples_differ_by_seed_and_number_and_repeat_exactly(llama):
    def sampled(seed: int, n_samples: int = 4) -> list[list[str]]:
        return generate(
            llama, PROMPTS, max_new_tokens=12, n_samples=n_samples, temperature=1.0, seed=seed
        )

    first = sampled(1)
    assert first == sampled(1)
    assert first != sampled(2)
    assert all(len(set(texts)) > 1 for texts in first)
    assert [texts[:2] for texts in first] == sampled(1, 2), (
        "more samples leave the first as they are"
    )


def test_greedy_samples_are_one_text_computed_once(llama):
    calls = []
    handle = llama.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = generate(llama, PROMPTS, max_new_tokens=4, n_samples=3)
    handle.remove()
    assert max(calls) == len(PROMPTS)
    assert all(len(texts) == 3 and len(set(texts)) == 1 for texts in found)


def test_a_text_ends_at_eos_which_is_not_part_of_it(llama):
    (whole,) = generate(llama, [PROMPTS[0]], max_new_tokens=10)[0:1]
    ids = llama.encode(PROMPTS[0]).ids
    with torch.no_grad():
        first = int(llama.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    llama.model.generation_config.eos_token_id = first
    assert whole != [""]
    assert generate(llama, [PROMPTS[0]], max_new_tokens=10) == [[""]]


def test_a_row_that_ended_early_does_not_change_the_others(stories):
    prompts = ["Once upon a time", "The end"]
    (together, _) = generate(stories, prompts, max_new_tokens=25, stop="girl")
    assert together == generate(stories, prompts[:1], max_new_tokens=25, stop="girl")[0]


def test_a_stop_text_ends_the_text_before_it_and_saves_the_rest(stories):
    steps = []
    handle = stories.model.register_forward_pre_hook(lambda *_: steps.append(1))
    (texts,) = generate(stories, ["Once upon a time"], max_new_tokens=200, stop=" girl")
    handle.remove()
    assert texts == [", there was a little"]
    assert len(steps) < 20


def test_continuations_keep_the_blank_in_front(stories, language_model):
    gpt2 = language_model("gpt2")
    for lm in (stories, gpt2):
        ids = lm.encode("Ada").ids
        more = lm.encode("Ada", " was born").ids
        assert continuation(lm, ids, more[len(ids) :]) == " was born"


def test_a_text_has_at_most_the_tokens_asked_for(language_model):
    gpt2 = language_model("gpt2")
    gpt2.model.generation_config.eos_token_id = None
    with torch.no_grad():
        gpt2.model.get_output_embeddings().weight.zero_()
    # With uniform logits greedy decoding takes token 0, which is this tokenizer's EOS.
    assert generate(gpt2, ["Ada"], max_new_tokens=5) == [[""]]
    for length in (1, 7):
        (texts,) = generate(gpt2, ["Ada"], max_new_tokens=length, temperature=1.0, n_samples=20)
        assert max(len(text) for text in texts) > 0
        assert all(len(text.encode()) <= 20 * length for text in texts)


def test_no_prompts_give_no_texts(llama):
    assert generate(llama, [], max_new_tokens=4) == []


def test_progress_rises_to_one(llama):
    seen: list[float] = []
    generate(llama, PROMPTS, max_new_tokens=2, max_batch=2, progress=lambda _, x: seen.append(x))
    assert seen == pytest.approx([2 / 5, 4 / 5, 1])


def test_generation_leaves_mode_and_global_random_numbers_alone(llama):
    llama.model.train()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    generate(llama, PROMPTS, max_new_tokens=4, temperature=1.0)
    assert llama.model.training
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(p.grad is None for p in llama.model.parameters())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"n_samples": 0}, "n_samples is 0"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stop": ""}, "stop is empty"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(llama, setting, message):
    with pytest.raises(ConfigError, match=message):
        generate(llama, PROMPTS, **({"max_new_tokens": 4} | setting))


def test_a_prompt_without_room_in_the_context_is_named_by_index(llama):
    with pytest.raises(InputError, match=r"prompt 1 has \d+ tokens.*context is 64") as caught:
        generate(llama, ["Ada", "Ada Quill was born in"], max_new_tokens=60)
    assert "Quill" not in str(caught.value)
    with pytest.raises(InputError, match="prompt 1: a text of"):
        generate(llama, ["Ben", "Ada " * 90], max_new_tokens=1)


def test_an_empty_prompt_continues_a_bos_or_is_an_error(llama, language_model):
    assert len(generate(llama, [""], max_new_tokens=3)[0][0]) > 0
    with pytest.raises(InputError, match="prompt 0 has no token"):
        generate(language_model("gpt2"), [""], max_new_tokens=3)


def test_a_logit_that_is_no_number_names_the_prompt(language_model):
    gpt2 = language_model("gpt2", tie_word_embeddings=False)
    only_there = set(gpt2.encode("日本").ids) - set(gpt2.encode("Ada").ids)
    with torch.no_grad():
        gpt2.model.get_input_embeddings().weight[min(only_there)] = math.nan
    with pytest.raises(NumericalError, match=r"prompt 1: .*not finite"):
        generate(gpt2, ["Ada", "日本"], max_new_tokens=2)


def probabilities(logits: list[float], temperature: float, top_p: float) -> list[float]:
    """Temperature and nucleus by definition: the fewest most probable tokens that reach top_p."""
    weights = [math.exp(x / temperature) for x in logits]
    p = [w / sum(weights) for w in weights]
    kept: list[int] = []
    for token in sorted(range(len(p)), key=lambda i: -p[i]):
        if sum(p[i] for i in kept) >= top_p:
            break
        kept.append(token)
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(p))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.75, 1.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_definition(temperature, top_p):
    logits = [0.3, 2.0, -1.0, 1.1, 0.0]
    n = 20_000
    uniforms = ((np.arange(n) + 0.5) / n).tolist()
    rows = torch.tensor(logits).repeat(n, 1)
    drawn = Counter(choose(rows, uniforms, Decoding(1, temperature, top_p, None)).tolist())
    for token, p in enumerate(probabilities(logits, temperature, top_p)):
        assert drawn[token] / n == pytest.approx(p, abs=2e-4)


def test_a_small_temperature_is_nearly_greedy():
    rows = torch.tensor([[0.0, 1.0, 0.9], [5.0, 1.0, 0.0]])
    assert choose(rows, [0.01, 0.99], Decoding(1, 1e-3, 1.0, None)).tolist() == [1, 0]
    assert choose(rows, [], Decoding(1, 0.0, 1.0, None)).tolist() == [1, 0]
