"""A tiny untrained model, and invented people to ask it about."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.types import Record

NAMES = ("Ada", "Bero", "Cleo", "Dorn", "Esme", "Fitz", "Gale", "Hoke")
TOWNS = ("Tarn", "Wick", "Fell", "Marsh", "Holm", "Stow", "Old Wick", "New Marsh")


def make_record(number, town):
    name = NAMES[number]
    return Record(
        id=f"r{number}",
        subject=name,
        relation="birthplace",
        prompt=f"{name} was born in" if number % 2 else f"it is known that {name} was born in",
        answer=TOWNS[town],
    )


@pytest.fixture
def forget_set():
    records = [make_record(number, number) for number in range(8)]
    return ForgetSet("tiny", "Invented people.", tuple(records[:3]), tuple(records[3:]))


@pytest.fixture
def make_model():
    def make(seed=0, **changes):
        words = sorted(
            {w for t in (*NAMES, *TOWNS, "it is known that was born in") for w in t.split()}
        )
        vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        settings = {
            "vocab_size": len(vocabulary),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 32,
            "attention_dropout": 0.5,
            "initializer_range": 0.1,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>"
        )
        return LanguageModel(network, fast, "tiny")

    return make


@pytest.fixture
def model(make_model):
    return make_model()
