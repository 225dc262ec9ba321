"""artifact.json: how an artifact came to be, and the proof that its files are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from unlearn.errors import ArtifactError
from unlearn.types import Noun, Sites

MANIFEST = "artifact.json"
KEY = "forget_set.key"
POLICY_KEY = "policy.key"
KEYS = (KEY, POLICY_KEY)
"""Files outside the checksums: whoever keeps an artifact may keep its keys elsewhere."""

ThreatModel = Literal["weights", "served-only"]
"""``weights``: holds for whoever has the weights. ``served-only``: holds behind an interface."""


class SitesSummary(Noun):
    """Where an update was allowed to act, without masks or record ids."""

    method: str
    layers: tuple[int, ...] | None = None
    modules: tuple[str, ...] | None = None
    parts: tuple[str, ...] = ()
    """The restrictions that were present, masks included."""
    scores: Mapping[str, float] = {}
    """Module name to the locator's score."""
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
            scores=sites.scores,
            settings=sites.settings,
            seed=sites.seed,
        )


class Earlier(Noun):
    """An artifact that lies beneath another one, which was made on what it gave."""

    strategy: str
    base_digest: str
    result_digest: str
    """Its name: no two artifacts give the same model."""
    forget_set_hash: str = ""

    def __str__(self) -> str:
        """What is to be done about it, in a sentence."""
        return (
            f"An artifact of {self.strategy} lies beneath this one (it gave model "
            f"{self.result_digest[:12]}). Whether what it forgot is still forgotten has to be "
            "audited again on this model: `unlearn audit ... --after ITS_FORGET_SET`."
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
    strength: float = 1.0
    """The multiple of the change that is in the artifact."""
    sweep: tuple[Mapping[str, JsonValue], ...] = ()
    """What other multiples would have forgotten and cost, where they were looked at."""
    tokens: int = 0
    """Tokens that gradients were taken of."""
    seconds: float = 0.0
    beneath: tuple[Earlier, ...] = ()
    """The artifacts of earlier requests that had changed the model before, the oldest first."""

    def chain(self) -> tuple[Earlier, ...]:
        """What lies beneath an artifact that is made on the result of this one."""
        own = Earlier(
            strategy=self.strategy,
            base_digest=self.base_digest,
            result_digest=self.result_digest,
            forget_set_hash=self.forget_set_hash,
        )
        return (*self.beneath, own)


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
        return checksum_of(json.loads(self.model_dump_json()))


def checksum_of(written: Mapping[str, Any]) -> str:
    """The checksum of a manifest as it is written, whatever fields its version of it had."""
    plain = {**written, "checksum": ""}
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder, checked against its own checksum.

    Raises:
        ArtifactError: there is none, or it was changed.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}")
    text = file.read_bytes()
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, detail["loc"])) or "the whole file"
        raise ArtifactError(f"{file} does not read: {field}: {detail['msg']}") from None
    # Of what was read, not of what it became: an older manifest lacks fields that are here now.
    if manifest.checksum != checksum_of(json.loads(text)):
        raise ArtifactError(f"{file} was changed or damaged after it was written")
    if any(name in (MANIFEST, *KEYS) or Path(name).name != name for name in manifest.files):
        raise ArtifactError(f"{file} lists a file outside its own folder")
    return manifest


def read_key(folder: Path) -> bytes | None:
    """The key that ties the artifact to its forget set; ``None`` where it is gone.

    Raises:
        ArtifactError: it is damaged.
    """
    if not (folder / KEY).exists():
        return None
    try:
        return bytes.fromhex((folder / KEY).read_text(encoding="ascii"))
    except ValueError:
        raise ArtifactError(f"{folder / KEY} is damaged; restore it or delete it") from None


def check_replaceable(target: Path) -> None:
    """Nothing, if an artifact may be written there.

    Raises:
        ArtifactError: the folder holds anything that is not an artifact.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    reason = "is a file"
    if target.is_dir():
        try:
            ours = {MANIFEST, *KEYS, *read_manifest(target).files}
            strangers = sorted(file.name for file in target.iterdir() if file.name not in ours)
            reason = f"also holds {strangers[0]}" if strangers else ""
        except ArtifactError:
            reason = "holds something that is not an artifact"
    if reason:
        raise ArtifactError(f"{target} {reason} and is not overwritten; choose another folder")
