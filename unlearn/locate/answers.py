"""Records as batches, and what a model gives to the tokens of their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn.errors import InputError
from unlearn.model.activations import by_length
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.types import Record


def encode(model: LanguageModel, records: Sequence[Record]) -> list[Encoding]:
    """The records as tokens, longest first, so that a batch holds records of like length.

    Raises:
        InputError: a record that does not fit the context, or whose answer has no token before it.
    """
    encoded = []
    for record in records:
        try:
            found = model.encode(record.prompt, record.completion)
        except InputError as error:
            raise InputError(f"record {record.id!r}: {error}") from None
        if found.start == 0:
            raise InputError(
                f"record {record.id!r}: no token stands in front of the answer, so the model "
                "cannot be asked for it; give a longer prompt"
            )
        encoded.append(found)
    return sorted(encoded, key=lambda found: -len(found.ids))


def batches(records: Sequence[Encoding], max_tokens: int) -> Iterator[list[Encoding]]:
    """Records of like length together, in groups of at most ``max_tokens`` padded tokens."""
    for group in by_length([record.ids for record in records], max_tokens):
        yield [records[index] for index in group]


class Answers(NamedTuple):
    """The answer tokens of a batch, one after another."""

    logits: Tensor
    """(token, vocab), float32: what the model gives in front of each."""
    ids: Tensor
    """(token,) the true ones."""
    rows: Tensor
    """(token,) the record each belongs to, as its place in the batch."""
    weights: Tensor
    """(token,) 1 / the length of its answer, so that a long one counts as much as a short one."""

    def nll_per_token_sum(self) -> Tensor:
        """The sum over records of each one's NLL per answer token, in nats."""
        logprobs = self.logits.log_softmax(-1)
        nll = -logprobs.gather(1, self.ids[:, None])[:, 0]
        return (nll * self.weights).sum()

    def log_odds(self) -> Tensor:
        """(record,) each one's mean over its tokens of log p / (1 - p), in nats.

        Unlike log p it has a slope where p is 1, as it is for what a model has learned.
        """
        true = self.logits.gather(1, self.ids[:, None])
        others = self.logits.scatter(1, self.ids[:, None], -torch.inf).logsumexp(-1)
        odds = (true[:, 0] - others) * self.weights
        totals = torch.zeros(int(self.rows[-1]) + 1, dtype=odds.dtype, device=odds.device)
        return totals.index_add(0, self.rows, odds)


def answers(model: LanguageModel, batch: Sequence[Encoding]) -> Answers:
    """What one forward pass gives to the answers of a batch."""
    width = max(len(record.ids) for record in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)  # (batch, pos)
    attention = torch.zeros_like(ids)
    weight = torch.zeros(len(batch), width)
    for row, (tokens, start) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        attention[row, : len(tokens)] = 1
        weight[row, start : len(tokens)] = 1 / (len(tokens) - start)
    rows, columns = weight.nonzero(as_tuple=True)
    device = model.device
    output: Any = model.model(
        input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False
    )
    where = output.logits.device
    return Answers(
        output.logits[rows.to(where), (columns - 1).to(where)].float(),
        ids[rows, columns].to(where),
        rows.to(where),
        weight[rows, columns].to(where),
    )
