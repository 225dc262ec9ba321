"""Causal tracing: the engine beside a plain forward pass with hooks for every cell.

    python benchmarks/tracing.py                           # counts, and seconds on a GPT-2 shape
    python benchmarks/tracing.py --oracle-cells 0          # the reference in full; takes long

Both run in this process on the same prompt and the same weights. Counted is one token through one
block, by a hook on every block's attention, so neither side counts itself. Memory is the growth of
the process while a side runs, sampled.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from unlearn.forget_set import ForgetSet
from unlearn.model.anatomy import find_anatomy
from unlearn.model.corruption import Pair
from unlearn.model.tracing import Cell, Readout, Tracer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "model"))

from tracing_oracle import Oracle  # noqa: E402

SIZES = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "llama": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "gpt_neox": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "mamba": {"hidden_size": 768, "num_hidden_layers": 12},
}
FAMILIES = {"llama": {"intermediate_size": 2048}, "gpt_neox": {"intermediate_size": 3072}}


@dataclass
class Cost:
    block_tokens: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0


@contextmanager
def measured(model, anatomy) -> Iterator[Cost]:
    """Counts, times and watches the memory of what runs in the block."""
    cost = Cost()

    def count(module, args, kwargs):
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        cost.block_tokens += tensors[0].shape[0] * tensors[0].shape[1]

    with ExitStack() as stack:
        for name in anatomy.attention:
            handle = model.get_submodule(name).register_forward_pre_hook(count, with_kwargs=True)
            stack.callback(handle.remove)
        done, before = threading.Event(), resident_mib()
        watcher = threading.Thread(target=watch, args=(done, before, cost))
        watcher.start()
        started = time.perf_counter()
        try:
            yield cost
        finally:
            cost.seconds = time.perf_counter() - started
            done.set()
            watcher.join()


def watch(done: threading.Event, before: float, cost: Cost) -> None:
    while not done.wait(0.005):
        cost.peak_mib = max(cost.peak_mib, resident_mib() - before)


def resident_mib() -> float:
    """The resident memory of this process; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def last_logit(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 7]


def compare(model, pair: Pair, oracle_cells: int, max_rows: int) -> tuple[Cost, Cost, Cost, float]:
    """The oracle's cost of all cells, the engine's of a first and of a further prompt, and the
    largest difference between them.

    With ``oracle_cells`` the oracle runs that many cells, spread evenly, and its cost is scaled to
    all: every cell costs it the same.
    """
    anatomy = find_anatomy(model)
    grid = [(t, layer) for t in range(pair.n_tokens) for layer in range(anatomy.n_layers)]
    step = max(1, len(grid) // oracle_cells) if oracle_cells else 1
    run = list(range(0, len(grid), step))
    oracle = Oracle(model, anatomy, pair.clean, pair.corrupted, pair.noise)
    with measured(model, anatomy) as plain:
        expected = [
            last_logit(oracle.restored(grid[i][0], state=grid[i][1])).mean().item() for i in run
        ]
    plain.block_tokens = plain.block_tokens * len(grid) // len(run)
    plain.seconds *= len(grid) / len(run)
    cells = [Cell.hidden(t, layer) for t, layer in grid]
    readout = Readout((pair.n_tokens - 1,), last_logit)
    tracer = Tracer(model, anatomy, max_rows=max_rows)
    with measured(model, anatomy) as first:
        tracer.trace(pair, cells, readout)
    with measured(model, anatomy) as further:
        found = tracer.trace(pair, cells, readout)
    differences = [abs(found.cells[i] - value) for i, value in zip(run, expected, strict=True)]
    return plain, first, further, max(differences)


def random_model(family: str, narrow: int):
    """A model of GPT-2-small's shape with random weights; ``narrow`` divides its width."""
    sizes = dict(SIZES[family] | FAMILIES.get(family, {}))
    for key in ("n_embd", "hidden_size", "intermediate_size"):
        if key in sizes:
            sizes[key] //= narrow
    vocabulary = 50257 // narrow
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(family, vocab_size=vocabulary, **ends, **sizes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def random_pair(model, n_tokens: int, subject: int, rows: int) -> Pair:
    """A prompt with noise on two tokens from ``subject`` on."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 1000, (n_tokens,), generator=generator)
    weight = model.get_input_embeddings().weight
    noise = torch.zeros(rows, n_tokens, weight.shape[1])
    drawn = torch.randn(rows, 2, weight.shape[1], generator=generator)
    noise[:, subject : subject + 2] = 3 * float(weight.detach().std()) * drawn
    return Pair(ids, ids.repeat(rows, 1), noise)


def lab_pair():
    """The lab's model and one of its prompts, with other tokens in place of the subject."""
    import unlearn

    model = unlearn.load("lab:full")
    forget_set = ForgetSet.read(ROOT / "forget_sets" / "one-person")
    from unlearn.locate.tracing_facts import read_fact, with_replacement

    facts = (read_fact(model, record) for record in forget_set.forget)
    found = (with_replacement(model, forget_set, fact, 0, True) for fact in facts)
    return model.model, next(corrupted.pair for corrupted in found if corrupted)


def show(name: str, costs: tuple[Cost, Cost, Cost, float]) -> None:
    plain, first, further, difference = costs
    print(f"\n{name}: largest difference of a cell {difference:.1e}")
    print(f"  {'':22s} {'block-tokens':>12s} {'less':>6s} {'seconds':>9s} {'less':>6s} {'MiB':>6s}")
    for label, cost in (
        ("plain hooks", plain),
        ("engine, with its proof", first),
        ("engine, next prompt", further),
    ):
        print(
            f"  {label:22s} {cost.block_tokens:12,d} {plain.block_tokens / cost.block_tokens:5.1f}x"
            f" {cost.seconds:9.2f} {plain.seconds / cost.seconds:5.1f}x {cost.peak_mib:6.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--subject", type=int, default=4, help="the first token of the subject")
    parser.add_argument("--rows", type=int, default=10, help="samples of noise")
    parser.add_argument("--max-rows", type=int, nargs="+", default=[256, 20])
    parser.add_argument(
        "--oracle-cells",
        type=int,
        default=12,
        help="time the reference on so many cells and scale; 0 runs all of them",
    )
    options = parser.parse_args()
    print(
        f"{options.tokens} tokens, subject from token {options.subject}, {options.rows} rows; "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    )
    for family in SIZES:
        model = random_model(family, narrow=8)
        pair = random_pair(model, options.tokens, options.subject, options.rows)
        show(f"{family}, 12 blocks, narrow", compare(model, pair, 0, 256))
    model, pair = lab_pair()
    show(
        f"lab:full, {pair.n_tokens} tokens, subject from {pair.first}, 1 row",
        compare(model, pair, 0, 256),
    )
    model = random_model("gpt2", narrow=1)
    pair = random_pair(model, options.tokens, options.subject, options.rows)
    for max_rows in options.max_rows:
        costs = compare(model, pair, options.oracle_cells, max_rows)
        show(f"GPT-2 small, random weights, max_rows {max_rows}", costs)


if __name__ == "__main__":
    main()
