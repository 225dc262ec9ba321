"""Token boundaries and subject spans, on self-made and on real tokenizers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from unlearn.errors import ForgetSetError, InputError, TextError
from unlearn.model.encoding import boundary, encode, named, subject_span, tokenise

PAIRS = [
    ("Ada Quill was born in", " Tarn"),
    ("Ada Quill was born in", " Upper Tarn."),
    ("Ada Quill was born in ", "Tarn"),
    ("Ada Qu", "ill was born"),
    ("Zoë serves", " 🎉 cake"),
    ("Zoë serves 🎉", " cake 🦉"),
    ("日本", "🎉日本"),
    ("", "Ada"),
]


@pytest.fixture(params=["byte_level", "metaspace", "closing", "gpt2", "stories260K"])
def tokenizer(request: pytest.FixtureRequest):
    if request.param in ("gpt2", "stories260K"):
        return real_tokenizer(request.param, request.getfixturevalue("shared_data"))
    return request.getfixturevalue(request.param)


def real_tokenizer(name: str, data: Path):
    if name == "gpt2":
        folder = data / "tokenizers/gpt2"
        return GPT2Tokenizer(vocab=str(folder / "encoder.json"), merges=str(folder / "vocab.bpe"))
    return AutoTokenizer.from_pretrained(data / "models" / name)


def encoded(tokenizer, prompt, completion, context_length=None):
    (one,) = encode(tokenizer, [(prompt, completion)], context_length)
    return one


@pytest.mark.parametrize(("prompt", "completion"), PAIRS)
def test_the_whole_text_is_tokenised_once_and_split_at_the_first_token_beyond_the_prompt(
    tokenizer, prompt, completion
):
    ids, start = encoded(tokenizer, prompt, completion)
    whole = tokenizer(prompt + completion, return_offsets_mapping=True)
    assert ids == whole["input_ids"][: len(ids)]
    spans = whole["offset_mapping"][: len(ids)]
    assert all(end <= len(prompt) for _, end in spans[:start])
    assert all(end > len(prompt) for _, end in spans[start:])
    assert start < len(ids)


@pytest.mark.parametrize(("prompt", "completion"), PAIRS[:2])
def test_the_tokens_of_a_completion_read_as_the_completion(tokenizer, prompt, completion):
    ids, start = encoded(tokenizer, prompt, completion)
    assert tokenizer.decode(ids[start:]).strip() == completion.strip()


def byte_oracle(tokenizer, prompt: str, completion: str) -> int:
    """The boundary by counting bytes: a byte-level vocabulary spells each with one character."""
    covered = 0
    ids = tokenizer(prompt + completion)["input_ids"]
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        covered += len(token)
        if covered > len(prompt.encode()):
            return index
    return len(ids)


TEXTS = st.text(alphabet="aAdiQlu nT.é日🎉🦉\n", max_size=12)


@given(prompt=TEXTS, completion=TEXTS.filter(bool))
def test_the_boundary_by_offsets_is_the_boundary_by_bytes(byte_level, prompt, completion):
    ids, start = encoded(byte_level, prompt, completion)
    assert start == byte_oracle(byte_level, prompt, completion)
    assert byte_level.decode(ids) == prompt + completion


@pytest.mark.parametrize(("prompt", "completion"), PAIRS)
def test_the_boundary_in_gpt2_is_the_boundary_by_bytes(shared_data, prompt, completion):
    gpt2 = real_tokenizer("gpt2", shared_data)
    start = encoded(gpt2, prompt, completion).start
    assert start == byte_oracle(gpt2, prompt, completion)


def test_a_token_across_the_boundary_belongs_to_the_completion(byte_level):
    ids, start = encoded(byte_level, "Ada Qu", "ill")
    assert byte_level.convert_ids_to_tokens(ids[start:]) == ["ĠQuill"]


def test_an_emoji_of_several_tokens_lies_on_one_side(byte_level):
    in_completion = encoded(byte_level, "so", "🐍")
    in_prompt = encoded(byte_level, "so 🐍", " it is")
    assert in_completion.start == len(byte_level("so")["input_ids"])
    assert len(in_completion.ids) - in_completion.start >= 2
    assert byte_level.decode(in_prompt.ids[: in_prompt.start]) == "so 🐍"


def test_without_a_completion_the_start_is_the_end(tokenizer):
    ids, start = encoded(tokenizer, "Ada Quill was born in", "")
    assert start == len(ids) > 0


def test_a_token_in_front_is_counted_and_one_behind_is_not(metaspace, closing, byte_level):
    text = "Ada Quill"
    assert encoded(metaspace, text, "").ids == metaspace(text)["input_ids"]
    assert encoded(closing, text, "").ids == closing(text)["input_ids"][:-1]
    assert encoded(closing, text, " was") == encoded(metaspace, text, " was")
    assert [next(tokenise(t, ["a"])).n_added for t in (metaspace, closing, byte_level)] == [1, 1, 0]


def test_an_empty_prompt_is_a_bos_alone_where_there_is_one(metaspace, closing, byte_level):
    ids = [encoded(tokenizer, "", "").ids for tokenizer in (metaspace, closing, byte_level)]
    assert ids == [[1], [1], []]


def test_an_eos_that_is_written_in_the_text_stays(closing):
    ids, start = encoded(closing, "Ada", " Tarn</s>")
    assert ids[-1] == closing.eos_token_id
    assert start < len(ids) - 1


def test_a_completion_that_the_tokenizer_strips_is_an_error_without_its_text():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Ada": 1, "Tarn": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert encoded(tokenizer, "Ada", " Tarn") == ([1, 2], 1)
    with pytest.raises(InputError, match="completion of 3 characters yields no token") as caught:
        encoded(tokenizer, "Ada", "   ")
    assert "Ada" not in str(caught.value)


def test_a_text_beyond_the_context_is_an_error_without_its_text(byte_level):
    n = len(byte_level("Ada Quill was born in Tarn")["input_ids"])
    assert encoded(byte_level, "Ada Quill was born in", " Tarn", n).ids
    with pytest.raises(InputError, match=f"{n} tokens.*context of {n - 1}") as caught:
        encoded(byte_level, "Ada Quill was born in", " Tarn", n - 1)
    assert "Quill" not in str(caught.value)


def test_many_texts_encode_as_they_do_alone(tokenizer):
    assert list(encode(tokenizer, PAIRS, None)) == [encoded(tokenizer, *pair) for pair in PAIRS]
    assert list(encode(tokenizer, [], None)) == []


@pytest.mark.parametrize(
    ("spans", "n", "expected"),
    [([], 0, 0), ([(0, 0), (0, 2)], 0, 1), ([(0, 2), (2, 3)], 2, 1), ([(0, 2)], 2, 1)],
)
def test_the_boundary_in_closed_form(spans, n, expected):
    assert boundary(spans, n) == expected


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("Ada Quill was born in", "Ada Quill"),
        ("Where was Ada Quill born?", "Ada Quill"),
        ("The town of Ada Quill", "Quill"),
        ("Here lives Zoë 🦉", "Zoë 🦉"),
        ("🐍🐍 is a name", "🐍🐍"),
    ],
)
def test_a_subject_span_is_all_tokens_that_cover_some_of_it(tokenizer, prompt, subject):
    span = subject_span(tokenizer, prompt, subject)
    ids = encoded(tokenizer, prompt, "").ids
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"][: len(ids)]
    characters = set(range(prompt.index(subject), prompt.index(subject) + len(subject)))
    assert list(span) == [i for i, (a, b) in enumerate(offsets) if characters & set(range(a, b))]
    covered = "".join(prompt[i] for i in range(offsets[span[0]][0], offsets[span[-1]][1]))
    assert subject in covered


def test_a_subject_behind_a_bos_starts_at_1(metaspace, byte_level):
    assert subject_span(metaspace, "Ada Quill was", "Ada").start == 1
    assert subject_span(byte_level, "Ada Quill was", "Ada").start == 0


def test_the_last_occurrence_counts_unless_the_first_is_asked_for(tokenizer):
    prompt = "Ada Quill? Ada Quill was born in"
    last = subject_span(tokenizer, prompt, "Ada Quill")
    first = subject_span(tokenizer, prompt, "Ada Quill", "first")
    assert first.stop <= last.start
    assert first == subject_span(tokenizer, "Ada Quill?", "Ada Quill")


@pytest.mark.parametrize("subject", ["Ben Ostrow", "ada quill", ""])
def test_a_subject_that_is_absent_is_an_error_without_its_text(byte_level, subject):
    with pytest.raises(ForgetSetError, match="does not occur in its prompt") as caught:
        subject_span(byte_level, "Ada Quill was born in", subject)
    assert not subject or subject not in str(caught.value)


def test_a_subject_without_tokens_is_an_error():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Ada": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    with pytest.raises(ForgetSetError, match="yields no token"):
        subject_span(tokenizer, "Ada Ada", " ")


def test_a_named_error_says_the_name_once_and_knows_its_text_by_a_digest(byte_level):
    pairs = [("Ada Quill was", " born"), ("Ada Quill was born in", " Tarn" * 30)]
    with pytest.raises(TextError, match=r"^retain record 7: a text of [0-9]+ tokens") as caught:
        list(named(encode(byte_level, pairs, 20), ["retain record 6", "retain record 7"]))
    assert caught.value.digest == TextError.digest_of(*pairs[1])
    assert caught.value.digest != TextError.digest_of(pairs[1][0] + " Tarn", " Tarn" * 29)
    assert "Quill" not in f"{caught.value} {caught.value.reason} {vars(caught.value)}"
