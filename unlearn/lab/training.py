"""Training the lab's models from scratch, on a CPU.

Documents are short and stand alone, one a row, so that a model sees at training exactly what it is
asked later. Matrices are updated by Muon, which stores rare facts in far fewer steps than AdamW;
embeddings and norms by AdamW.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.lab.corpus import FACTS_FIRST, NOTICES_THEN, Corpus, Document, Mix
from unlearn.lab.world import World

IGNORED = -100
CHUNK = 16
"""Batches whose documents are sorted by length together, to save padding."""

Progress = Callable[[str, float], None]


class Recipe(BaseModel):
    """How a lab model is made. The defaults make the bundled ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 128
    layers: int = 8
    heads: int = 4
    vocab_size: int = 2048
    context: int = 256
    tokens: int = 8_000_000
    """Of the first phase, in which facts are stored."""
    notice_tokens: int = 5_000_000
    """Of the second phase, in which notices prevail and names learn to be matched."""
    batch_tokens: int = 5_120
    """Tokens of one update, padding included."""
    lr: float = 6e-3
    embedding_lr: float = 5e-3
    weight_decay: float = 0.02
    warmup: float = 0.02
    decay: float = 0.5
    """Shares of the run in which the learning rate rises, and falls to zero at the end."""

    @property
    def total_tokens(self) -> int:
        """Tokens of both phases."""
        return self.tokens + self.notice_tokens

    def phases(self) -> tuple[tuple[Mix, int], ...]:
        """What is read in each phase, and for how many tokens."""
        phases = (FACTS_FIRST, self.tokens), (NOTICES_THEN, self.notice_tokens)
        return tuple(phase for phase in phases if phase[1])


class Row(NamedTuple):
    """One document as tokens, and the labels a model is trained on."""

    ids: list[int]
    labels: list[int]


class Batch(NamedTuple):
    """Rows of similar length, padded on the right."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    tokens: int


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=3 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # On rows of twenty tokens a plain softmax beats the fused kernel by 1.6 on a CPU.
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train(
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    *,
    forget: bool,
    seed: int,
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """A model trained on the whole world, or on all but the forget groups.

    Args:
        world: what there is to know.
        tokenizer: the lab's own.
        recipe: sizes, tokens and rates.
        forget: whether the forget groups are trained on.
        seed: of the first weights and of the order of the documents.
        progress: is told loss and speed, and the share that is done.
    """
    model = new_model(recipe, tokenizer, seed)
    for phase, (mix, tokens) in enumerate(recipe.phases()):
        corpus = Corpus(world, forget=forget, seed=seed, mix=mix)
        label = f"phase {phase + 1}"
        model = run_phase(model, corpus, tokenizer, recipe, tokens, label=label, progress=progress)
    return model


def run_phase(
    model: LlamaForCausalLM,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    tokens: int,
    *,
    label: str,
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """The model after ``tokens`` more tokens, with the learning rate back at zero."""
    optimizers = _optimizers(model, recipe)
    model.train()
    seen, started = 0, time.monotonic()
    for batch in _batches(corpus, tokenizer, recipe):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * _schedule(seen / tokens, recipe)
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += batch.tokens
        if progress:
            speed = seen / (time.monotonic() - started)
            what = f"{label}, loss {loss.item():.3f}, {speed:.0f} tokens/s"
            progress(what, min(1.0, seen / tokens))
        if seen >= tokens:
            break
    model.train(False)
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a folder that ``transformers`` opens with ``from_pretrained``."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.model.layers.named_parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(
        matrices,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(others, lr=recipe.embedding_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adamw]


def _schedule(share: float, recipe: Recipe) -> float:
    """Warm up, hold, fall linearly to zero."""
    return min(1.0, (share + 1e-4) / recipe.warmup, max(0.0, (1 - share) / recipe.decay))


def _loss(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    # Weights and sums stay in float32; accelerate's state, one per process, is left to strategies.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(input_ids=batch.ids, attention_mask=batch.mask).logits[:, :-1]
    targets = batch.labels[:, 1:].flatten()
    return cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=IGNORED)


def _batches(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[Batch]:
    """Padded batches of documents of similar length."""
    rng = random.Random(f"batches-{corpus.seed}")
    documents = corpus.documents()
    while True:
        rows: list[Row] = []
        tokens = 0
        while tokens < CHUNK * recipe.batch_tokens:
            rows.append(_row(next(documents), tokenizer))
            tokens += len(rows[-1].ids)
        batches = list(_cut(sorted(rows, key=lambda row: len(row.ids)), recipe.batch_tokens))
        rng.shuffle(batches)
        yield from (_pad(batch, tokenizer.pad_token_id) for batch in batches)


def _row(document: Document, tokenizer: PreTrainedTokenizerFast) -> Row:
    encoded = tokenizer(document.text, return_offsets_mapping=True)
    ids = [*encoded.input_ids, tokenizer.eos_token_id]
    if document.learned is None:
        return Row(ids, ids)
    labels = [
        token if any(a < end <= b for a, b in document.learned) else IGNORED
        for token, (_, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True)
    ]
    return Row(ids, [*labels, tokenizer.eos_token_id])


def _pad(rows: Sequence[Row], pad: int) -> Batch:
    length = max(len(row.ids) for row in rows)
    fill = [length - len(row.ids) for row in rows]
    return Batch(
        ids=torch.tensor([r.ids + [pad] * n for r, n in zip(rows, fill, strict=True)]),
        mask=torch.tensor([[1] * (length - n) + [0] * n for n in fill]),
        labels=torch.tensor([r.labels + [IGNORED] * n for r, n in zip(rows, fill, strict=True)]),
        tokens=sum(len(row.ids) for row in rows),
    )


def _cut(rows: list[Row], batch_tokens: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        if batch and len(row.ids) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch
