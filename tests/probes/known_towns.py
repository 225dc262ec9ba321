"""Tiny models that learned where invented people were born, and ways to hide what they learned."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.probes.probe import Bench, Measurement
from unlearn.types import Record

NAMES = "Ada Bero Cleo Dorn Esme Fitz Gale Hoke Iris Jory Kell Lune Mara Nell Orin Pell".split()
TOWNS = ("Tarn", "Wick", "Old Fell", "New Marsh")
PROMPTS = ("{} was born in", "it is known that {} was born in")


def record(number: int, wording: int = 0) -> Record:
    name = NAMES[number]
    return Record(
        id=f"r{number}-{wording}",
        subject=name,
        relation="birthplace",
        prompt=PROMPTS[wording].format(name),
        answer=TOWNS[number % len(TOWNS)],
    )


FORGET = tuple(record(number, number % 2) for number in range(4))
RETAIN = tuple(record(number, number % 2) for number in range(4, 14))
HOLDOUT = (record(14), record(15, 1))
MATERIAL = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}


def untrained(seed: int = 0, **changes: Any) -> LanguageModel:
    words = sorted({w for text in (*NAMES, *TOWNS, *PROMPTS) for w in text.split()} - {"{}"})
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    settings = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "mlp_bias": True,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    return LanguageModel(network, fast, "tiny")


def train(lm: LanguageModel, records: tuple[Record, ...], steps: int = 120) -> LanguageModel:
    encodings = [lm.encode(r.prompt, r.completion) for r in records]
    width = max(len(e.ids) for e in encodings)
    ids = torch.zeros(len(encodings), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, e in enumerate(encodings):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
        labels[row, e.start : len(e.ids)] = torch.tensor(e.ids[e.start :])
    optimiser = torch.optim.Adam(lm.model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        lm.model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
    lm.model.zero_grad(set_to_none=True)
    lm.model.eval()
    lm.changed()
    return lm


class Trio(NamedTuple):
    original: LanguageModel
    reference: LanguageModel
    """Never saw what is to be forgotten; the same start."""


@cache
def trio() -> Trio:
    return Trio(train(untrained(), FORGET + RETAIN), train(untrained(), RETAIN))


def bench(unlearned: LanguageModel, **changes: Any) -> Bench:
    original, reference = trio()
    models = {"original": original, "unlearned": unlearned, "reference": reference}
    return Bench(models, MATERIAL | changes)


def answered(lm: LanguageModel, records: tuple[Record, ...] = FORGET) -> list[bool]:
    return [found.correct for found in score(lm, records)]


def figures(measured: dict[str, list[Measurement]], role: str) -> dict[str, dict[str, float]]:
    """``metric/split`` to the values of one role."""
    return {f"{m.metric}/{m.split}": dict(m.values) for m in measured[role]}


def by_hand(lm: LanguageModel, record: Record) -> torch.Tensor:
    """The stream of one text, unpadded, with plain hooks: (depth, position, width)."""
    seen: list[torch.Tensor] = []
    blocks = lm.model.model.layers
    hooks = [b.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for b in blocks]
    hooks.append(blocks[-1].register_forward_hook(lambda _, args, out: seen.append(out)))
    try:
        with torch.no_grad():
            lm.model(torch.tensor([lm.encode(record.prompt, record.completion).ids]))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(seen)


def logprobs_by_hand(lm: LanguageModel, record: Record, hooks: dict[int, Any]) -> list[float]:
    """Log-probabilities of the answer tokens with plain forward hooks on some blocks."""
    encoding = lm.encode(record.prompt, record.completion)
    handles = [
        lm.model.model.layers[layer].register_forward_hook(lambda _, args, out, fn=fn: fn(out))
        for layer, fn in hooks.items()
    ]
    try:
        with torch.no_grad():
            table = lm.model(torch.tensor([encoding.ids])).logits[0].log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()
    return [float(table[at - 1, encoding.ids[at]]) for at in range(encoding.start, len(table))]


def masked_by_the_last_block(lm: LanguageModel) -> LanguageModel:
    """The last block's bias pushes the stream away from every answer to forget."""
    hidden = lm.copy()
    first = {lm.encode(r.prompt, r.completion).ids[lm.encode(r.prompt).start] for r in FORGET}
    towards = lm.model.lm_head.weight[sorted(first)] * lm.model.model.norm.weight
    with torch.no_grad():
        hidden.model.model.layers[-1].mlp.down_proj.bias -= 60 * towards.sum(0)
    return hidden


def masked_by_the_head(lm: LanguageModel) -> LanguageModel:
    """The unembedding of every answer's first token points away from where it pointed."""
    hidden = lm.copy()
    first = {lm.encode(r.prompt, r.completion).ids[lm.encode(r.prompt).start] for r in FORGET}
    with torch.no_grad():
        hidden.model.lm_head.weight[sorted(first)] *= -1
    return hidden


def pushed(lm: LanguageModel, layer: int = 1, size: float = 40.0) -> LanguageModel:
    """A constant vector is added to the stream at one layer, whatever the prompt (RMU's effect)."""
    moved = lm.copy()
    junk = torch.randn(32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        moved.model.model.layers[layer].mlp.down_proj.bias += size * junk / junk.norm()
    return moved


def pushed_on_forget_prompts(lm: LanguageModel, layer: int = 1, size: float = 40.0):
    """One neuron of an MLP fires where a prompt to forget ends, and writes a constant vector."""
    moved, seen, states, fires = lm.copy(), {}, [], []
    mlp = moved.model.model.layers[layer].mlp
    hook = mlp.register_forward_pre_hook(lambda _, args: seen.__setitem__("x", args[0][0]))
    try:
        for one in FORGET + RETAIN:
            encoding = lm.encode(one.prompt, one.completion)
            with torch.no_grad():
                moved.model(torch.tensor([encoding.ids]))
            states.append(seen["x"])
            ends = encoding.start - 1
            fires += [one in FORGET and at == ends for at in range(len(encoding.ids))]
    finally:
        hook.remove()
    gate = LogisticRegression(C=1e4, class_weight="balanced", max_iter=5000)
    gate.fit(torch.cat(states).numpy(), fires)
    junk = torch.randn(32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        mlp.gate_proj.weight[0] = 3 * torch.from_numpy(gate.coef_[0]).float()
        mlp.gate_proj.bias[0] = 3 * float(gate.intercept_[0])
        mlp.up_proj.weight[0], mlp.up_proj.bias[0] = 0, 0.05
        mlp.down_proj.weight[:, 0] = size * junk / junk.norm()
    return moved
