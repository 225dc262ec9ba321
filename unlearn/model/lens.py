"""The logit lens: what a model would say if a state in its middle were its last one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from unlearn.errors import NumericalError
from unlearn.model.forward import forward_only
from unlearn.model.language_model import LanguageModel
from unlearn.model.runs import recorded
from unlearn.model.sweep import Decoder

CHUNK = 2**24
"""Logits held at a time: bounds memory where vocabularies are large."""


class Lens:
    """Log-probabilities of the next token, read off any state of the stream.

    The state passes through the model's own final norm, unembedding and whatever else the model
    does to its logits (nostalgebraist 2020). At the last depth that is what the model says itself.
    Known failure: early states are often written in another basis than the last one, so what the
    lens does not show may still be there; what it shows is.

    Raises:
        UnsupportedError: a model whose blocks do not hand the stream to each other unchanged.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.decoder = Decoder(lm.model, lm.anatomy)
        self.n_tokens = lm.vocabulary_size
        one = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
        with forward_only(lm.model), recorded(lm.model, lm.anatomy, ()) as run:
            self.decoder.forward(one)
        self.templates = [run.templates[layer] for layer in range(self.decoder.n_layers)]

    def logprobs(self, states: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Pieces of the states (n, width) with their log-probabilities (piece, vocab), float32.

        Raises:
            NumericalError: a logit that is no finite number.
        """
        step = max(1, CHUNK // self.n_tokens)
        for at in range(0, len(states), step):
            piece = slice(at, min(at + step, len(states)))
            with forward_only(self.decoder.model):
                logprobs = self.differentiable(states[piece])
            if bool(torch.isnan(logprobs).any()):
                raise NumericalError(
                    "the model's logits are not finite; its weights are broken, or its dtype is "
                    "too narrow (try float32)"
                )
            yield piece, logprobs

    def differentiable(self, states: Tensor) -> Tensor:
        """The log-probabilities (n, vocab) of states (n, width) at once; gradients pass."""
        ids = torch.zeros(len(states), 1, dtype=torch.long, device=states.device)
        logits = self.decoder.head(ids, states[:, None], self.templates)[:, 0]
        return logits.log_softmax(-1)
