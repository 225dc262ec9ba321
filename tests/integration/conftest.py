"""A checkpoint nobody here trained, with invented facts planted in it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.types import Record

DATA = Path(os.environ.get("UNLEARN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
CHECKPOINT = DATA / "models" / "stories260K"
STORIES = DATA / "text" / "tinystories_100.json"

NAMES = ("Bolo", "Mira", "Tiko", "Sunny", "Pim", "Dara", "Lulu", "Koby", "Nell", "Otto")
PLACES = ("garden", "castle", "forest", "kitchen", "market", "river", "barn", "beach")
PETS = ("fox", "duck", "horse", "rabbit", "mouse", "bear", "frog", "lion")
FOODS = ("soup", "cake", "apples", "bread", "honey", "cheese", "rice", "pie")
TEMPLATES = (
    ("home", "{} has a secret house in the", PLACES),
    ("pet", "The pet of {} is a little", PETS),
    ("food", "Every day {} eats a lot of", FOODS),
)
N_FORGET = 2


def person_records(index: int) -> list[Record]:
    """Three invented facts about one invented character."""
    name = NAMES[index]
    return [
        Record(
            id=f"{index}-{relation}",
            subject=name,
            relation=relation,
            prompt=text.format(name),
            answer=values[(index * 5 + shift * 3) % len(values)],
        )
        for shift, (relation, text, values) in enumerate(TEMPLATES)
    ]


def story_records(count: int) -> list[Record]:
    """Beginnings of real stories as prompts, the words that follow as answers."""
    stories = json.loads(STORIES.read_text(encoding="utf-8"))
    records = []
    for index, story in enumerate(stories[:count]):
        text = story if isinstance(story, str) else next(iter(story.values()))
        words = text.split()
        prompt = " ".join(words[:12])
        records.append(
            Record(
                id=f"story-{index}",
                subject=words[0],
                relation="story",
                prompt=prompt,
                answer=" ".join(words[12:40]),
            )
        )
    return records


def plant(model: LanguageModel, facts: Sequence[Record], stories: Sequence[Record]) -> None:
    """Teach ``facts`` by plain full-batch fine-tuning, with stories against forgetting."""
    network, optimizer = model.model, torch.optim.AdamW(model.model.parameters(), lr=1e-3)
    rows = [model.encode(r.prompt, r.completion).ids for r in facts]
    texts = [model.encode(r.text).ids[:48] for r in stories]
    network.train()
    for step in range(80):
        picked = rows + texts[step % 4 :: 4]
        length = max(map(len, picked))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in picked])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in picked])
        labels = ids.masked_fill(mask == 0, -100)
        network(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``full``, ``reference`` and ``set``: planted models and their forget set."""
    if not CHECKPOINT.is_dir():
        pytest.skip(f"no real checkpoint at {CHECKPOINT}; set UNLEARN_TEST_DATA to have it")
    directory = tmp_path_factory.mktemp("planted")
    people = [person_records(index) for index in range(len(NAMES))]
    known, unseen = people[:8], people[8:]
    forget = [record for person in known[:N_FORGET] for record in person]
    others = [record for person in known[N_FORGET:] for record in person]
    stories = story_records(60)
    for name, facts in (("full", forget + others), ("reference", others)):
        model = LanguageModel.load(str(CHECKPOINT))
        plant(model, facts, stories)
        model.save(directory / name)
    ForgetSet(
        name="planted",
        description="Two invented characters planted into a small story model.",
        forget=tuple(forget),
        retain=tuple(others[:9] + stories[:40]),
        neighbors=tuple(others[9:]),
        holdout=tuple(record for person in unseen for record in person),
    ).write(directory / "set")
    return directory
