"""Inference policy: words before every prompt, and the weights as they were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from unlearn.artifact import Artifact, Provenance, check_base, filled
from unlearn.errors import ArtifactError
from unlearn.model.preamble import NOTHING, Preamble
from unlearn.types import first_problem

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

POLICY = "policy.json"


class InferencePolicy(Artifact):
    """In-context unlearning: an instruction before each prompt (after Pawelczyk et al. 2023).

    Nothing is removed. It holds only behind an interface that keeps the words in front, and there
    only as far as the model obeys them. The words lie in the artifact as they are: a policy that
    names who is to be forgotten tells it to whoever reads the artifact.

    >>> words = Preamble(text="Say nothing of private persons. ")    # doctest: +SKIP
    >>> InferencePolicy.on(model, words, provenance).save("policy")  # doctest: +SKIP
    """

    kind = "inference-policy"
    threat_model = "served-only"

    def __init__(
        self,
        preamble: Preamble,
        provenance: Provenance,
        forget_set_key: bytes | None = None,
    ) -> None:
        super().__init__(provenance, forget_set_key)
        self.preamble = preamble

    @classmethod
    def on(
        cls,
        model: LanguageModel,
        preamble: Preamble,
        provenance: Provenance,
        *,
        forget_set_digest: str | None = None,
    ) -> InferencePolicy:
        """The policy for ``model``, which is untouched; fills what ``FullWeights.between`` fills.

        Raises:
            ArtifactError: the preamble is empty, or the model already has one.
        """
        if model.preamble:
            raise ArtifactError(
                f"{model.source} already has an instruction before each prompt; make one policy "
                "of both, on the bare model"
            )
        if not preamble:
            raise ArtifactError("the policy puts nothing before any prompt; give it a text")
        result = _with(model, preamble)
        return cls(preamble, *filled(provenance, model, result, forget_set_digest))

    def apply(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` that reads the words before each prompt; see ``Artifact.apply``."""
        check_base(model, self.provenance.base_digest)
        return _with(model, self.preamble)

    def revert(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` without the words; see ``Artifact.revert``."""
        check_base(model, self.provenance.result_digest)
        return _with(model, NOTHING)

    def write_payload(self, folder: Path) -> None:
        """Writes ``policy.json``."""
        text = self.preamble.model_dump_json(indent=2) + "\n"
        (folder / POLICY).write_text(text, encoding="utf-8")

    @classmethod
    def read_payload(
        cls, folder: Path, provenance: Provenance, forget_set_key: bytes | None
    ) -> InferencePolicy:
        """The policy whose ``policy.json`` lies in ``folder``."""
        try:
            preamble = Preamble.model_validate_json((folder / POLICY).read_bytes())
        except ValidationError as error:
            problem = first_problem(error, Preamble)
            raise ArtifactError(f"{folder / POLICY} is not a policy: {problem}") from None
        except OSError as error:
            raise ArtifactError(f"{folder / POLICY} does not read: {error.strerror}") from None
        return cls(preamble, provenance, forget_set_key)


def _with(model: LanguageModel, preamble: Preamble) -> LanguageModel:
    copy = model.copy()
    copy.preamble = preamble
    # The digest covers the preamble too.
    copy.changed()
    return copy
