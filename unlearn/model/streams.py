"""The residual stream of many texts at chosen tokens, at every depth.

Depths are what goes into each block, and what comes out of the last: one more than blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearn.model.activations import by_length
from unlearn.model.forward import forward_only, pad_right
from unlearn.model.language_model import LanguageModel
from unlearn.model.runs import recorded
from unlearn.model.sweep import Decoder

MAX_BATCH_TOKENS = 1024
"""The stream at every depth is held for so many tokens, padding counted."""


class States(NamedTuple):
    """The stream at some tokens of the texts of one batch."""

    texts: npt.NDArray[np.int64]
    """Of each token the index of its text, (token,); the tokens of a text stand together."""
    stream: Tensor
    """(token, depth, width), in the model's type and on its device."""


def read_states(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> Iterator[States]:
    """The stream at some positions of each text, batch by batch, one forward pass a text.

    Args:
        lm: the model; it is left as it was.
        texts: token ids.
        positions: of each text those to read; their number may differ.
        max_batch_tokens: the most tokens of a batch, padding counted: bounds memory.

    Raises:
        UnsupportedError: a model whose blocks do not hand the stream to each other unchanged.
    """
    decoder = Decoder(lm.model, lm.anatomy)
    for group in by_length(texts, max_batch_tokens):
        ids, mask = pad_right([texts[index] for index in group])
        with forward_only(lm.model), recorded(lm.model, lm.anatomy, ()) as run:
            decoder.forward(ids.to(lm.device), attention_mask=mask.to(lm.device))
        rows = [row for row, index in enumerate(group) for _ in positions[index]]
        columns = [position for index in group for position in positions[index]]
        depths = [run.stream[depth][rows, columns] for depth in range(decoder.n_layers + 1)]
        yield States(np.array(group, dtype=np.int64)[rows], torch.stack(depths, dim=1))


def streams(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> npt.NDArray[np.float32]:
    """The stream at as many positions of each text, (text, position, depth, width), float32."""
    width = lm.model.get_submodule(lm.anatomy.embedding).weight.shape[1]
    shape = (len(texts), len(positions[0]) if positions else 0, lm.anatomy.n_layers + 1, width)
    found = np.zeros(shape, np.float32)
    for states in read_states(lm, texts, positions, max_batch_tokens):
        of_batch = states.texts[:: shape[1]]
        found[of_batch] = states.stream.float().cpu().numpy().reshape(len(of_batch), *shape[1:])
    return found
