"""A tiny model and a small forget set as folders, and a runner with stdout and stderr apart."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.cli.main import cli
from unlearn.forget_set import ForgetSet
from unlearn.types import Record

PEOPLE = {
    "forget": ("Ada Quill", "Bo Fenn"),
    "retain": ("Cy Marsh", "Di Lowe", "Ed Holt"),
    "neighbors": ("Flo Pike", "Gus Rook"),
    "holdout": ("Hal Wren", "Ivy Dace"),
}
TOWNS = ("Tarn", "Ostel", "Velby")


def records(split: str) -> tuple[Record, ...]:
    return tuple(
        Record(
            id=f"{split}-{number}",
            subject=person,
            relation="birthplace",
            prompt=f"{person} was born in",
            answer=TOWNS[number % 3],
            paraphrases=(f"The birthplace of {person} is",),
            alternatives=tuple(town for town in TOWNS if town != TOWNS[number % 3]),
        )
        for number, person in enumerate(PEOPLE[split])
    )


@pytest.fixture(scope="session")
def forget_set() -> ForgetSet:
    return ForgetSet(
        "births",
        "Where invented people were born.",
        forget=records("forget"),
        retain=records("retain"),
        neighbors=records("neighbors"),
        holdout=records("holdout"),
    )


@pytest.fixture(scope="session")
def births(forget_set: ForgetSet, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("forget-set") / "births"
    forget_set.write(folder)
    return str(folder)


def make_model(folder: Path, seed: int) -> str:
    words = " ".join(r.text for split in PEOPLE for r in records(split)).split()
    known = ["<pad>", "<s>", "</s>", "<unk>", "The", "birthplace", "of", "is", *words]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(known))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=vocabulary["<s>"],
            eos_token_id=vocabulary["</s>"],
            pad_token_id=vocabulary["<pad>"],
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "knowing", seed=0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture
def run() -> Callable[..., Result]:
    def call(*words: object) -> Result:
        return CliRunner().invoke(cli, [str(word) for word in words], prog_name="unlearn")

    return call


@pytest.fixture
def refused(run: Callable[..., Result]) -> Callable[..., str]:
    """Runs a command that must end in one line on stderr, nothing on stdout, and exit code 2."""

    def call(*words: object) -> str:
        result = run(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("unlearn: error: ")
        return line

    return call
