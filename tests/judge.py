"""A second opinion on a forgetting, which uses nothing of ``unlearn``: transformers and NumPy only.

    python tests/judge.py UNLEARNED ORIGINAL REFERENCE FORGET_SET

Prints a JSON object; exits with 0 when the unlearned model's extraction strength and probability on
the forget records lie within the reference's 95 % interval, and its retain and neighbour accuracy
within two points of the original's.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SPLITS = ("forget", "retain", "neighbors")
N_DRAWS = 4000


def read(folder: Path, split: str) -> list[dict]:
    text = (folder / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def measure(model, tokenizer, record: dict) -> tuple[float, float, bool]:
    """Probability, extraction strength and correctness of one record, one text at a time."""
    prompt = record["prompt"]
    text = prompt + record.get("separator", " ") + record["answer"]
    encoded = tokenizer(text, return_offsets_mapping=True)
    start = next(i for i, (_, end) in enumerate(encoded.offset_mapping) if end > len(prompt))
    ids = torch.tensor([encoded.input_ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double()
    truth = ids[0, start:]
    rows = torch.log_softmax(logits[start - 1 : -1], dim=-1)
    logprobs = rows[torch.arange(len(truth)), truth]
    right = (rows.argmax(-1) == truth).tolist()
    tail = 0
    while tail < len(right) and right[len(right) - 1 - tail]:
        tail += 1
    return float(logprobs.mean().exp()), tail / len(right), all(right)


def judge_model(source: str, folder: Path) -> dict[str, np.ndarray]:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    return {
        split: np.array([measure(model, tokenizer, record) for record in read(folder, split)])
        for split in SPLITS
    }


def interval(values: np.ndarray, clusters: list[str]) -> tuple[float, float]:
    """Percentile bootstrap of the mean over clusters."""
    generator = np.random.default_rng(0)
    names = sorted(set(clusters))
    groups = [values[[c == name for c in clusters]] for name in names]
    means = []
    for _ in range(N_DRAWS):
        drawn = generator.integers(len(groups), size=len(groups))
        means.append(np.concatenate([groups[i] for i in drawn]).mean())
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def main(unlearned: str, original: str, reference: str, forget_set: str) -> int:
    torch.set_num_threads(1)
    folder = Path(forget_set)
    u, o, r = (judge_model(source, folder) for source in (unlearned, original, reference))
    records = read(folder, "forget")
    subjects = {record["subject"] for record in records}
    clusters = [record["subject" if len(subjects) > 1 else "relation"] for record in records]
    verdict: dict[str, object] = {}
    ok = True
    for column, name in enumerate(("probability", "extraction_strength")):
        low, high = interval(r["forget"][:, column], clusters)
        value = float(u["forget"][:, column].mean())
        verdict[name] = {
            "unlearned": value,
            "original": float(o["forget"][:, column].mean()),
            "reference": [low, high],
        }
        ok &= low <= value <= high
    for split in ("retain", "neighbors"):
        before, after = float(o[split][:, 2].mean()), float(u[split][:, 2].mean())
        verdict[f"{split}_accuracy"] = {"unlearned": after, "original": before}
        ok &= before - after <= 0.02
    print(json.dumps({"holds": bool(ok), **verdict}, indent=2))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
