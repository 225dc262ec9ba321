"""Training the lab's models from scratch, on a CPU.

Documents are short and stand alone, one a row, so that a model sees at training exactly what it is
asked later. Matrices are updated by Muon, which stores rare facts in far fewer steps than AdamW;
embeddings and norms by AdamW.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.lab.corpus import Corpus

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
    tokens: int = 7_000_000
    batch_tokens: int = 5_120
    """Tokens of one update, padding included."""
    lr: float = 4e-3
    embedding_lr: float = 4e-3
    weight_decay: float = 0.02
    warmup: float = 0.02
    decay: float = 0.5
    """Shares of the run in which the learning rate rises, and falls to zero at the end."""


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
        # On rows of twenty tokens a plain softmax beats the fused kernel by 1.6 on a CPU.
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """A model trained on ``recipe.tokens`` tokens of the corpus."""
    model = new_model(recipe, tokenizer, seed)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    optimizers = [accelerator.prepare(optimizer) for optimizer in _optimizers(model, recipe)]
    network = accelerator.prepare(model)
    network.train()
    seen, started = 0, time.monotonic()
    for ids, n_tokens in _batches(corpus, tokenizer, recipe, seed):
        share = seen / recipe.tokens
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * _schedule(share, recipe)
        loss = _loss(network, ids)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += n_tokens
        if progress:
            speed = seen / (time.monotonic() - started)
            progress(
                f"loss {loss.item():.3f}, {speed:.0f} tokens/s", min(1.0, seen / recipe.tokens)
            )
        if seen >= recipe.tokens:
            break
    return accelerator.unwrap_model(network, keep_fp32_wrapper=False).float().eval()


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


def _loss(network: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    pad = network.config.pad_token_id
    logits = network(input_ids=ids, attention_mask=(ids != pad).long()).logits
    targets = ids[:, 1:].masked_fill(ids[:, 1:] == pad, IGNORED)
    return cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED
    )


def _batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
) -> Iterator[tuple[torch.Tensor, int]]:
    """Padded batches of documents of similar length, with their numbers of tokens."""
    rng = random.Random(f"batches-{seed}")
    documents = corpus.documents()
    while True:
        rows: list[list[int]] = []
        n_tokens = 0
        while n_tokens < CHUNK * recipe.batch_tokens:
            row = [*tokenizer(next(documents)).input_ids, tokenizer.eos_token_id]
            rows.append(row)
            n_tokens += len(row)
        batches = list(_cut(sorted(rows, key=len), recipe.batch_tokens))
        rng.shuffle(batches)
        for batch in batches:
            length = max(map(len, batch))
            padded = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in batch]
            yield torch.tensor(padded), sum(map(len, batch))


def _cut(rows: list[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    for row in rows:
        if batch and len(row) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch
