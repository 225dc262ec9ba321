"""Planted facts: which locator finds the modules that facts were trained into, and how often.

    python benchmarks/planted_facts.py                     # all groups; 20 minutes on one core
    python benchmarks/planted_facts.py --groups 2.mlp 5.self_attn

For each group of modules (the MLP or the attention of one block) a copy of ``lab:full`` learns the
facts of invented people whom no model of the lab knows, with gradients for the group alone, while
what it knew is held. So where these facts came in is known, and nothing else changed. Every locator
then gets the planted facts as the forget set. Printed is Recall@k, k being the number of modules
in the group: the share of them among the k best. Guessing gives k of all modules.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

import unlearn
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.locate.answers import answers, encode
from unlearn.locate.sites import Candidate, candidates
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score

LOCATORS = {
    "attribution": {},
    "causal-trace": {"window": "1"},
    "fact-lookup": {},
    "gradient-contrast": {},
    "intervention": {},
}
"""With settings other than the defaults. ``fixed`` and ``all`` rank nothing."""
PEOPLE, STEPS, BATCH, RATE = 5, 400, 32, 1e-3


class Planted(NamedTuple):
    model: LanguageModel
    forget_set: ForgetSet
    truth: tuple[Candidate, ...]
    learned: float
    """Share of the planted records that the model answers."""
    kept: float
    """Share of a sample of retained records that it still answers."""


def plant(group: str, seed: int) -> Planted:
    """A model whose group of modules was taught new facts."""
    model = unlearn.load("lab:full")
    world = ForgetSet.read("lab:one-person")
    rng = np.random.default_rng(seed)
    strangers = list(dict.fromkeys(record.subject for record in world.holdout))
    chosen = {strangers[i] for i in rng.permutation(len(strangers))[:PEOPLE]}
    planted = tuple(r for r in world.holdout if r.subject in chosen)
    rest = tuple(r for r in world.holdout if r.subject not in chosen)
    retain = (*world.forget, *world.retain)
    forget_set = replace(world, name="planted", forget=planted, retain=retain, holdout=rest)
    truth = tuple(c for c in candidates(model) if f".{group}." in c.name)
    if not truth:
        raise SystemExit(f"no module of lab:full is in a group {group!r}; say for example 3.mlp")
    train(model, [c.weights[0] for c in truth], planted, retain, rng)
    model.changed()
    sample = forget_set.sample("retain", 200, seed)
    learned, kept = (
        float(np.mean([found.correct for found in score(model, records)]))
        for records in (planted, sample)
    )
    return Planted(model, forget_set, truth, learned, kept)


def train(model: LanguageModel, weights: Sequence, planted, retain, rng) -> None:
    """Adam on these weights alone, until every planted record is answered or steps are spent."""
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, lr=RATE)
    for step in range(STEPS):
        new = [planted[i] for i in rng.permutation(len(planted))[:BATCH]]
        old = [retain[i] for i in rng.permutation(len(retain))[:BATCH]]
        loss = sum(
            answers(model, encode(model, batch)).nll_per_token_sum() / len(batch)
            for batch in (new, old)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 19 and all(found.correct for found in score(model, planted)):
            break
    for parameter in model.model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None


def recall(planted: Planted, method: str, settings: dict[str, str], seed: int) -> float:
    """The share of the group among the k best modules."""
    k = len(planted.truth)
    sites = unlearn.locate(
        planted.model,
        planted.forget_set,
        method=method,
        settings={**settings, "top": f"modules:{k}"},
        seed=seed,
    )
    names = {candidate.name for candidate in planted.truth}
    return len(names & set(sites.modules)) / k


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval of Student's t over trials."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return f"{mean:.2f}"
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return f"{mean:.2f} ± {half:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    layers = range(8)
    groups = [f"{layer}.{part}" for part in ("mlp", "self_attn") for layer in layers]
    parser.add_argument("--groups", nargs="+", default=groups, help="blocks' parts: 3.mlp ...")
    parser.add_argument("--locators", nargs="+", default=[*LOCATORS], choices=[*LOCATORS])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {name: [] for name in options.locators}
    chance: list[float] = []
    parts: list[str] = []
    for trial, group in enumerate(options.groups):
        started = time.monotonic()
        planted = plant(group, options.seed + trial)
        n_modules = len(candidates(planted.model))
        chance.append(len(planted.truth) / n_modules)
        parts.append("mlp" if group.endswith("mlp") else "attention")
        line = f"{group:12s} learned {planted.learned:.2f} kept {planted.kept:.2f} "
        for name in options.locators:
            try:
                value = recall(planted, name, LOCATORS[name], options.seed)
            except UnsupportedError as error:
                print(f"{name}: {error}")
                value = 0.0
            found[name].append(value)
            line += f" {name} {value:.2f}"
        print(f"{line}  ({time.monotonic() - started:.0f} s)", flush=True)
    print("\n| locator | Recall@k, all | in an MLP | in attention |\n|---|---|---|---|")
    for name, values in {**found, "chance": chance}.items():
        columns = [values] + [
            [v for v, own in zip(values, parts, strict=True) if own == part]
            for part in ("mlp", "attention")
        ]
        print(f"| `{name}` | " + " | ".join(interval(c) if c else "–" for c in columns) + " |")


if __name__ == "__main__":
    main()
