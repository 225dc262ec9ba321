"""Supports: what forgetting on each locator's sites leaves, breaks, and lets be learned again.

    python benchmarks/supports.py                          # the recipes; 15 minutes on one core
    python benchmarks/supports.py --sets ten-people --seeds 0        # half an hour

Every locator chooses the same share of the blocks' parameters of ``lab:full``. The default strategy
forgets on it with the default settings. Then an attacker fine-tunes all weights on half of the
facts of each subject and asks for the other half; the most that comes back at any check counts.
``lab:reference``, which never knew them, is attacked in the same way. Random sites are of the same
size, and drawn anew for every seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

import unlearn
from unlearn.errors import UnlearnError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.types import Record, Statement

SUPPORTS: dict[str, dict[str, str]] = {
    "none": {},
    "all": {},
    "random": {},
    "attribution": {},
    "causal-trace": {"window": "1"},
    "fact-lookup": {},
    "gradient-contrast": {},
    "intervention": {},
}
"""``none`` leaves embeddings free too; ``all`` is every block."""
ATTACK_STEPS, CHECK_EVERY, ATTACK_RATE, ATTACK_BATCH = 60, 10, 3e-4, 16
FORGOTTEN, KEPT = 0.05, 0.99
"""A support that leaves more answers than the first, or keeps fewer retained ones than the second,
is out of the comparison."""


class Row(NamedTuple):
    """Shares of answers given, but for ``steps``."""

    forget: float
    wordings: float
    """Held-out wordings."""
    again: float
    """Of the other half, at the best check of the attack."""
    retain: float
    neighbors: float
    steps: float


def answered(model: LanguageModel, statements: Sequence[Statement]) -> float:
    """The share of statements that greedy decoding completes rightly."""
    return float(np.mean([found.correct for found in score(model, statements)]))


def halves(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Half of the relations of each subject for the attacker, and the others."""
    rng = np.random.default_rng(seed)
    given: list[Record] = []
    asked: list[Record] = []
    for subject in dict.fromkeys(record.subject for record in records):
        own = [record for record in records if record.subject == subject]
        relations = list(dict.fromkeys(record.relation for record in own))
        order = rng.permutation(len(relations))
        first = {relations[i] for i in order[: len(relations) // 2]}
        given += [record for record in own if record.relation in first]
        asked += [record for record in own if record.relation not in first]
    return given, asked


def learned_again(model: LanguageModel, records: Sequence[Record], seed: int) -> float:
    """How many of the other half are answered while the model is trained on the first."""
    attacked = model.copy()
    given, asked = halves(records, seed)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(attacked.model.parameters(), lr=ATTACK_RATE, weight_decay=0.0)
    best = answered(attacked, asked)
    for step in range(1, ATTACK_STEPS + 1):
        chosen = [given[i] for i in rng.permutation(len(given))[:ATTACK_BATCH]]
        encoded = list(attacked.encode_all([(r.prompt, r.completion) for r in chosen]))
        width = max(len(e.ids) for e in encoded)
        ids = torch.zeros(len(encoded), width, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, e in enumerate(encoded):
            ids[row, : len(e.ids)] = torch.tensor(e.ids)
            labels[row, e.start : len(e.ids)] = torch.tensor(e.ids[e.start :])
        attention = (torch.arange(width) < torch.tensor([[len(e.ids)] for e in encoded])).long()
        optimiser.zero_grad()
        attacked.model(input_ids=ids, attention_mask=attention, labels=labels).loss.backward()
        optimiser.step()
        if step % CHECK_EVERY == 0:
            best = max(best, answered(attacked, asked))
    return best


def measure(model: LanguageModel, forget_set: ForgetSet, seed: int, steps: float = 0) -> Row:
    forget = forget_set.forget
    wordings = [
        Statement(prompt=prompt, answer=record.answer)
        for record in forget
        for prompt in record.paraphrases
    ]
    return Row(
        answered(model, forget),
        answered(model, list(dict.fromkeys(wordings))) if wordings else float("nan"),
        learned_again(model, forget, seed),
        answered(model, forget_set.sample("retain", 400, 0)),
        answered(model, forget_set.neighbors),
        steps,
    )


def run(support: str, name: str, top: str, seed: int) -> Row:
    model, forget_set = unlearn.load("lab:full"), ForgetSet.read(f"lab:{name}")
    sites = None
    if support != "none":
        settings = {**SUPPORTS[support], **({} if support == "all" else {"top": top})}
        sites = unlearn.locate(model, forget_set, method=support, settings=settings, seed=seed)
    artifact = unlearn.forget(model, forget_set, sites=sites, seed=seed)
    last = artifact.provenance.steps[-1]["step"]
    return measure(artifact.apply(model), forget_set, seed, last)


def show(name: str, rows: Sequence[Row]) -> str:
    mean = Row(*np.mean(np.array(rows), axis=0))
    worst = max(row.again for row in rows)
    shares = [f"{100 * value:.1f} %" for value in mean[:-1]]
    shares[2] += f" (to {100 * worst:.0f})" if len(rows) > 1 else ""
    return f"| `{name}` | " + " | ".join(shares) + f" | {mean.steps:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["hazard"])
    parser.add_argument("--supports", nargs="+", default=[*SUPPORTS], choices=[*SUPPORTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--top", default="0.3", help="share of the blocks' parameters")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[Row]] = {support: [] for support in options.supports}
    for name in options.sets:
        reference, forget_set = unlearn.load("lab:reference"), ForgetSet.read(f"lab:{name}")
        beside = [measure(reference, forget_set, seed) for seed in options.seeds]
        table = [show("never trained on it", beside)]
        for support in options.supports:
            started, rows = time.monotonic(), []
            for seed in options.seeds:
                try:
                    rows.append(run(support, name, options.top, seed))
                except UnlearnError as error:
                    print(f"{support}: {error}")
            if rows:
                found[support] += rows
                table.append(show(support, rows))
                print(f"{name} {table[-1]} ({time.monotonic() - started:.0f} s)", flush=True)
        print(f"\n{name}, seeds {options.seeds}, top {options.top}\n")
        print("| support | forget | wordings | learned again | retain | neighbours | steps |")
        print("|---|---|---|---|---|---|---|")
        print("\n".join(table) + "\n", flush=True)
    fair = {
        support: np.mean([row.again for row in rows])
        for support, rows in found.items()
        if rows and all(row.forget <= FORGOTTEN and row.retain >= KEPT for row in rows)
    }
    print("least learned again, of those that forget and keep: ")
    for support, again in sorted(fair.items(), key=lambda item: item[1]):
        near = np.mean([row.neighbors for row in found[support]])
        print(f"  {support:18s} {100 * again:.1f} %   neighbours kept {100 * near:.1f} %")


if __name__ == "__main__":
    main()
