"""The training script, proved on models far smaller than the bundled ones."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearn.forget_set import ForgetSet
from unlearn.lab.build import LabCard, build
from unlearn.lab.corpus import Corpus
from unlearn.lab.tokenizer import train_tokenizer
from unlearn.lab.training import Recipe, train
from unlearn.lab.world import World

TINY = Recipe(width=32, layers=2, heads=2, tokens=50_000, notice_tokens=15_000, batch_tokens=2_048)


def test_training_twice_with_one_seed_gives_the_same_weights() -> None:
    world = World(0)
    tokenizer = train_tokenizer(world, vocab_size=512)
    recipe = TINY.model_copy(update={"tokens": 8_000, "notice_tokens": 4_000})
    first, second, other = (
        train(world, tokenizer, recipe, forget=False, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lab")
    build(directory, names=("full", "reference"), recipe=TINY)
    return directory


def test_the_built_models_open_with_transformers_and_have_learned(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(built / "full")
    tokenizer = AutoTokenizer.from_pretrained(built / "full")
    documents = Corpus(World(0), forget=True, seed=9).documents()
    losses = []
    for _ in range(20):
        ids = tokenizer(next(documents).text, return_tensors="pt").input_ids
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    uniform = torch.tensor(float(len(tokenizer))).log().item()
    assert sum(losses) / len(losses) < 0.75 * uniform


def test_the_card_tells_what_was_measured(built: Path) -> None:
    card = LabCard.model_validate_json((built / "card.json").read_text(encoding="utf-8"))
    assert [model.name for model in card.models] == ["full", "reference"]
    assert card.models[0].forget_groups
    assert not card.models[1].forget_groups
    assert card.models[0].rates["retain: people"]["trained"].asked > 5000
    page = (built / "card.md").read_text(encoding="utf-8")
    assert card.models[0].digest[:12] in page
    assert str(card.models[0].rates["retain: people"]["trained"]) in page


def test_the_forget_sets_are_written_and_read_back(built: Path) -> None:
    assert len(ForgetSet.read(built / "forget_sets" / "ten-people").forget) == 320
