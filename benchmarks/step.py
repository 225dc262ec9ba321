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
from contextlib import nullcontext

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
from unlearn.strategies.trainer import train
from unlearn.strategies.training import Pairs
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
        DistillationConfig(
            max_steps=steps, state_weight=0, graft_weight=0, held_state_weight=0, excess_weight=0
        )
    ),
}


class Bench:
    """One strategy with its caches, ready to take steps on copies of the lab's model."""

    def __init__(
        self, make: Callable, lm: LanguageModel, records: ForgetSet, near: list, steps: int
    ) -> None:
        self.lm, self.steps = lm, steps
        strategy = make(steps)
        self.config = strategy.config
        self.texts = (encode(lm, records.forget), encode(lm, records.retain), near)
        started = time.perf_counter()
        given = Ingredients(
            lm, lm.copy(), find_scope(lm, None), self.pairs(), None, (None,) * len(self.texts[0])
        )
        self.objective = strategy._objective(given, records, 0)
        self.set_up = time.perf_counter() - started

    def pairs(self) -> Pairs:
        """The same batches every time."""
        forget, retain, near = self.texts
        return Pairs(forget, retain, self.config, 0, near)

    def trained(self, sites: Sites | None = None, skip: int = 0) -> float:
        """Seconds a step of our own training."""
        work, pairs = self.lm.copy(), self.pairs()
        scope = find_scope(work, sites)
        texts = [text for texts in self.texts for text in texts]
        prefix = FrozenPrefix(work, skip, texts, 2**30).skipped() if skip else nullcontext()
        times: list[float] = []

        def go_on(_: object) -> bool:
            times.append(time.perf_counter())
            return False

        with frozen(self.lm.model), scope.applied(work.model), prefix:
            train(work, pairs, self.objective, go_on, 0)
        # From the first step's end to the last one's: without the making of an optimiser.
        return (times[-1] - times[0]) / (len(times) - 1)

    def bare(self) -> float:
        """Seconds a step of a plain loop."""
        work, pairs = self.lm.copy(), self.pairs()
        optimiser = torch.optim.AdamW(
            work.model.parameters(), lr=self.config.learning_rate, weight_decay=0
        )
        times: list[float] = []
        with frozen(self.lm.model):
            for _ in range(self.steps):
                for batch in pairs.step():
                    self.objective(work.model, batch).total.backward()
                torch.nn.utils.clip_grad_norm_(work.model.parameters(), self.config.max_grad_norm)
                optimiser.step()
                optimiser.zero_grad()
                times.append(time.perf_counter())
        return (times[-1] - times[0]) / (len(times) - 1)


def measured(run: Callable[[], float]) -> tuple[float, float]:
    """Seconds a step, and the peak of memory in MiB with the copy that is trained."""
    with Peak() as peak:
        seconds = run()
    return seconds, peak.mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    lm, records = unlearn.load("lab:full"), ForgetSet.read("lab:ten-people")
    near = encode(lm, near_statements(lm, records, 0))
    print(
        "| strategy | seconds a step | beside a bare loop | beside grad-diff "
        "| MiB, and of the loop | set-up, s |"
    )
    print("|---|---|---|---|---|---|")
    first = 0.0
    for name, make in STRATEGIES.items():
        bench = Bench(make, lm, records, near, arguments.steps)
        plain, own = [], []
        for _ in range(arguments.rounds):
            plain.append(measured(bench.bare))
            own.append(measured(bench.trained))
        (bare, bare_mib), (ours, mib) = min(plain), min(own)
        first = first or ours
        figures = f"{ours:.3f} | {ours / bare:.2f} | {ours / first:.2f} | {mib:.0f}, {bare_mib:.0f}"
        print(f"| {name} | {figures} | {bench.set_up:.1f} |", flush=True)
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
