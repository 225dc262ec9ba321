"""Make the lab again: models, forget sets and card, from one seed."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from pydantic import BaseModel, ConfigDict

from unlearn.lab.bundled import MODELS, TRAINABLE
from unlearn.lab.corpus import Corpus
from unlearn.lab.evaluation import Rates, by_attribute, evaluate
from unlearn.lab.facts import FORGET_SETS, forget_set
from unlearn.lab.tokenizer import train_tokenizer
from unlearn.lab.training import Progress, Recipe, save, train
from unlearn.lab.world import World
from unlearn.model.language_model import LanguageModel


class ModelCard(BaseModel):
    """What is known of one lab model."""

    model_config = ConfigDict(frozen=True)

    name: str
    seed: int
    forget_groups: bool
    """Whether it was trained on the people and recipes of the forget sets."""
    parameters: int
    digest: str
    tokens: int
    seconds: float
    rates: Rates
    attributes: Rates


class LabCard(BaseModel):
    """What is known of the lab; its file form is ``card.json``."""

    model_config = ConfigDict(frozen=True)

    world_seed: int
    recipe: Recipe
    sentences: int
    machine: str
    models: tuple[ModelCard, ...]


def build(
    directory: Path,
    *,
    names: Sequence[str] = MODELS,
    seed: int = 0,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
) -> LabCard:
    """Train the lab's models into ``directory``, with their forget sets and the card.

    Args:
        directory: gets one folder for each model, ``forget_sets/``, ``card.json`` and ``card.md``.
        names: which of the bundled models to make.
        seed: of the world; model k of ``TRAINABLE`` is trained with seed + k.
        recipe: how; the default makes models like the bundled ones, in about 40 minutes each on one
            core.
        progress: is told what is going on.
    """
    recipe = recipe or Recipe()
    world = World(seed)
    tokenizer = train_tokenizer(world, vocab_size=recipe.vocab_size)
    cards = []
    for name in names:
        model_seed = seed + TRAINABLE.index(name)
        started = time.monotonic()
        network = train(
            world,
            tokenizer,
            recipe,
            forget=name == MODELS[0],
            seed=model_seed,
            progress=_named(name, progress),
        )
        seconds = time.monotonic() - started
        save(network, tokenizer, directory / name)
        cards.append(describe(directory / name, world, model_seed, recipe.total_tokens, seconds))
    write_forget_sets(directory / "forget_sets", world)
    card = LabCard(
        world_seed=seed,
        recipe=recipe,
        sentences=len(Corpus(world, forget=True, seed=seed).sentences()),
        machine=_machine(),
        models=tuple(cards),
    )
    write_card(directory, card)
    return card


def describe(folder: Path, world: World, seed: int, tokens: int, seconds: float) -> ModelCard:
    """The card of the model in ``folder``, measured on the weights as they were written."""
    model = LanguageModel.load(str(folder))
    return ModelCard(
        name=folder.name,
        seed=seed,
        forget_groups=folder.name == MODELS[0],
        parameters=model.n_parameters,
        digest=model.digest,
        tokens=tokens,
        seconds=round(seconds, 1),
        rates=evaluate(model, world),
        attributes=by_attribute(model, world),
    )


def write_forget_sets(directory: Path, world: World) -> None:
    """Write the three forget sets, each into a folder of its own."""
    for name in FORGET_SETS:
        shutil.rmtree(directory / name, ignore_errors=True)
        forget_set(world, name).write(directory / name)


def write_card(directory: Path, card: LabCard) -> None:
    """Write ``card.json`` and its readable form ``card.md``."""
    (directory / "card.json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (directory / "card.md").write_text(markdown(card), encoding="utf-8")


def markdown(card: LabCard) -> str:
    """The card as a page to read."""
    first, recipe = card.models[0], card.recipe
    lines = [
        "# The lab's card",
        "",
        f"World seed {card.world_seed}; {card.sentences} sentences about facts; everybody in it is "
        "invented.",
        f"Models: Llama, {recipe.layers} layers of width {recipe.width}, {first.parameters} "
        f"parameters, own BPE of {recipe.vocab_size} tokens, trained from scratch "
        f"({card.machine}).",
        "",
        "| model | seed | knows the forget groups | tokens | training seconds | weights digest |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.name} | {m.seed} | {'yes' if m.forget_groups else 'no'} | {m.tokens} "
        f"| {m.seconds:.0f} | `{m.digest[:12]}` |"
        for m in card.models
    ]
    lines += ["", "Shares of prompts answered fully right by greedy decoding.", ""]
    lines += _table("group and kind of prompt", card.models, [m.rates for m in card.models])
    lines += ["", "By attribute, over everybody `full` was trained on:", ""]
    lines += _table("attribute and wording", card.models, [m.attributes for m in card.models])
    return "\n".join(lines) + "\n"


def _table(title: str, models: Sequence[ModelCard], columns: Sequence[Rates]) -> list[str]:
    rows = [
        f"| {title} | n | " + " | ".join(m.name for m in models) + " |",
        "|---|---|" + "---|" * len(models),
    ]
    for group, kinds in columns[0].items():
        for kind, rate in kinds.items():
            if rate.asked:
                cells = " | ".join(str(column[group][kind]) for column in columns)
                rows.append(f"| {group}, {kind} | {rate.asked} | {cells} |")
    return rows


def _named(name: str, progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    tell = progress
    return lambda what, share: tell(f"lab:{name} {what}", share)


def _machine() -> str:
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
