"""The auditor's price: all likelihood probes beside one bare teacher-forced pass, and whole tiers.

    python benchmarks/audit.py                       # probes beside a pass, two sizes
    python benchmarks/audit.py --tier standard       # and a whole audit of lab:one-person

The reference reads the same texts in the same batches with the same model, takes the loss of the
completion tokens from the logits, and does nothing else. Both sides run in turn in this process;
the ratio is of the best of each.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import unlearn
from unlearn.audit.choosing import of_tier
from unlearn.audit.runner import Job, run
from unlearn.audit.setup import setup_of
from unlearn.forget_set import ForgetSet
from unlearn.model import scoring
from unlearn.model.forward import forward_only
from unlearn.model.language_model import LanguageModel
from unlearn.probes.probe import LikelihoodProbe, content

SHAPES = {
    "lab (2 M)": None,
    "17 M": {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6},
}


def model_of(shape: dict | None) -> LanguageModel:
    """The lab's model, or a Llama of another shape with random weights and the lab's tokenizer."""
    lab = unlearn.load("lab:full")
    if shape is None:
        return lab
    config = LlamaConfig(
        vocab_size=lab.vocabulary_size, intermediate_size=3 * shape["hidden_size"], **shape
    )
    torch.manual_seed(0)
    return LanguageModel(LlamaForCausalLM(config), lab.tokenizer)


def bare_pass(lm: LanguageModel, statements) -> None:
    """The completion losses of all statements and nothing else."""
    jobs = scoring.encode_all(lm, {content(s): i for i, s in enumerate(statements)})
    with forward_only(lm.model):
        for batch in scoring.batches(jobs, 4096):
            width = max(len(job.encoding.ids) for job in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, job in enumerate(batch):
                ids[row, : len(job.encoding.ids)] = torch.tensor(job.encoding.ids)
                mask[row, : len(job.encoding.ids)] = 1
            first = min(job.encoding.start for job in batch) - 1
            logits = scoring.read_logits(lm, ids, mask, width - first)
            rows, columns = scoring.targets(batch)
            torch.nn.functional.cross_entropy(
                logits[rows, columns - 1 - first], ids[rows, columns], reduction="none"
            ).tolist()


def best_of(n: int, *sides: Callable[[], None]) -> list[float]:
    """The shortest time of each side, measured in turn."""
    times = [[float("inf")] for _ in sides]
    for _ in range(n):
        for side, found in zip(sides, times, strict=True):
            started = time.perf_counter()
            side()
            found.append(time.perf_counter() - started)
    return [min(found) for found in times]


def probes_beside_pass(repeats: int) -> None:
    forget_set = ForgetSet.read("lab:one-person")
    kinds = of_tier("deep")
    names = [name for name, kind in kinds.items() if issubclass(kind, LikelihoodProbe)]
    print(f"{len(names)} likelihood probes of lab:one-person beside one bare pass")
    for label, shape in SHAPES.items():
        lm = model_of(shape)
        setup = setup_of({"unlearned": lm}, forget_set, tier="deep", probes=names, precisions=())
        probes, material = setup.chosen.probes, setup.material
        asked = [p.statements(material) for p in probes.values() if isinstance(p, LikelihoodProbe)]
        distinct = {content(s): s for statements in asked for s in statements.values()}
        job = Job(probes, setup.models, material)
        bare, probed = best_of(
            repeats,
            lambda lm=lm, distinct=distinct: bare_pass(lm, list(distinct.values())),
            lambda job=job: run(job),
        )
        print(
            f"{label:10} {len(distinct)} texts: bare {bare:.2f} s, probes {probed:.2f} s, "
            f"ratio {probed / bare:.2f}"
        )


def whole_tier(tier: str) -> None:
    """A whole audit of an unlearned model with original and reference, and what it took."""
    models = [unlearn.load(name) for name in ("lab:reference-2", "lab:full", "lab:reference")]
    started = time.perf_counter()
    result = unlearn.audit(
        models[0],
        ForgetSet.read("lab:one-person"),
        original=models[1],
        reference=models[2],
        tier=tier,
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{tier} tier on lab:one-person: {seconds:.1f} s on {torch.get_num_threads()} threads, "
        f"{len(result.findings)} findings, peak of the process {peak:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier", action="append", choices=["smoke", "standard", "deep"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    probes_beside_pass(arguments.repeats)
    for tier in arguments.tier or ():
        whole_tier(tier)


if __name__ == "__main__":
    main()
