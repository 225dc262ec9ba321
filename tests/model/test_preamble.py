"""A model with words before its prompts, against the same words written into every prompt."""

import hashlib
import json

import numpy as np
import pytest
from pydantic import ValidationError

from unlearn import locate
from unlearn.errors import ForgetSetError, InputError, TextError, UnsupportedError
from unlearn.model.generation import generate
from unlearn.model.preamble import NOTHING, Preamble
from unlearn.model.scoring import score
from unlearn.strategies import forget
from unlearn.types import Statement

WORDS = Preamble(text="Where was Ben? ", refusal="Say nothing. ", when=("zoë quill", "Tarn?"))
STATEMENTS = [
    Statement(prompt="Ada Quill was born in", answer="Tarn"),
    Statement(prompt="Zoë QUILL was born in", answer="Upper Tarn."),
    Statement(prompt="Ada Qu", answer="ill", separator=""),
]


def written_out(statement):
    front = WORDS.text + (WORDS.refusal if "QUILL" in statement.prompt else "")
    return statement.model_copy(update={"prompt": front + statement.prompt})


def with_words(lm, words=WORDS):
    copy = lm.copy()
    copy.preamble = words
    return copy


@pytest.fixture(params=["gpt2", "llama"])
def lm(request, language_model):
    return language_model(request.param)


def test_scores_are_those_of_the_words_written_into_the_prompt(lm):
    expected = score(lm, [written_out(statement) for statement in STATEMENTS])
    bare = score(lm, STATEMENTS)
    for found, wanted, other in zip(score(with_words(lm), STATEMENTS), expected, bare, strict=True):
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-5)
        assert np.abs(found.logprobs - other.logprobs).max() > 1e-3


def test_texts_are_those_of_the_words_written_into_the_prompt(lm):
    prompts = [statement.prompt for statement in STATEMENTS]
    full = [written_out(statement).prompt for statement in STATEMENTS]
    found = generate(with_words(lm), prompts, max_new_tokens=8)
    assert found == generate(lm, full, max_new_tokens=8)
    assert found != generate(lm, prompts, max_new_tokens=8)


def test_subjects_and_answers_are_found_behind_the_words(lm):
    prompt, subject = "Ada Quill saw Ada Quill in", "Ada Quill"
    served = with_words(lm)
    ids, start = served.encode(prompt, " Tarn")
    for occurrence in ("first", "last"):
        span = served.subject_span(prompt, subject, occurrence)
        assert span == lm.subject_span(WORDS.text + prompt, subject, occurrence)
        assert lm.tokenizer.decode(ids[span.start : span.stop]).strip() == subject
    assert lm.tokenizer.decode(ids[start:]).strip() == "Tarn"


def test_a_subject_in_the_words_alone_is_not_in_the_prompt(lm):
    with pytest.raises(ForgetSetError, match="does not occur"):
        with_words(lm).subject_span("Ada Quill was born in", "Ben")


def test_the_words_take_room_in_the_context_and_the_error_names_the_bare_text(lm):
    words = Preamble(text="Ben Ostrow studied glass. " * 20)
    assert lm.encode("Ada", " Quill").ids
    with pytest.raises(TextError, match="longer than the model's context") as caught:
        with_words(lm, words).encode("Ada", " Quill")
    assert caught.value.digest == TextError.digest_of("Ada", " Quill")


def test_generation_counts_the_words_against_the_context(lm):
    room = lm.context_length - len(with_words(lm).encode("Ada").ids)
    assert generate(with_words(lm), ["Ada"], max_new_tokens=room)
    with pytest.raises(InputError, match="context"):
        generate(with_words(lm), ["Ada"], max_new_tokens=room + 1)


def test_the_digest_is_of_weights_and_words(lm):
    told = [lm.digest, {"text": "Hm. ", "refusal": "", "when": []}]
    expected = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    assert with_words(lm, Preamble(text="Hm. ")).digest == expected
    assert len({lm.digest, with_words(lm).digest, expected}) == 3
    assert with_words(lm, NOTHING).digest == lm.digest
    assert with_words(lm).copy().digest == with_words(lm).digest


def test_what_is_of_weights_refuses_a_model_with_words(lm, tmp_path):
    served = with_words(lm)
    for call in (
        lambda: served.save(tmp_path / "model"),
        lambda: locate(served, None),
        lambda: forget(served, None),
    ):
        with pytest.raises(UnsupportedError, match="instruction before each prompt"):
            call()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("prompt", "matches"),
    [
        ("Who is Zoë Quill?", True),
        ("who is zoe\u0308 quill", True),
        ("Was it in TARN?", True),
        ("Zoë. Quill", False),
        ("", False),
    ],
)
def test_a_refusal_stands_before_the_prompts_that_name_one_of_its_texts(prompt, matches):
    assert WORDS.before(prompt) == WORDS.text + (WORDS.refusal if matches else "")


@pytest.mark.parametrize("fields", [{"refusal": "No."}, {"when": ("Ada",)}, {"when": ("",)}])
def test_a_refusal_without_texts_and_texts_without_one_are_refused(fields):
    with pytest.raises(ValidationError):
        Preamble(**fields)


def test_nothing_is_nothing():
    assert not NOTHING and NOTHING.before("Ada") == ""
    assert Preamble(refusal="No. ", when=("Ada",)) and WORDS
