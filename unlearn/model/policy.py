"""What is done to a prompt before a served model reads it: words, corruption, or a fixed reply.

The protocol that ``LanguageModel.policy`` obeys. Scoring and generation honour all of a treatment;
whatever works on weights takes the model without its policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from pydantic import Field

from unlearn.types import Noun

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

Span = tuple[int, int]
"""Characters of a prompt: the first, and the one behind the last."""


class Corruption(Noun):
    """How the embeddings of some tokens are made unknowable (after ECO, Liu et al. 2024).

    Equal prompts are corrupted alike, whatever shares their batch.
    """

    kind: Literal["noise", "zero"] = "noise"
    """``noise``: normal noise is added. ``zero``: entries become 0, the largest first."""
    strength: float = Field(default=3.0, gt=0)
    """Of noise: its deviation, in deviations of the entries of the tokens' own embeddings. Of
    ``zero``: the share of entries, up to 1."""
    seed: int = Field(default=0, ge=0)


class Treatment(NamedTuple):
    """How one prompt is put to the model. The default leaves it as it is.

    >>> Treatment(fronts=("Answer briefly. ",)).fronts[0] + "Where was Ada Quill born?"
    'Answer briefly. Where was Ada Quill born?'
    """

    fronts: tuple[str, ...] = ("",)
    """What may stand before the prompt, longest first: the first that fits the context does."""
    behind: str = ""
    """What stands between the prompt and what the model writes."""
    corrupted: tuple[Span, ...] = ()
    """Whose tokens are corrupted."""
    corruption: Corruption | None = None
    reply: str | None = None
    """What is said in the model's place, which never sees the prompt."""


PLAIN = Treatment()


class Policy(Protocol):
    """What decides on the treatment of each prompt."""

    def __bool__(self) -> bool:
        """Whether any prompt is treated at all."""

    def treat(self, lm: LanguageModel, prompts: Sequence[str]) -> Sequence[Treatment]:
        """The treatment of each prompt, whatever other prompts there are.

        ``lm`` is the model without its policy.
        """

    def digest_with(self, weights: str) -> str:
        """SHA-256 over the digest of some weights and all that the policy is made of."""


class NoPolicy:
    """The policy of a model that reads its prompts as they are."""

    def __bool__(self) -> bool:
        return False

    def treat(self, lm: LanguageModel, prompts: Sequence[str]) -> Sequence[Treatment]:
        """``PLAIN`` for each."""
        return [PLAIN] * len(prompts)

    def digest_with(self, weights: str) -> str:
        """The digest of the weights alone."""
        return weights


NOTHING = NoPolicy()
