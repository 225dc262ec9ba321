"""A tiny model that has learned a few invented people by heart."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.types import Record

FIRST = ("Ada", "Bero", "Cleo", "Dorn", "Esme", "Fitz")
LAST = ("Quill", "Rusk", "Sorrel", "Tamsin", "Umber", "Vane")
RELATIONS = {
    "birthplace": ("{} was born in", ("Tarn", "Old Wick", "Fell", "New Marsh", "Holm", "Low Stow")),
    "profession": ("{} works as a", ("cooper", "glazier", "weaver", "roof tiler", "miller")),
    "colour": ("{} likes the colour", ("red", "deep blue", "green", "pale gold", "grey")),
}


def make_records(people: list[str], rng: np.random.Generator) -> tuple[Record, ...]:
    records = []
    for person in people:
        for relation, (template, answers) in RELATIONS.items():
            order = [answers[i] for i in rng.permutation(len(answers))]
            records.append(
                Record(
                    id=f"{person}/{relation}".replace(" ", "-"),
                    subject=person,
                    relation=relation,
                    prompt=template.format(person),
                    answer=order[0],
                    alternatives=tuple(order[1:3]),
                )
            )
    return tuple(records)


def make_tokenizer() -> PreTrainedTokenizerFast:
    texts = [*FIRST, *LAST]
    for template, answers in RELATIONS.values():
        texts += [template.replace("{}", ""), *answers]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def make_model(seed: int = 0, **changes: object) -> LanguageModel:
    tokenizer = make_tokenizer()
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": None,
        "attention_dropout": 0.1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
    return LanguageModel(model, tokenizer, "tiny")


def memorise(model: LanguageModel, records: tuple[Record, ...], steps: int = 150) -> None:
    encoded = [model.encode(record.prompt, record.completion) for record in records]
    width = max(len(e.ids) for e in encoded)
    ids = torch.zeros(len(encoded), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (tokens, _) in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, 1 : len(tokens)] = ids[row, 1 : len(tokens)]
    # In float64, so that the model is the same on every machine: rounding in float32 differs from
    # one processor to the next, and training makes much of it.
    model.model.double().eval()
    optimiser = torch.optim.AdamW(model.model.parameters(), lr=4e-3, weight_decay=0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        model.model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    model.model.float()
    model.changed()


@pytest.fixture(scope="session")
def forget_set() -> ForgetSet:
    rng = np.random.default_rng(0)
    people = [f"{first} {last}" for first, last in product(FIRST, LAST)]
    people = [people[i] for i in rng.permutation(len(people))]
    return ForgetSet(
        "tiny",
        "Two of thirty-six invented people.",
        forget=make_records(people[:2], rng),
        retain=make_records(people[2:22], rng),
        neighbors=make_records(people[22:24], rng),
        holdout=make_records(people[24:36], rng),
    )


@pytest.fixture(scope="session")
def _trained(forget_set: ForgetSet) -> LanguageModel:
    model = make_model()
    memorise(model, (*forget_set.forget, *forget_set.retain, *forget_set.neighbors))
    return model


@pytest.fixture(scope="session")
def unsure(forget_set: ForgetSet) -> LanguageModel:
    """Right about everything, but so that an adapter can still make it more certain."""
    model = make_model()
    memorise(model, (*forget_set.forget, *forget_set.retain, *forget_set.neighbors), steps=80)
    return model


@pytest.fixture
def model(_trained: LanguageModel) -> Iterator[LanguageModel]:
    """The trained model; a test that changes it fails."""
    before = {name: tensor.clone() for name, tensor in _trained.model.state_dict().items()}
    yield _trained
    for name, tensor in _trained.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.requires_grad and p.grad is None for p in _trained.model.parameters())
    assert not any(module.training for module in _trained.model.modules())


@pytest.fixture
def untrained() -> LanguageModel:
    return make_model()
