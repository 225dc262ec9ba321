"""Artifact: what forgetting produced, how it came to be, and how to take it back.

On disk an artifact is a folder:

    artifact.json        kind, provenance, and the SHA-256 of each file below and of itself
    delta.safetensors    the payload; this one is of the kind ``full-weights``, and the other kinds
                         are in ``unlearn.adapter`` and ``unlearn.inference_policy``
    forget_set.key       optional; see below

The forget set is personal data and is not in it. ``forget_set_hash`` is an HMAC of its digest under
a random key that lies in ``forget_set.key``, outside the checksums. Whoever has the key and the
forget set can show that the two belong together. Delete the key, and nobody can test a guess about
who was forgotten on the artifact any more; it works as before. The plain digest of the forget set
stands in sites, requests and audits, which belong with the request's own data.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unlearn.artifact_manifest import (
    KEY,
    MANIFEST,
    Earlier,
    Manifest,
    Provenance,
    SitesSummary,
    ThreatModel,
    check_replaceable,
    read_key,
    read_manifest,
    sha256_of,
)
from unlearn.atomic_folder import appearing_at
from unlearn.errors import ArtifactError

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

__all__ = [
    "Artifact",
    "Earlier",
    "FullWeights",
    "Manifest",
    "Provenance",
    "SitesSummary",
    "ThreatModel",
    "keyed_hash",
]

DELTA = "delta.safetensors"

ELSEWHERE = {
    "adapter": ("unlearn.adapter", "Adapter"),
    "inference-policy": ("unlearn.inference_policy", "InferencePolicy"),
    "patch": ("unlearn.patch_neurons", "PatchNeurons"),
}
"""Kinds that are imported at their first use: kind to module and class."""

SERVED_ONLY = (
    "Served-only: the weights are as they were, and whoever has the weights has the data. What "
    "this audit shows holds only behind an interface that keeps the artifact before every prompt."
)


class Artifact(ABC):
    """What forgetting produced. A new kind subclasses this and sets ``kind``; nothing else changes.

    >>> artifact = Artifact.load("quill-artifact")                 # doctest: +SKIP
    >>> unlearned = artifact.apply(model)                          # doctest: +SKIP
    """

    KINDS: ClassVar[dict[str, type[Artifact]]] = {}
    kind: ClassVar[str]
    threat_model: ClassVar[ThreatModel]

    def __init__(self, provenance: Provenance, forget_set_key: bytes | None = None) -> None:
        self.provenance = provenance
        self.forget_set_key = forget_set_key

    @property
    def limits(self) -> tuple[str, ...]:
        """What an audit of this artifact has to say of it, a sentence each."""
        served_only = (SERVED_ONLY,) if self.threat_model == "served-only" else ()
        return (*served_only, *self.notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever made it should read before the audit, a sentence each."""
        return tuple(map(str, self.provenance.beneath))

    @property
    def keys(self) -> dict[str, bytes]:
        """File name to the key that is written into it, outside the checksums."""
        return {} if self.forget_set_key is None else {KEY: self.forget_set_key}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.KINDS.setdefault(cls.kind, cls) is not cls:
            raise ValueError(f"the artifact kind {cls.kind!r} is registered twice")

    @abstractmethod
    def apply(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` that forgot; ``model`` itself is untouched.

        Raises:
            ArtifactError: the artifact was not made from this model.
        """

    @abstractmethod
    def revert(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model``, which forgot, as it was before, bit for bit.

        Raises:
            ArtifactError: ``model`` is not what ``apply`` gives.
        """

    @abstractmethod
    def write_payload(self, folder: Path) -> None:
        """Writes the files of this kind into an empty folder."""

    @classmethod
    @abstractmethod
    def read_payload(
        cls, folder: Path, provenance: Provenance, forget_set_key: bytes | None
    ) -> Artifact:
        """The artifact whose files, already verified, lie in ``folder``."""

    def concerns(self, forget_set_digest: str) -> bool:
        """Whether this artifact was made to forget the forget set with that digest.

        Raises:
            ArtifactError: the key is gone, so that nobody can tell.
        """
        if self.forget_set_key is None:
            raise ArtifactError(
                f"this artifact has no {KEY}, so it cannot be tied to a forget set any more"
            )
        expected = keyed_hash(forget_set_digest, self.forget_set_key)
        return hmac.compare_digest(expected, self.provenance.forget_set_hash)

    def save(self, directory: str | Path) -> None:
        """Writes the artifact as a folder: all of it or nothing, also over an older artifact.

        Raises:
            ArtifactError: the folder exists and holds anything that is not an artifact.
        """
        target = Path(directory).resolve()
        check_replaceable(target)
        with appearing_at(target) as folder:
            self.write_payload(folder)
            manifest = Manifest(
                kind=self.kind,
                threat_model=self.threat_model,
                provenance=self.provenance,
                files={file.name: sha256_of(file) for file in sorted(folder.iterdir())},
            )
            manifest = manifest.model_copy(update={"checksum": manifest.computed_checksum()})
            text = manifest.model_dump_json(indent=2) + "\n"
            (folder / MANIFEST).write_text(text, encoding="utf-8")
            for name, key in self.keys.items():
                (folder / name).touch(mode=0o600)
                (folder / name).write_text(key.hex() + "\n", encoding="ascii")

    @staticmethod
    def load(directory: str | Path) -> Artifact:
        """The artifact in a folder, every file checked.

        Raises:
            ArtifactError: a file is missing or damaged, or the kind or schema is unknown.
        """
        folder = Path(directory)
        manifest = read_manifest(folder)
        for name, expected in manifest.files.items():
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} lacks {name}; copy the artifact again")
            if sha256_of(folder / name) != expected:
                raise ArtifactError(f"{folder / name} is damaged: its SHA-256 is not the one noted")
        kind = _kind(manifest.kind)
        if kind is None:
            known = ", ".join(sorted({*Artifact.KINDS, *ELSEWHERE}))
            raise ArtifactError(
                f"{folder} is of the unknown kind {manifest.kind!r}; known: {known}"
            )
        return kind.read_payload(folder, manifest.provenance, read_key(folder))


class FullWeights(Artifact):
    """Changed weights, kept as the XOR of the bits before and after.

    XOR is its own inverse, so one file takes the model forth and back bit for bit, and without the
    model it says nothing of either. Tensors that did not change are not in it; tied ones once.
    """

    kind = "full-weights"
    threat_model = "weights"

    def __init__(
        self,
        delta: Mapping[str, torch.Tensor],
        provenance: Provenance,
        forget_set_key: bytes | None = None,
    ) -> None:
        super().__init__(provenance, forget_set_key)
        self.delta = dict(delta)
        """Tensor name to a flat uint8 tensor on the CPU."""

    @classmethod
    def between(
        cls,
        original: LanguageModel,
        changed: LanguageModel,
        provenance: Provenance,
        *,
        forget_set_digest: str | None = None,
    ) -> FullWeights:
        """The artifact that turns ``original`` into ``changed``; both are untouched.

        Fills the source and digests of ``provenance``, and with ``forget_set_digest`` also the hash
        of the forget set, under a new random key.

        Raises:
            ArtifactError: the two differ in more than the values of their tensors.
        """
        before, after = tensors_of(original), tensors_of(changed)
        if layout_of(before) != layout_of(after):
            raise ArtifactError(
                "the two models differ in names, types, shapes or ties of their tensors; "
                "an artifact of full weights needs the same architecture before and after"
            )
        delta = {name: _bits(before[name]) ^ _bits(after[name]) for name in before}
        changed.changed()
        changes = {name: bits for name, bits in delta.items() if bits.any()}
        return cls(changes, *filled(provenance, original, changed, forget_set_digest))

    def apply(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` with the weights after forgetting; see ``Artifact.apply``."""
        return self._flip(model, self.provenance.base_digest, self.provenance.result_digest)

    def revert(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` with the weights before forgetting; see ``Artifact.revert``."""
        check_result(model, self.provenance.result_digest)
        return self._flip(model, self.provenance.result_digest, self.provenance.base_digest)

    def write_payload(self, folder: Path) -> None:
        """Writes ``delta.safetensors``."""
        save_file({name: self.delta[name] for name in sorted(self.delta)}, folder / DELTA)

    @classmethod
    def read_payload(
        cls, folder: Path, provenance: Provenance, forget_set_key: bytes | None
    ) -> FullWeights:
        """The artifact whose ``delta.safetensors`` lies in ``folder``."""
        try:
            delta = load_file(folder / DELTA)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{folder / DELTA} does not read as safetensors: {error}") from None
        return cls(delta, provenance, forget_set_key)

    def _flip(self, model: LanguageModel, needed: str, promised: str) -> LanguageModel:
        check_base(model, needed)
        copy = model.copy()
        tensors = tensors_of(copy)
        with torch.no_grad():
            for name, delta in self.delta.items():
                if name not in tensors or delta.shape != (tensors[name].nbytes,):
                    raise ArtifactError(
                        f"{DELTA} holds a tensor {name} that does not fit the model"
                    )
                tensor = tensors[name]
                flipped = (_bits(tensor) ^ delta).view(tensor.dtype).view(tensor.shape)
                tensor.copy_(flipped)
        copy.changed()
        if copy.digest != promised:
            raise ArtifactError(
                f"the weights came out with digest {copy.digest[:12]} instead of {promised[:12]}; "
                f"{DELTA} does not belong to this artifact"
            )
        return copy


class Filled(NamedTuple):
    """Provenance with the facts in it, and the key of its hash."""

    provenance: Provenance
    key: bytes | None


def filled(
    provenance: Provenance,
    original: LanguageModel,
    result: LanguageModel,
    forget_set_digest: str | None,
) -> Filled:
    """The provenance with source and digests, and the forget set's hash under a new random key."""
    facts = {
        "base_source": original.source,
        "base_digest": original.digest,
        "result_digest": result.digest,
    }
    key = None
    if forget_set_digest is not None:
        key = secrets.token_bytes(32)
        facts["forget_set_hash"] = keyed_hash(forget_set_digest, key)
    return Filled(provenance.model_copy(update=facts), key)


def check_base(model: LanguageModel, needed: str) -> None:
    """Nothing, if the model has the digest that an artifact needs.

    Raises:
        ArtifactError: it has another one.
    """
    if model.digest != needed:
        raise ArtifactError(
            f"the artifact fits a model with digest {needed[:12]}, and {model.source} has "
            f"{model.digest[:12]}; load the model it was made from, with the same dtype"
        )


def check_result(model: LanguageModel, given: str) -> None:
    """Nothing, if the model has the digest of what an artifact gave.

    Raises:
        ArtifactError: it has another one.
    """
    if model.digest != given:
        raise ArtifactError(
            f"{model.source} with digest {model.digest[:12]} is not what this artifact gave, which "
            f"has {given[:12]}. If a later artifact lies on it, take that one back first: weights "
            "go back bit for bit, in the reverse order"
        )


def keyed_hash(forget_set_digest: str, key: bytes) -> str:
    """HMAC-SHA256 of a forget set's digest: comparable with the key, meaningless without."""
    return hmac.new(key, forget_set_digest.encode("ascii"), hashlib.sha256).hexdigest()


def _kind(name: str) -> type[Artifact] | None:
    if name in ELSEWHERE:
        module, kind = ELSEWHERE[name]
        found: type[Artifact] = getattr(import_module(module), kind)
        return found
    return Artifact.KINDS.get(name)


def tensors_of(model: LanguageModel) -> dict[str, torch.Tensor]:
    """The tensors of a model by name, sorted; of tied ones only the first name."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[Any] = set()
    for name, tensor in sorted(model.model.state_dict().items()):
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place not in seen:
            seen.add(place)
            tensors[name] = tensor.detach()
    return tensors


def layout_of(tensors: Mapping[str, torch.Tensor]) -> list[Any]:
    """What two models have to share for the values of their tensors to be all that differs."""
    return [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
