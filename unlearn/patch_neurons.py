"""Patch neurons: neurons added to one MLP, and taken out again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unlearn.artifact import Artifact, Provenance, check_base, filled
from unlearn.errors import ArtifactError, UnsupportedError

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel
    from unlearn.model.widening import Neurons

NEURONS = "neurons.safetensors"

REMOVABLE = (
    "Suppression: every weight of the original is in the model as it was, and neurons beside them "
    "speak against what it knows. Whoever takes the neurons out has the original back."
)


class PatchNeurons(Artifact):
    """Neurons beside those of one MLP (Huang et al. 2023, T-Patcher, arXiv:2301.09785).

    ``apply`` gives a plain model whose MLPs all are wider, by neurons that are zero in every other
    layer; ``revert`` takes them out, and needs no copy of the base for that.
    """

    kind = "patch"
    threat_model = "weights"

    def __init__(
        self,
        layer: int,
        neurons: Neurons,
        provenance: Provenance,
        forget_set_key: bytes | None = None,
    ) -> None:
        super().__init__(provenance, forget_set_key)
        self.layer = layer
        self.neurons = neurons

    @property
    def limits(self) -> tuple[str, ...]:
        """That this suppresses."""
        return (REMOVABLE, *super().limits)

    @property
    def n_neurons(self) -> int:
        """How many there are."""
        return int(self.neurons.writing.shape[1])

    @classmethod
    def on(
        cls,
        model: LanguageModel,
        layer: int,
        neurons: Neurons,
        provenance: Provenance,
        *,
        forget_set_digest: str | None = None,
    ) -> PatchNeurons:
        """The artifact of neurons for ``model``, which stays as it is.

        Fills what ``FullWeights.between`` fills.
        """
        result = _with(model, layer, neurons)
        return cls(layer, neurons, *filled(provenance, model, result, forget_set_digest))

    def apply(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` with the neurons in it; see ``Artifact.apply``."""
        check_base(model, self.provenance.base_digest)
        wide = _with(model, self.layer, self.neurons)
        return _promised(wide, self.provenance.result_digest)

    def revert(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` without the neurons; see ``Artifact.revert``."""
        from unlearn.model.widening import narrowed

        check_base(model, self.provenance.result_digest)
        return _promised(narrowed(model, self.n_neurons), self.provenance.base_digest)

    def write_payload(self, folder: Path) -> None:
        """Writes ``neurons.safetensors``."""
        tensors = {f"{self.layer}.writing": self.neurons.writing}
        for index, rows in enumerate(self.neurons.reading):
            tensors[f"{self.layer}.reading.{index}"] = rows
            bias = self.neurons.biases[index]
            if bias is not None:
                tensors[f"{self.layer}.bias.{index}"] = bias
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / NEURONS)

    @classmethod
    def read_payload(
        cls, folder: Path, provenance: Provenance, forget_set_key: bytes | None
    ) -> PatchNeurons:
        """The neurons whose ``neurons.safetensors`` lies in ``folder``."""
        from unlearn.model.widening import Neurons

        try:
            tensors = load_file(folder / NEURONS)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"{folder / NEURONS} does not read as safetensors: {error}"
            ) from None
        layer = _layer_of(tensors, folder)
        reading = tuple(
            tensors[f"{layer}.reading.{i}"] for i in (0, 1) if f"{layer}.reading.{i}" in tensors
        )
        biases = tuple(tensors.get(f"{layer}.bias.{i}") for i in range(len(reading)))
        neurons = Neurons(reading, biases, tensors[f"{layer}.writing"])
        return cls(layer, neurons, provenance, forget_set_key)


def _layer_of(tensors: dict[str, torch.Tensor], folder: Path) -> int:
    names = [re.fullmatch(r"(\d+)\.(writing|(?:reading|bias)\.[01])", name) for name in tensors]
    layers = {match[1] for match in names if match}
    parts = {match[2] for match in names if match}
    if None in names or len(layers) != 1 or not {"writing", "reading.0"} <= parts:
        raise ArtifactError(f"{folder / NEURONS} does not hold the neurons of one layer")
    return int(layers.pop())


def _with(model: LanguageModel, layer: int, neurons: Neurons) -> LanguageModel:
    from unlearn.model.widening import widened

    try:
        return widened(model, int(neurons.writing.shape[1]), layer, neurons)
    except (UnsupportedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(f"the neurons do not fit {model.source}: {reason}") from error


def _promised(model: LanguageModel, digest: str) -> LanguageModel:
    if model.digest != digest:
        raise ArtifactError(
            f"the weights came out with digest {model.digest[:12]} instead of {digest[:12]}; "
            f"{NEURONS} does not belong to this artifact"
        )
    return model
