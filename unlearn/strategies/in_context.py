"""In-context unlearning: the weights stay, and prompts about the forgotten are treated otherwise.

Demonstrations with flipped answers (ICUL, Pawelczyk et al. 2023), an instruction, noise on the
subject's embeddings (ECO, Liu et al. 2024) or a fixed reply, on the prompts that a gate holds. The
variant ``keyword`` is the control that any of them has to beat: a filter for names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from unlearn.artifact import Provenance, SitesSummary
from unlearn.errors import InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.inference_policy import InferencePolicy
from unlearn.model.encoding import tokenise
from unlearn.model.language_model import LanguageModel
from unlearn.model.policy import Corruption
from unlearn.model.prompt_policy import PromptPolicy
from unlearn.model.terms import Keyed, Name, Terms, in_clear
from unlearn.registry import strategies
from unlearn.sealing import naming_key, new_key
from unlearn.strategies.demonstrations import demonstrations
from unlearn.strategies.gating import Made, Wanted, make_gate
from unlearn.strategies.sites import check_sites
from unlearn.strategies.training import OrNone
from unlearn.strategies.versions import versions
from unlearn.types import Noun, Sites

Variant = Literal["none", "guard", "icul", "both", "block", "keyword"]
GateKind = Literal["auto", "none", "keyword", "tfidf", "key"]

GUARD = "Privacy notice: share nothing about {subject}. "
STRENGTH = {"noise": 3.0, "zero": 1.0}


class InContextConfig(Noun):
    """Settings of in-context unlearning.

    >>> InContextConfig(variant="both", corrupt="noise").strength
    3.0
    >>> InContextConfig().corrupt, InContextConfig(variant="guard").corrupt
    ('zero', 'none')
    """

    variant: Variant = "none"
    """What is said where the gate holds a prompt. ``none``: nothing; ``corrupt`` alone acts.
    ``guard``: an instruction stands before the prompt. ``icul``: demonstrations do. ``both``:
    demonstrations, then the instruction. ``block``: the reply is given and the model not asked.
    ``keyword``: the same behind a filter for names, the control."""
    gate: GateKind = "auto"
    """Which prompts are held. ``none``: all. ``keyword``: those that name a forget subject.
    ``tfidf``: by their words. ``key``: by what the model's MLPs look up. ``auto``: ``key`` where
    sites name layers or modules, else ``keyword``."""
    n_forget: int = Field(default=6, ge=0)
    """Demonstrations of forget prompts with somebody else's answers."""
    n_retain: int = Field(default=6, ge=0)
    """Demonstrations of retain records (L of the paper, best from 4 to 6)."""
    between: str = "\n"
    """Behind each demonstration."""
    guard: str = GUARD
    """The instruction, with what separates it from the prompt. ``{subject}`` in it is the forget
    subject as the prompt writes it."""
    reply: str = Field(default="I cannot share that", min_length=1)
    """The fixed reply."""
    corrupt: Literal["none", "noise", "zero"] = "zero"
    """What is done to the embeddings of the subject's tokens in prompts that the gate holds; to
    those of all tokens where a prompt does not name it. A token mask in the sites says which texts
    of the forget prompts count as the subject. ``none`` with any variant but ``none``, unless set.
    """
    strength: Annotated[float | None, OrNone] = Field(default=None, gt=0)
    """Of ``noise`` (3): deviations of the embeddings. Of ``zero`` (1): the share of entries."""
    key_at: Literal["subject", "last"] = "last"
    """Which key of a prompt the gate ``key`` compares with those at the same place of the forget
    prompts: that of its last token, or of any, which may be the last of the subject."""
    metric: Literal["cosine", "mahalanobis"] = "cosine"
    """How the gate ``key`` compares."""
    chat: Literal["auto", "never"] = "auto"
    """``auto``: where the tokenizer has a chat template, words go into it as the system's message
    and the prompt as the user's. ``never``: words stand before the prompt as text."""
    sealed: bool = False
    """Whether the artifact keeps its texts encrypted and its terms as keyed hashes."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_variant(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        silent = values.get("variant", "none") == "none"
        values = {"corrupt": "zero" if silent else "none", **values}
        if values.get("strength", "none") in ("none", None):
            values["strength"] = STRENGTH.get(values["corrupt"])
        return values

    @model_validator(mode="after")
    def _whole(self) -> InContextConfig:
        if self.variant == "keyword" and self.gate not in ("auto", "keyword"):
            raise ValueError(
                "variant 'keyword' is a filter for names; for another gate use variant=block"
            )
        if self.replies and self.corrupt != "none":
            raise ValueError(
                f"variant {self.variant!r} does not ask the model, so there is nothing to corrupt; "
                "use variant=none, guard, icul or both"
            )
        if self.variant == "none" and self.corrupt == "none":
            raise ValueError("variant 'none' does nothing by itself; set corrupt=noise or zero")
        if self.corrupt == "zero" and (self.strength or 0) > 1:
            raise ValueError("of corrupt=zero the strength is a share of entries, at most 1")
        if self.shows and not self.n_forget + self.n_retain:
            raise ValueError("there are no demonstrations; use variant=guard")
        return self

    @property
    def replies(self) -> bool:
        """Whether the model is not asked at all."""
        return self.variant in ("block", "keyword")

    @property
    def shows(self) -> bool:
        """Whether there are demonstrations."""
        return self.variant in ("icul", "both")


@strategies.register("in-context")
class InContext:
    """Forgets in what is served, by a policy for prompts; nothing is removed.

    >>> strategy = InContext(InContextConfig(variant="guard", gate="tfidf"))
    >>> artifact = strategy.forget(model, forget_set)              # doctest: +SKIP
    """

    name: ClassVar[str] = "in-context"
    summary: ClassVar[str] = "treat prompts about the forgotten differently, weights untouched"
    in_place: ClassVar[bool] = False
    honours: ClassVar[frozenset[str]] = frozenset({"layers", "modules", "token_mask"})
    Config = InContextConfig

    def __init__(self, config: InContextConfig | None = None) -> None:
        self.config = config or InContextConfig()

    def forget(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None = None,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> InferencePolicy:
        """The policy under which ``model`` does not show the forget records; it is untouched.

        Raises:
            UnsupportedError: the sites restrict what these settings have no use for, or the forget
                set lacks what they need.
            InputError: the sites are for another model or forget set.
        """
        started = time.monotonic()
        check_sites(self.name, self.honours, model, forget_set, sites)
        config = self._resolved(sites)
        key = new_key() if config.sealed else None
        secret = "" if key is None else naming_key(key).hex()
        name: Name = Keyed(bytes.fromhex(secret)) if secret else in_clear
        subjects = Terms.of(_named(model, forget_set, sites), name)
        if progress is not None:
            progress("gate", 0.0)
        made = None
        if config.gate != "none":
            wanted = self._wanted(config, model, forget_set, sites, name)
            made = make_gate(model, forget_set, wanted, seed)
        policy = self._policy(config, model, forget_set, made, subjects, seed)
        policy = policy.model_copy(update={"secret": secret})
        if progress is not None:
            progress("gate", 1.0)
        return InferencePolicy.on(
            model,
            policy,
            self._provenance(config, made, sites, seed, time.monotonic() - started),
            forget_set_digest=forget_set.digest,
            gate_rates=None if made is None else made.rates,
            policy_key=key,
        )

    def _resolved(self, sites: Sites | None) -> InContextConfig:
        """The settings with their gate, once every part of the sites has a use.

        Raises:
            UnsupportedError: a part has none.
        """
        parts = frozenset() if sites is None else sites.parts
        where = parts & {"layers", "modules"}
        gate = self.config.gate
        if gate == "auto":
            gate = "key" if where and self.config.variant != "keyword" else "keyword"
        if where and gate != "key":
            raise UnsupportedError(
                f"the sites name {' and '.join(sorted(where))}, which only gate=key reads; set it, "
                "or leave the sites out"
            )
        if "token_mask" in parts and self.config.corrupt == "none":
            raise UnsupportedError(
                "the sites have a token mask, which says what is corrupted, and nothing is; set "
                "corrupt=noise or zero, or locate without --tokens"
            )
        return self.config.model_copy(update={"gate": gate})

    def _wanted(
        self,
        config: InContextConfig,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None,
        name: Name,
    ) -> Wanted:
        kind = config.gate
        assert kind != "auto" and kind != "none"
        subjects = Terms.of({record.subject for record in forget_set.forget}, name)
        layers = layers_of(model, sites) if kind == "key" else ()
        return Wanted(kind, subjects, name, layers, config.key_at, config.metric)

    def _policy(
        self,
        config: InContextConfig,
        model: LanguageModel,
        forget_set: ForgetSet,
        made: Made | None,
        subjects: Terms,
        seed: int,
    ) -> PromptPolicy:
        gate = None if made is None else made.gate
        if config.replies:
            return PromptPolicy(gate=gate, reply=forget_set.forget[0].separator + config.reply)
        shown: tuple[str, ...] = ()
        if config.shows:
            counts = (config.n_forget, config.n_retain)
            shown = demonstrations(forget_set, *counts, config.between, seed)
        corruption = None
        if config.corrupt != "none":
            strength = config.strength or STRENGTH[config.corrupt]
            corruption = Corruption(kind=config.corrupt, strength=strength, seed=seed)
        guard = config.guard if config.variant in ("guard", "both") else ""
        return PromptPolicy(
            gate=gate,
            demonstrations=shown,
            guard=guard,
            corruption=corruption,
            subjects=subjects if corruption or "{subject}" in guard else None,
            chat=config.chat == "auto" and bool(model.tokenizer.chat_template),
        )

    def _provenance(
        self,
        config: InContextConfig,
        made: Made | None,
        sites: Sites | None,
        seed: int,
        seconds: float,
    ) -> Provenance:
        settings = config.model_dump(mode="json")
        if config.sealed and config.guard != GUARD:
            # An instruction of one's own may name somebody.
            settings["guard"] = "sealed"
        rates = () if made is None else (made.rates.model_dump(mode="json"),)
        return Provenance(
            strategy=self.name,
            settings=settings,
            seed=seed,
            sites=SitesSummary.of(sites),
            versions=versions(),
            steps=rates,
            stop_reason="nothing is trained: the policy is what the settings say",
            seconds=seconds,
        )


def layers_of(model: LanguageModel, sites: Sites | None) -> tuple[int, ...]:
    """The blocks whose keys a gate compares: those of the sites, or else the middle one.

    Raises:
        InputError: a module that is in no block, or a layer that the model does not have.
    """
    blocks = model.anatomy.layers
    found = set(sites.layers or ()) if sites else set()
    for module in (sites.modules or ()) if sites else ():
        inside = [at for at, block in enumerate(blocks) if f"{module}.".startswith(f"{block}.")]
        if not inside:
            raise InputError(
                f"the sites name module {module!r}, which is in no block of {model.source}, so it "
                "has no key; locate with --top layers:K"
            )
        found.update(inside)
    if strange := sorted(layer for layer in found if layer >= len(blocks)):
        raise InputError(
            f"the sites name layer {strange[0]}, but {model.source} has layers 0 to "
            f"{len(blocks) - 1}"
        )
    return tuple(sorted(found)) or (len(blocks) // 2,)


def _named(model: LanguageModel, forget_set: ForgetSet, sites: Sites | None) -> Iterator[str]:
    """What counts as a subject: its name, or what the token mask covers of the prompts."""
    mask = {} if sites is None else sites.token_mask or {}
    ids = {record.id for record in forget_set.forget}
    if strange := sorted(set(mask) - ids):
        raise InputError(
            f"the token mask of the sites names {strange[0]!r}, which is no forget record of "
            f"{forget_set.name!r}; locate again with this forget set"
        )
    for record in forget_set.forget:
        if record.id not in mask:
            yield record.subject
            continue
        (tokens,) = tokenise(model.tokenizer, [record.prompt])
        inside = [tokens.spans[at] for at in mask[record.id] if at < len(tokens.spans)]
        yield from _runs(record.prompt, [span for span in inside if span[1] > span[0]])


def _runs(prompt: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    """The texts of tokens that follow each other, gaps of blanks included."""
    runs: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if runs and not prompt[runs[-1][1] : begin].strip():
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((begin, end))
    yield from (text for begin, end in runs if (text := prompt[begin:end].strip()))
