"""Artifact: what forgetting produced, how it came to be, and how to take it back.

On disk an artifact is a folder:

    artifact.json        kind, provenance, and the SHA-256 of each file below and of itself
    delta.safetensors    the payload (this one of the kind ``full-weights``)
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
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unlearn.atomic_folder import appearing_at
from unlearn.errors import ArtifactError
from unlearn.types import Noun, Sites

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

MANIFEST = "artifact.json"
KEY = "forget_set.key"
DELTA = "delta.safetensors"

ThreatModel = Literal["weights", "served-only"]
"""``weights``: holds for whoever has the weights. ``served-only``: holds behind an interface."""


class SitesSummary(Noun):
    """Where an update was allowed to act, without masks or record ids."""

    method: str
    layers: tuple[int, ...] | None = None
    modules: tuple[str, ...] | None = None
    parts: tuple[str, ...] = ()
    """The restrictions that were present, masks included."""
    settings: Mapping[str, str | int | float | bool | None] = {}
    seed: int = 0

    @classmethod
    def of(cls, sites: Sites | None) -> SitesSummary | None:
        """The summary of ``sites``; ``None`` where there was no restriction."""
        if sites is None:
            return None
        return cls(
            method=sites.method,
            layers=sites.layers,
            modules=sites.modules,
            parts=tuple(sorted(sites.parts)),
            settings=sites.settings,
            seed=sites.seed,
        )


class Provenance(Noun):
    """How an artifact came to be."""

    strategy: str
    settings: Mapping[str, JsonValue] = {}
    seed: int = 0
    sites: SitesSummary | None = None
    base_source: str = ""
    base_digest: str = ""
    """Digest of the model before. ``FullWeights.between`` fills it, and the next one."""
    result_digest: str = ""
    forget_set_hash: str = ""
    """``keyed_hash`` of the forget set's digest."""
    versions: Mapping[str, str] = {}
    """Package name to version."""
    steps: tuple[Mapping[str, JsonValue], ...] = ()
    """What was logged at each step."""
    stop_reason: str = ""
    tokens: int = 0
    """Tokens that gradients were taken of."""
    seconds: float = 0.0


class Manifest(Noun):
    """What ``artifact.json`` holds."""

    schema_version: Literal["1"] = "1"
    kind: str
    threat_model: ThreatModel
    provenance: Provenance
    files: Mapping[str, str]
    """File name to SHA-256."""
    checksum: str = ""
    """SHA-256 of this manifest with an empty ``checksum``."""

    def computed_checksum(self) -> str:
        """What ``checksum`` has to be."""
        plain = self.model_copy(update={"checksum": ""}).model_dump(mode="json")
        text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


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
        _check_replaceable(target)
        with appearing_at(target) as folder:
            self.write_payload(folder)
            manifest = Manifest(
                kind=self.kind,
                threat_model=self.threat_model,
                provenance=self.provenance,
                files={file.name: _sha256(file) for file in sorted(folder.iterdir())},
            )
            manifest = manifest.model_copy(update={"checksum": manifest.computed_checksum()})
            text = manifest.model_dump_json(indent=2) + "\n"
            (folder / MANIFEST).write_text(text, encoding="utf-8")
            if self.forget_set_key is not None:
                (folder / KEY).touch(mode=0o600)
                (folder / KEY).write_text(self.forget_set_key.hex() + "\n", encoding="ascii")

    @staticmethod
    def load(directory: str | Path) -> Artifact:
        """The artifact in a folder, every file checked.

        Raises:
            ArtifactError: a file is missing or damaged, or the kind or schema is unknown.
        """
        folder = Path(directory)
        manifest = _read_manifest(folder)
        for name, expected in manifest.files.items():
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} lacks {name}; copy the artifact again")
            if _sha256(folder / name) != expected:
                raise ArtifactError(f"{folder / name} is damaged: its SHA-256 is not the one noted")
        kind = Artifact.KINDS.get(manifest.kind)
        if kind is None:
            known = ", ".join(sorted(Artifact.KINDS))
            raise ArtifactError(
                f"{folder} is of the unknown kind {manifest.kind!r}; known: {known}"
            )
        return kind.read_payload(folder, manifest.provenance, _read_key(folder))


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
        before, after = _tensors(original), _tensors(changed)
        if _layout(before) != _layout(after):
            raise ArtifactError(
                "the two models differ in names, types, shapes or ties of their tensors; "
                "an artifact of full weights needs the same architecture before and after"
            )
        delta = {name: _bits(before[name]) ^ _bits(after[name]) for name in before}
        changed.changed()
        facts = {
            "base_source": original.source,
            "base_digest": original.digest,
            "result_digest": changed.digest,
        }
        key = None
        if forget_set_digest is not None:
            key = secrets.token_bytes(32)
            facts["forget_set_hash"] = keyed_hash(forget_set_digest, key)
        changes = {name: bits for name, bits in delta.items() if bits.any()}
        return cls(changes, provenance.model_copy(update=facts), key)

    def apply(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` with the weights after forgetting; see ``Artifact.apply``."""
        return self._flip(model, self.provenance.base_digest, self.provenance.result_digest)

    def revert(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` with the weights before forgetting; see ``Artifact.revert``."""
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
        if model.digest != needed:
            raise ArtifactError(
                f"the artifact fits a model with digest {needed[:12]}, and {model.source} has "
                f"{model.digest[:12]}; load the model it was made from, with the same dtype"
            )
        copy = model.copy()
        tensors = _tensors(copy)
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


def keyed_hash(forget_set_digest: str, key: bytes) -> str:
    """HMAC-SHA256 of a forget set's digest: comparable with the key, meaningless without."""
    return hmac.new(key, forget_set_digest.encode("ascii"), hashlib.sha256).hexdigest()


def _tensors(model: LanguageModel) -> dict[str, torch.Tensor]:
    """The tensors of a model by name, sorted; of tied ones only the first name."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[Any] = set()
    for name, tensor in sorted(model.model.state_dict().items()):
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place not in seen:
            seen.add(place)
            tensors[name] = tensor.detach()
    return tensors


def _layout(tensors: Mapping[str, torch.Tensor]) -> list[Any]:
    return [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, detail["loc"])) or "the whole file"
        raise ArtifactError(f"{file} does not read: {field}: {detail['msg']}") from None
    if manifest.checksum != manifest.computed_checksum():
        raise ArtifactError(f"{file} was changed or damaged after it was written")
    if any(name in (MANIFEST, KEY) or Path(name).name != name for name in manifest.files):
        raise ArtifactError(f"{file} lists a file outside its own folder")
    return manifest


def _read_key(folder: Path) -> bytes | None:
    if not (folder / KEY).exists():
        return None
    try:
        return bytes.fromhex((folder / KEY).read_text(encoding="ascii"))
    except ValueError:
        raise ArtifactError(f"{folder / KEY} is damaged; restore it or delete it") from None


def _check_replaceable(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    reason = "is a file"
    if target.is_dir():
        try:
            ours = {MANIFEST, KEY, *_read_manifest(target).files}
            strangers = sorted(file.name for file in target.iterdir() if file.name not in ours)
            reason = f"also holds {strangers[0]}" if strangers else ""
        except ArtifactError:
            reason = "holds something that is not an artifact"
    if reason:
        raise ArtifactError(f"{target} {reason} and is not overwritten; choose another folder")
