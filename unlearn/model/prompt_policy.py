"""The policy of in-context unlearning: a gate, and what is done to the prompts that it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from unlearn.model.gates import KeyGate, TermGate, WordGate
from unlearn.model.policy import PLAIN, Corruption, Treatment
from unlearn.model.terms import Keyed, Name, Terms, in_clear
from unlearn.types import Noun, Text

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

Gate = Annotated[TermGate | WordGate | KeyGate, Field(discriminator="kind")]

PLACE = "\x1fprompt\x1f"
"""Stands for the prompt while a chat template is filled in."""


SOMEBODY = "whoever is asked about"
"""What a guard says where the prompt does not name the subject."""


class Around(NamedTuple):
    """What stands before a prompt, and behind it."""

    front: str
    behind: str


class PromptPolicy(Noun):
    """What is done to the prompts that a gate holds; the others are read as they are.

    >>> policy = PromptPolicy(
    ...     gate=TermGate(terms=Terms.of(["Ada Quill"])), guard="Say nothing of Ada Quill. "
    ... )
    >>> policy.treat(model, ["Where was Ada Quill born?"])[0].fronts    # doctest: +SKIP
    ('Say nothing of Ada Quill. ',)
    """

    gate: Gate | None = None
    """None: it acts on every prompt."""
    demonstrations: tuple[Text, ...] = ()
    """Prompts with answers, before the guard; each ends with what separates it from the next.
    Where the context is too short for all, the first ones go."""
    guard: str = ""
    """An instruction directly before the prompt. ``{subject}`` in it stands for the forgotten
    subject as the prompt writes it, so that the policy need not hold it."""
    reply: str = ""
    """What is said in the model's place, the blank in front included."""
    corruption: Corruption | None = None
    subjects: Terms | None = None
    """Whose tokens are corrupted (the whole prompt's, where none of them stands in it), and what
    the guard may name."""
    chat: bool = False
    """Words go into the tokenizer's chat template: what is told as the system's message, the prompt
    as the user's."""
    secret: str = Field(default="", exclude=True, repr=False)
    """The key of the hashes that gate and terms go by, in hexadecimal; empty where in clear."""

    @model_validator(mode="after")
    def _whole(self) -> PromptPolicy:
        if self.corruption and self.subjects is None:
            raise ValueError("corruption needs subjects, which say what is corrupted")
        return self

    def __bool__(self) -> bool:
        """Whether it does anything to any prompt."""
        return bool(self.demonstrations or self.guard or self.reply or self.corruption)

    @property
    def name(self) -> Name:
        """What the policy calls a text."""
        return Keyed(bytes.fromhex(self.secret)) if self.secret else in_clear

    def treat(self, lm: LanguageModel, prompts: Sequence[str]) -> list[Treatment]:
        """The treatment of each prompt; see ``Policy.treat``."""
        name = self.name
        held = [True] * len(prompts)
        if self.gate is not None:
            held = self.gate.fires(lm, prompts, name)
        if self.reply:
            return [Treatment(reply=self.reply) if acts else PLAIN for acts in held]
        told: dict[str, Treatment] = {}
        return [
            self._treated(lm, prompt, name, told) if acts else PLAIN
            for prompt, acts in zip(prompts, held, strict=True)
        ]

    def digest_with(self, weights: str) -> str:
        """SHA-256 over the digest of some weights and all of the policy, its key included."""
        told = json.dumps([weights, self.model_dump(mode="json"), self.secret], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def _treated(
        self, lm: LanguageModel, prompt: str, name: Name, told: dict[str, Treatment]
    ) -> Treatment:
        spans = [] if self.subjects is None else self.subjects.spans(prompt, name)
        named = prompt[slice(*spans[-1])] if spans else SOMEBODY
        guard = self.guard.replace("{subject}", named)
        if guard not in told:
            told[guard] = self._words(lm, guard)
        if self.corruption is None:
            return told[guard]
        corrupted = tuple(spans) or ((0, len(prompt)),)
        return told[guard]._replace(corrupted=corrupted, corruption=self.corruption)

    def _words(self, lm: LanguageModel, guard: str) -> Treatment:
        """The words with all demonstrations, and with ever fewer."""
        shown, in_template = self.demonstrations, self.chat and lm.tokenizer.chat_template
        kept = ["".join(shown[n:]) + guard for n in range(len(shown) + 1)]
        around = [in_chat(lm, told) if in_template and told else Around(told, "") for told in kept]
        return Treatment(tuple(a.front for a in around), around[0].behind)


def in_chat(lm: LanguageModel, told: str) -> Around:
    """What the tokenizer's chat template puts around a prompt after a message of the system.

    Where a template takes no such message, it stands at the head of the user's.
    """
    system: list[dict[str, str]] = [{"role": "system", "content": told.strip()}]
    user = {"role": "user", "content": PLACE}
    render: Any = lm.tokenizer.apply_chat_template
    options = {"tokenize": False, "add_generation_prompt": True}
    try:
        text = render([*system, user], **options)
    # Templates refuse by an error of their own engine.
    except Exception:
        text = ""
    if told.strip() not in text:
        text = render([{"role": "user", "content": told + PLACE}], **options)
    front, _, behind = text.partition(PLACE)
    bos = lm.tokenizer.bos_token
    # The tokenizer puts its own in front of every text.
    return Around(front.removeprefix(bos) if bos and lm.adds_bos else front, behind)
