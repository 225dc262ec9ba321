"""The price of a training step: each strategy beside a bare torch loop doing the same arithmetic.

    python benchmarks/step.py                 # the lab's shape
    python benchmarks/step.py --steps 40

Both sides take the same batches of lab:ten-people through the same loss, backward pass, clipping
and AdamW, in turn and in this process; the bare side is a plain loop over them. Printed are seconds
a step (the best of several rounds), the ratio to the bare loop, and that to gradient difference;
then a run on the upper half of the blocks beside a whole one. Building caches is not in a step; it
is printed beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import unlearn
from unlearn.bench.memory import Peak
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.distillation import Distillation, DistillationConfig
from unlearn.strategies.frozen_prefix import FrozenPrefix
from unlearn.strategies.gradient_ascent import GradientAscent, GradientAscentConfig
from unlearn.strategies.matching import Ingredients
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.sites import find_scope, frozen
from unlearn.strategies.training import Pairs, train
from unlearn.types import Sites

STRATEGIES = {
    "grad-diff": lambda steps: GradientAscent(
        GradientAscentConfig(variant="grad-diff", stop="budget", max_steps=steps)
    ),
    "npo": lambda steps: GradientAscent(GradientAscentConfig(stop="budget", max_steps=steps)),
    "simnpo": lambda steps: GradientAscent(
        GradientAscentConfig(variant="simnpo", stop="budget", max_steps=steps)
    ),
    "distillation": lambda steps: Distillation(DistillationConfig(max_steps=steps)),
    "distillation, outputs alone": lambda steps: Distillation(
        DistillationConfig(max_steps=steps, state_weight=0, graft_weight=0)
    ),
}


class Bench:
    """One strategy, ready to take steps on copies of the lab's model."""

    def __init__(self, make: Callable, lm: LanguageModel, records: ForgetSet, near, steps: int):
        self.lm, self.records, self.steps = lm, records, steps
        self.strategy = make(steps)
        self.near = near
        self.config = self.strategy.config

    def ready(self, sites: Sites | None = None):
        """A copy to train, its batches, its loss and what may change."""
        work = self.lm.copy()
        forget, retain = encode(work, self.records.forget), encode(work, self.records.retain)
        pairs = Pairs(forget, retain, self.config, 0, self.near)
        scope = find_scope(work, sites)
        given = Ingredients(self.lm, work, scope, pairs, None, (None,) * len(forget))
        return work, pairs, self.strategy._objective(given, self.records, 0), scope

    def trained(self, sites: Sites | None = None, skip: int = 0) -> float:
        """Seconds a step of our own training."""
        work, pairs, objective, scope = self.ready(sites)
        texts = [*pairs.forget, *pairs.retain, *pairs.near]
        prefix = FrozenPrefix(work, skip, texts, 2**30).skipped() if skip else torch.enable_grad()
        # Not the set-up: from the first step's end to the last one's.
        times = []
        with frozen(self.lm.model), scope.applied(work.model), prefix:
            train(work, pairs, objective, lambda step: times.append(time.perf_counter()), 0)
        return (times[-1] - times[0]) / (len(times) - 1)

    def bare(self) -> float:
        """Seconds a step of a plain loop."""
        work, pairs, objective, _ = self.ready()
        optimiser = torch.optim.AdamW(
            work.model.parameters(), lr=self.config.learning_rate, weight_decay=0
        )
        started = 0.0
        with frozen(self.lm.model):
            for _step in range(self.steps):
                for batch in pairs.step():
                    objective(work.model, batch).total.backward()
                torch.nn.utils.clip_grad_norm_(work.model.parameters(), self.config.max_grad_norm)
                optimiser.step()
                optimiser.zero_grad()
                started = started or time.perf_counter()
        return (time.perf_counter() - started) / (self.steps - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    lm, records = unlearn.load("lab:full"), ForgetSet.read("lab:ten-people")
    near = encode(lm, near_statements(lm, records, 0))
    print("| strategy | seconds a step | beside a bare loop | beside grad-diff | MiB |")
    print("|---|---|---|---|---|")
    first = 0.0
    for name, make in STRATEGIES.items():
        bench = Bench(make, lm, records, near, arguments.steps)
        bare = min(bench.bare() for _ in range(arguments.rounds))
        with Peak() as peak:
            ours = min(bench.trained() for _ in range(arguments.rounds))
        first = first or ours
        print(f"| {name} | {ours:.3f} | {ours / bare:.2f} | {ours / first:.2f} | {peak.mib:.0f} |")
    upper = Sites(
        method="by hand", layers=tuple(range(lm.anatomy.n_layers // 2, lm.anatomy.n_layers))
    )
    bench = Bench(STRATEGIES["npo"], lm, records, near, arguments.steps)
    whole = min(bench.trained() for _ in range(arguments.rounds))
    without = min(bench.trained(upper) for _ in range(arguments.rounds))
    skipping = min(bench.trained(upper, upper.layers[0]) for _ in range(arguments.rounds))
    print(f"\nnpo on the upper half of the blocks: {without / whole:.2f} of a whole step, ", end="")
    print(f"{skipping / whole:.2f} where the lower half is run once ({whole:.3f} s whole)")


if __name__ == "__main__":
    main()
