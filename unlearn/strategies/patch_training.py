"""Training of patch neurons: only they move, and the model around them is frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from unlearn.model.activations import by_length, read_inputs
from unlearn.model.batches import Deck, collate
from unlearn.model.divergence import kl_to
from unlearn.model.forward import accepts, differentiable, forward_only
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.model.widening import Mlp, Neurons, find_mlp, widened
from unlearn.strategies.ignorance import Ignorance, Seen
from unlearn.strategies.patch_losses import activation, memory, separation, weakest
from unlearn.strategies.predictions import predict
from unlearn.strategies.spots import Row
from unlearn.types import Noun

MAX_BATCH_TOKENS = 4096
RIDGE = 0.01
"""Of the second moment of the memories, as a share of its mean diagonal."""
OPEN = 3.0
"""What a neuron gets from its own spots before training."""


class PatchSettings(Noun):
    """How neurons are trained."""

    steps: int
    learning_rate: float
    activation_weight: float
    memory_weight: float
    beta: float
    gamma: float
    top: int
    retain_weight: float
    retain_batch: int
    enough: float


class Material(NamedTuple):
    """What neurons are trained on."""

    layer: int
    rows: Sequence[Row]
    neurons: Sequence[tuple[int, ...]]
    """For each record, the neuron of each of its spots."""
    n_neurons: int
    ignorance: Ignorance
    held: Sequence[Encoding]
    """What is to be answered as before."""
    memories: Sequence[Sequence[int]]
    """Texts on which no neuron is to fire, as tokens."""


class Trained(NamedTuple):
    """Neurons, and how it went."""

    neurons: Neurons
    loss: float
    """Mean over rows, in nats."""
    steps: int
    fires: float
    """The share of own spots on which the neuron is open."""
    misfires: float
    """The share of tokens of the memories on which any is."""


def train_neurons(
    lm: LanguageModel,
    material: Material,
    settings: PatchSettings,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Trained:
    """Neurons that fire on the spots and make their answers unlikely; ``lm`` stays as it is."""
    run = _Run(lm, material, settings, seed)
    optimiser = torch.optim.Adam(run.leaves, lr=settings.learning_rate)
    loss, step = float("inf"), 0
    for step in range(1, settings.steps + 1):
        optimiser.zero_grad()
        loss = run.backward()
        if loss <= settings.enough and run.shut():
            break
        optimiser.step()
        if progress is not None:
            progress(step / settings.steps)
    own, others = run.pre_activations()
    return Trained(
        run.neurons(),
        loss,
        step,
        float((own > 0).float().mean()),
        float((others > 0).any(1).float().mean()),
    )


class _Run:
    def __init__(
        self, lm: LanguageModel, material: Material, settings: PatchSettings, seed: int
    ) -> None:
        self.lm, self.material, self.settings = lm, material, settings
        self.mlp: Mlp = find_mlp(lm, material.layer)
        self.wide = widened(lm, material.n_neurons, material.layer)
        self.own, self.owners = self._spots()
        self.others = self._memories()
        self.deck = Deck(range(len(material.held)), np.random.default_rng(seed))
        self.reading, self.biases, self.writing = self._start()
        self.leaves = [
            leaf.requires_grad_()
            for leaf in (*self.reading, *self.biases, self.writing)
            if leaf is not None
        ]

    def backward(self) -> float:
        """Adds the gradient of the whole objective; returns the mean loss of the rows."""
        total, settings = 0.0, self.settings
        with differentiable(self.wide.model, []):
            rows = self.material.rows
            for group in by_length([row.encoding.ids for row in rows], MAX_BATCH_TOKENS):
                loss = self._forgetting([rows[i] for i in group]) / len(rows)
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
            rest = settings.activation_weight * self._firing()
            if self.material.held and settings.retain_weight:
                rest = rest + settings.retain_weight * self._drift()
            rest.backward()  # type: ignore[no-untyped-call]
        return total

    def pre_activations(self) -> tuple[Tensor, Tensor]:
        """(spot,) each neuron on its own spots, and (token, neuron) all on the memories."""
        gate, bias = self.reading[0], self.biases[0]
        shift = torch.zeros(len(gate), device=gate.device) if bias is None else bias
        own = (self.own * gate[self.owners]).sum(1) + shift[self.owners]
        return own, self.others @ gate.T + shift

    def shut(self) -> bool:
        """Whether no neuron is open on any memory, and all are on their own spots."""
        own, others = self.pre_activations()
        return bool((own > 0).all() and (others < 0).all())

    def neurons(self) -> Neurons:
        """What has been found, detached, on the CPU."""
        return Neurons(
            tuple(rows.detach().cpu() for rows in self.reading),
            tuple(None if b is None else b.detach().cpu() for b in self.biases),
            self.writing.detach().cpu(),
        )

    def _firing(self) -> Tensor:
        own, others = self.pre_activations()
        s = self.settings
        least = weakest(own, self.owners, self.material.n_neurons)
        apart = memory(others, s.beta, s.top) + separation(least, others, s.gamma, s.top)
        return activation(own) + s.memory_weight * apart

    def _forgetting(self, rows: Sequence[Row]) -> Tensor:
        batch = collate([row.encoding for row in rows], range(len(rows)), "answer")
        batch = batch.to(self.lm.device)
        output = self._call(batch.ids, batch.attention)
        predictions = predict(output.logits, batch.labels)
        records = torch.tensor([row.record for row in rows])
        return self.material.ignorance(Seen(predictions, records)).sum()

    def _drift(self) -> Tensor:
        drawn = self.deck.draw(self.settings.retain_batch)
        batch = collate(self.material.held, drawn, "answer").to(self.lm.device)
        with torch.no_grad():
            logits = self.lm.model(
                input_ids=batch.ids, attention_mask=batch.attention, **self._options()
            ).logits
        before = predict(logits, batch.labels)
        now = predict(self._call(batch.ids, batch.attention).logits, batch.labels)
        return kl_to(now.logprobs, before.logprobs).mean()

    def _call(self, ids: Tensor, attention: Tensor) -> Any:
        return functional_call(
            self.wide.model,
            self._parameters(),
            kwargs={"input_ids": ids, "attention_mask": attention, **self._options()},
        )

    def _parameters(self) -> dict[str, Tensor]:
        """The wide layer's tensors with the live neurons in the place of the zeros."""
        found = {}
        for name, rows, bias in zip(self.mlp.reading, self.reading, self.biases, strict=True):
            stored = (rows.T, 1) if self._is_transposed(name) else (rows, 0)
            found[f"{name}.weight"] = self._live(f"{name}.weight", *stored)
            if bias is not None:
                found[f"{name}.bias"] = self._live(f"{name}.bias", bias, 0)
        name = self.mlp.writing
        stored = (self.writing.T, 0) if self._is_transposed(name) else (self.writing, 1)
        return {**found, f"{name}.weight": self._live(f"{name}.weight", *stored)}

    def _live(self, name: str, new: Tensor, dim: int) -> Tensor:
        """The tensor with ``new`` in the place of its last entries along a dimension."""
        tensor = self.wide.model.get_parameter(name).detach()
        kept = tensor.narrow(dim, 0, tensor.shape[dim] - new.shape[dim])
        return torch.cat([kept, new.to(kept.dtype)], dim=dim)

    def _is_transposed(self, name: str) -> bool:
        """Whether the weight is stored (in, out), as in GPT-2."""
        return isinstance(self.wide.model.get_submodule(name), Conv1D)

    def _options(self) -> dict[str, bool]:
        return {"use_cache": False} if accepts(self.lm.model, "use_cache") else {}

    def _spots(self) -> tuple[Tensor, Tensor]:
        """What goes into the MLP at each spot, (spot, width), and the neuron that it is of."""
        rows, module = self.material.rows, self.mlp.reading[0]
        parts: list[Tensor] = []
        owners: list[int] = []
        for group in by_length([row.encoding.ids for row in rows], MAX_BATCH_TOKENS):
            inputs = read_inputs(self.lm, [module], [rows[i].encoding.ids for i in group])
            for line, i in enumerate(group):
                parts.append(inputs.of[module][line, list(rows[i].positions)].float())
                owners += self.material.neurons[rows[i].record]
        return torch.cat(parts), torch.tensor(owners, device=self.lm.device)

    def _memories(self) -> Tensor:
        """(token, width) what goes into it at every token of what is to stay."""
        texts, module, parts = self.material.memories, self.mlp.reading[0], []
        for group in by_length(texts, MAX_BATCH_TOKENS):
            inputs = read_inputs(self.lm, [module], [texts[i] for i in group])
            parts.append(inputs.of[module][inputs.mask.to(self.lm.device)].float())
        return torch.cat(parts)

    @torch.no_grad()
    def _start(self) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
        """Neurons that see their own spots and are blind to most else, and say nothing yet.

        k = C⁻¹ q̄ scaled to q̄ᵀ k = ``OPEN``, with C the second moment of the memories: the paper's
        q̄ / ‖q̄‖² is open on everything that has a component in common.
        """
        with forward_only(self.lm.model):
            member = torch.nn.functional.one_hot(self.owners, self.material.n_neurons).float()
            mean = (member.T @ self.own) / member.sum(0)[:, None]
        moment = (self.others.T @ self.others / len(self.others)).cpu().double()
        moment.diagonal().add_(RIDGE * moment.diagonal().mean())
        keys = torch.linalg.solve(moment, mean.cpu().double().T).T.float().to(mean.device)
        keys = keys / (keys * mean).sum(1, keepdim=True)
        reading = [OPEN * keys, *(keys.clone() for _ in self.mlp.reading[1:])]
        biases = [self._bias(name) for name in self.mlp.reading]
        return reading, biases, torch.zeros(self.width, len(keys), device=keys.device)

    def _bias(self, name: str) -> Tensor | None:
        module: Any = self.lm.model.get_submodule(name)
        if module.bias is None:
            return None
        return torch.zeros(self.material.n_neurons, device=self.lm.device)

    @property
    def width(self) -> int:
        """How wide the stream is."""
        return int(self.own.shape[1])
