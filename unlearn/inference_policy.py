"""Inference policy: what is done to prompts before a model reads them; weights stay as they were.

``policy.json`` holds the policy, how often its gate was wrong, and in words what it gives away.
Where it is sealed, texts and keys of the model are encrypted in it and terms are keyed hashes; the
key lies in ``policy.key``, outside the checksums, readable by its owner alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from unlearn.artifact import SERVED_ONLY, Artifact, Provenance, check_base, filled
from unlearn.artifact_manifest import POLICY_KEY
from unlearn.errors import ArtifactError
from unlearn.model.gates import GateRates, KeyGate
from unlearn.model.policy import NOTHING, Policy
from unlearn.model.prompt_policy import PromptPolicy
from unlearn.sealing import naming_key, read_policy_key, seal, unseal
from unlearn.types import Noun, first_problem

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

POLICY = "policy.json"

NounT = TypeVar("NounT", bound=Noun)

IN_CLEAR = (
    "The policy holds data that was to be forgotten, in clear: whoever reads the artifact reads "
    "who is to be forgotten, and what its demonstrations and its gate say of them."
)
SEALED = (
    "The policy is sealed. Without policy.key it still shows its settings, how long its sealed "
    "part is, how many terms it goes by, how many characters these have, and what each weighs, but "
    "none of them. With the key it can be used and opened, and whoever uses it can test any guess "
    "at who is to be forgotten."
)
SHOWN = (
    "A served model that replies, refuses or stumbles where others would answer shows by that who "
    "is to be forgotten."
)


class PolicyFile(Noun):
    """What ``policy.json`` holds."""

    schema_version: Literal["1"] = "1"
    policy: PromptPolicy
    """Where it is sealed, without what is in ``sealed``."""
    gate_rates: GateRates | None = None
    gives_away: tuple[str, ...] = ()
    sealed: str = ""
    """Base64 of a nonce and the AES-256-GCM of the rest of the policy; empty where in clear."""


class InferencePolicy(Artifact):
    """In-context unlearning: words, noise or a reply where a gate says so (Pawelczyk et al. 2023).

    Nothing is removed. It holds only behind an interface that keeps to the policy, and where it is
    words only as far as the model obeys them.

    >>> policy = PromptPolicy(guard="Say nothing of private persons. ")  # doctest: +SKIP
    >>> artifact = InferencePolicy.on(model, policy, provenance)         # doctest: +SKIP
    >>> generate(artifact.apply(model), prompts, max_new_tokens=16)      # doctest: +SKIP
    """

    kind = "inference-policy"
    threat_model = "served-only"

    def __init__(
        self,
        policy: PromptPolicy,
        provenance: Provenance,
        forget_set_key: bytes | None = None,
        gate_rates: GateRates | None = None,
        policy_key: bytes | None = None,
    ) -> None:
        super().__init__(provenance, forget_set_key)
        self.policy = policy
        self.gate_rates = gate_rates
        self.policy_key = policy_key
        """What it is sealed with; None where it is in clear."""

    @classmethod
    def on(
        cls,
        model: LanguageModel,
        policy: PromptPolicy,
        provenance: Provenance,
        *,
        forget_set_digest: str | None = None,
        gate_rates: GateRates | None = None,
        policy_key: bytes | None = None,
    ) -> InferencePolicy:
        """The policy for ``model``, which is untouched; fills what ``FullWeights.between`` fills.

        With a ``policy_key`` it is sealed, and its terms have to be hashed under ``naming_key`` of
        that key.

        Raises:
            ArtifactError: the policy does nothing, or the model already has one.
        """
        if model.policy:
            raise ArtifactError(
                f"{model.source} already has a policy for its prompts; make one policy of both, "
                "on the bare model"
            )
        if not policy:
            raise ArtifactError("the policy does nothing to any prompt; give it words or a reply")
        told = filled(provenance, model, _with(model, policy), forget_set_digest)
        return cls(policy, *told, gate_rates, policy_key)

    @property
    def limits(self) -> tuple[str, ...]:
        """What an audit has to say of it: where it holds, what it gives away, how its gate errs."""
        return (SERVED_ONLY, *self.gives_away, *self.notes)

    @property
    def gives_away(self) -> tuple[str, ...]:
        """What the artifact and the served model tell of the forgotten, a sentence each."""
        personal = self.policy.demonstrations or self.policy.guard or self.policy.gate
        stored = IN_CLEAR if self.policy_key is None else SEALED
        return (stored, SHOWN) if personal else (SHOWN,)

    @property
    def notes(self) -> tuple[str, ...]:
        """How often the gate was wrong, and what lies beneath."""
        if self.gate_rates is None:
            return super().notes
        rates = f"On prompts it was not made from, the gate of the policy {self.gate_rates}."
        return (rates, *super().notes)

    @property
    def keys(self) -> dict[str, bytes]:
        """The forget set's key, and that of a sealed policy."""
        own = {} if self.policy_key is None else {POLICY_KEY: self.policy_key}
        return {**super().keys, **own}

    def apply(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` that reads its prompts by the policy; see ``Artifact.apply``."""
        check_base(model, self.provenance.base_digest)
        return _with(model, self.policy)

    def revert(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` without the policy; see ``Artifact.revert``."""
        check_base(model, self.provenance.result_digest)
        return _with(model, NOTHING)

    def write_payload(self, folder: Path) -> None:
        """Writes ``policy.json``."""
        policy, sealed = self.policy, ""
        if self.policy_key is not None:
            policy, rest = _divided(self.policy)
            told = rest.model_dump_json(include=rest.model_fields_set)
            sealed = seal(told.encode(), self.policy_key)
        file = PolicyFile(
            policy=policy, gate_rates=self.gate_rates, gives_away=self.gives_away, sealed=sealed
        )
        text = file.model_dump_json(indent=1) + "\n"
        (folder / POLICY).write_text(text, encoding="utf-8")

    @classmethod
    def read_payload(
        cls, folder: Path, provenance: Provenance, forget_set_key: bytes | None
    ) -> InferencePolicy:
        """The policy whose ``policy.json`` lies in ``folder``.

        Raises:
            ArtifactError: it is no policy, or is sealed under a key that is not there.
        """
        try:
            raw = (folder / POLICY).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{folder / POLICY} does not read: {error.strerror}") from None
        file = _parsed(PolicyFile, raw, folder / POLICY)
        if not file.sealed:
            return cls(file.policy, provenance, forget_set_key, file.gate_rates)
        key = read_policy_key(folder)
        rest = _parsed(PromptPolicy, unseal(file.sealed, key), folder / POLICY)
        parts = {name: getattr(rest, name) for name in rest.model_fields_set}
        whole = file.policy.model_copy(update={**parts, "secret": naming_key(key).hex()})
        return cls(whole, provenance, forget_set_key, file.gate_rates, key)


def _divided(policy: PromptPolicy) -> tuple[PromptPolicy, PromptPolicy]:
    """What of a policy may be read by anybody, its terms being hashes, and the rest."""
    rest: dict[str, Any] = {"demonstrations": policy.demonstrations, "guard": policy.guard}
    empty: dict[str, Any] = {"demonstrations": (), "guard": ""}
    if isinstance(policy.gate, KeyGate):
        rest["gate"], empty["gate"] = policy.gate, None
    return policy.model_copy(update=empty), PromptPolicy(**rest)


def _parsed(noun: type[NounT], raw: bytes, file: Path) -> NounT:
    try:
        return noun.model_validate_json(raw)
    except ValidationError as error:
        problem = first_problem(error, noun)
    raise ArtifactError(f"{file} is not a policy: {problem}")


def _with(model: LanguageModel, policy: Policy) -> LanguageModel:
    copy = model.copy()
    copy.policy = policy
    # The digest covers the policy too.
    copy.changed()
    return copy
