"""LanguageModel: digest, copies, saving, and what it says of itself."""

import copy

import pytest
import torch
from transformers import ByT5Tokenizer

from unlearn.errors import InputError, ModelError
from unlearn.model.anatomy import find_anatomy
from unlearn.model.language_model import LanguageModel, digest_of

ARCHITECTURES = ("gpt2", "llama", "gpt_neox")


@pytest.fixture(params=ARCHITECTURES)
def lm(request, language_model):
    return language_model(request.param)


def test_a_saved_model_loads_with_the_same_digest_and_tokens(lm, tmp_path):
    lm.save(tmp_path / "model")
    back = LanguageModel.load(tmp_path / "model")
    assert back.digest == lm.digest
    assert back.encode("Ada Quill was born in", " Tarn") == lm.encode(
        "Ada Quill was born in", " Tarn"
    )
    assert back.source == str(tmp_path / "model")
    assert not back.model.training


def test_a_digest_does_not_depend_on_sharding(lm, tmp_path):
    lm.save(tmp_path)
    lm.model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert LanguageModel.load(tmp_path).digest == lm.digest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_digest_counts_tied_weights_once_under_either_name(
    language_model, architecture, tmp_path
):
    lm = language_model(architecture, tie_word_embeddings=True)
    tensors = {name: tensor.clone() for name, tensor in tied_apart(lm).items()}
    state = lm.model.state_dict()
    both = [name for name in state if name not in tensors]
    assert len(both) == 1
    assert digest_of(state) == digest_of(dict(reversed(state.items()))) == lm.digest
    assert digest_of(tensors) == lm.digest
    lm.save(tmp_path)
    assert LanguageModel.load(tmp_path).digest == lm.digest


def tied_apart(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """The state without the tied names that sort later."""
    kept: dict[int, str] = {}
    state = lm.model.state_dict()
    for name in sorted(state):
        kept.setdefault(state[name].data_ptr(), name)
    return {name: state[name] for name in kept.values()}


@pytest.mark.parametrize("place", ["first", "last"])
def test_one_flipped_bit_gives_another_digest(lm, place):
    before = lm.digest
    changed = lm.copy()
    tensors = list(changed.model.state_dict().values())
    raw = tensors[0 if place == "first" else -1].reshape(-1).view(torch.uint8)
    raw[0] ^= 1
    assert changed.digest != before
    raw[0] ^= 1
    assert changed.digest != before, "the digest is kept until changed() is called"
    changed.changed()
    assert changed.digest == before == lm.digest


def test_a_digest_tells_types_shapes_and_names_apart():
    zeros = torch.zeros(4)
    digests = {
        digest_of({"a": zeros}),
        digest_of({"b": zeros}),
        digest_of({"a": zeros.view(2, 2)}),
        digest_of({"a": torch.zeros(4, dtype=torch.int32)}),
        digest_of({"a": torch.zeros(8, dtype=torch.bfloat16)}),
        digest_of({"a": zeros, "b": torch.zeros(4)}),
        digest_of({"a": torch.zeros(0), "b": torch.zeros(0)}),
        digest_of({"a": torch.zeros(0)}),
        digest_of({"a": torch.tensor(0.0)}),
    }
    assert len(digests) == 9


def test_a_digest_reads_values_and_not_memory_layout():
    square = torch.arange(6.0).view(2, 3)
    assert digest_of({"a": square}) == digest_of({"a": square.t().contiguous().t()})
    assert digest_of({"a": square}) == digest_of({"a": torch.arange(9.0)[:6].view(2, 3)})


def test_loading_in_another_dtype_gives_another_digest(lm, tmp_path):
    lm.save(tmp_path)
    narrow = LanguageModel.load(tmp_path, dtype="bfloat16")
    assert narrow.dtype == torch.bfloat16
    assert narrow.digest != lm.digest
    narrow.save(tmp_path)
    assert LanguageModel.load(tmp_path, dtype="auto").digest == narrow.digest


def test_a_copy_shares_no_tensor_and_keeps_ties(language_model):
    lm = language_model("llama", tie_word_embeddings=True)
    twin = lm.copy()
    assert twin.digest == lm.digest
    embedding, unembedding = (
        twin.model.get_input_embeddings().weight,
        twin.model.get_output_embeddings().weight,
    )
    assert embedding.data_ptr() == unembedding.data_ptr()
    before = lm.digest
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.add_(1)
    lm.changed()
    assert lm.digest == before


def test_saving_onto_the_folder_it_came_from_keeps_the_weights(lm, tmp_path):
    lm.save(tmp_path)
    lm.model.save_pretrained(tmp_path, max_shard_size="10KB")
    mapped = LanguageModel.load(tmp_path)
    mapped.save(tmp_path)
    mapped.changed()
    assert mapped.digest == lm.digest == LanguageModel.load(tmp_path).digest
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_wrapping_a_model_puts_it_in_evaluation_mode_and_leaves_gradients_alone(language_model):
    lm = language_model("gpt2")
    first = next(lm.model.parameters())
    first.requires_grad_(False)
    lm.model.train()
    again = LanguageModel(lm.model, lm.tokenizer)
    assert not any(module.training for module in again.model.modules())
    assert [p.requires_grad for p in again.model.parameters()].count(False) == 1


def test_a_tokenizer_without_offsets_is_refused(language_model):
    with pytest.raises(ModelError, match=r"ByT5Tokenizer.*no character offsets"):
        LanguageModel(language_model("llama").model, ByT5Tokenizer(), "somewhere")


def test_what_a_model_says_of_itself(language_model):
    lm = language_model("llama", tie_word_embeddings=True)
    vocabulary = len(lm.tokenizer)
    assert (lm.adds_bos, language_model("gpt2").adds_bos) == (True, False)
    assert lm.context_length == 64
    assert lm.vocabulary_size == vocabulary
    assert lm.device == torch.device("cpu")
    assert lm.dtype == torch.float32
    attention = 32 * 32 * 2 + 32 * 16 * 2
    block = attention + 3 * 32 * 48 + 2 * 32
    assert lm.n_parameters == vocabulary * 32 + 2 * block + 32


def test_a_model_without_a_named_limit_takes_texts_of_any_length(language_model):
    lm = language_model("bloom")
    assert lm.context_length is None
    assert len(lm.encode("Ada " * 200).ids) > 200


def test_a_text_beyond_the_context_is_refused(language_model):
    with pytest.raises(InputError, match="context of 64"):
        language_model("llama").encode("Ada " * 200)


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, {2}), (2, {2}), (1, {1, 2}), ([0, 5], {0, 2, 5})]
)
def test_eos_is_what_generation_config_and_tokenizer_name(language_model, configured, expected):
    lm = language_model("llama")
    lm.model.generation_config.eos_token_id = configured
    assert lm.eos_ids == expected


def test_a_tokenizer_of_another_model_is_named_as_the_cause(language_model, byte_level):
    lm = LanguageModel(language_model("llama").model, byte_level, "somewhere")
    with pytest.raises(ModelError, match=r"tokenizer of somewhere gave token .* embeddings"):
        lm.encode("the end of naïve 🐍")


def test_the_subject_span_indexes_the_encoded_prompt(lm):
    prompt = "Where was Ada Quill born?"
    span = lm.subject_span(prompt, "Ada Quill")
    assert lm.tokenizer.decode([lm.encode(prompt).ids[i] for i in span]).strip() == "Ada Quill"
    twice = "Ada? Ada!"
    assert lm.subject_span(twice, "Ada", "first").start < lm.subject_span(twice, "Ada").start


def test_the_anatomy_is_that_of_the_model_and_found_once(lm):
    assert lm.anatomy == find_anatomy(lm.model)
    assert lm.anatomy is lm.anatomy


def test_a_deep_copy_of_the_object_is_a_model_of_its_own(lm):
    twin = copy.deepcopy(lm)
    assert twin.digest == lm.digest
    assert next(twin.model.parameters()).data_ptr() != next(lm.model.parameters()).data_ptr()
