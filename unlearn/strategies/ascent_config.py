"""The settings of gradient ascent and its successors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unlearn.strategies.training import OrNone, TrainingConfig

Variant = Literal[
    "npo",
    "simnpo",
    "altpo",
    "ascent",
    "grad-diff",
    "wga",
    "inverted-hinge",
    "max-entropy",
    "rmu",
]

BETA: dict[Variant, float] = {"npo": 0.1, "altpo": 0.1, "simnpo": 2.5, "wga": 1.0}
"""NPO's beta multiplies a token's score or the sum over an answer, that of ``altpo`` such a sum,
SimNPO's a mean; that of ``wga`` is a power of the probability."""

_STEEP = {"guess_names": 0, "learning_rate": 1e-3, "retain_weight": 1.0, "near_weight": 1.0}
DEFAULTS: dict[str, dict[str, Any]] = {
    "simnpo": _STEEP,
    "grad-diff": _STEEP,
    "inverted-hinge": _STEEP,
    "altpo": _STEEP,
    "wga": _STEEP,
    "max-entropy": _STEEP,
    "ascent": {"guess_names": 0, "retain": "none"},
    "rmu": {
        "guess_names": 0,
        "learning_rate": 1e-3,
        "retain": "states",
        "retain_weight": 10.0,
        "near_per_forget": 0,
    },
}
"""Settings that differ from those of ``npo``. The slope of most is near 0 where p is
near 1: with the weights of ``npo``, ``simnpo`` leaves half of one lab person's answers known."""

LORA_RATE = 10.0
"""Times the learning rate of full training: that of a LoRA, unless told."""


class GradientAscentConfig(TrainingConfig):
    """Settings of gradient ascent.

    >>> GradientAscentConfig(variant="ascent").retain
    'none'
    """

    variant: Variant = "npo"
    """``npo``: negative preference optimisation. ``simnpo``: the same without a reference.
    ``ascent``: raise the NLL, nothing else. ``grad-diff``: that plus a retain term.
    ``altpo``: prefer another answer. ``wga``: ascent that fades with the probability.
    ``inverted-hinge``: only as far as the runner-up token. ``max-entropy``: towards every token
    being as likely as any other. ``rmu``: inner states are led to a random place, see
    ``unlearn.strategies.rmu``. Each has defaults of its own for
    learning rate and weights."""
    beta: Annotated[float | None, OrNone] = Field(default=None, gt=0)
    """``none`` for the variant's own: 0.1 for ``npo`` and ``altpo``, 2.5 for ``simnpo``, 1 for
    ``wga``."""
    per: Literal["token", "answer"] = "token"
    """What ``npo`` bounds: each known token by itself, or the sum over the answer as in the paper.
    Bounding the sum lets one token that has become impossible protect the rest of the answer."""
    on: Literal["log-odds", "log-prob"] = "log-odds"
    """What ``npo`` pushes down. The log-probability of the paper has no slope where p is 1."""
    gamma: float = 0.0
    """The margin of ``simnpo``."""
    layer: Annotated[int | None, OrNone] = Field(default=None, ge=0)
    """The block whose states ``rmu`` steers, from 0; by default a quarter of the way up."""
    steering: float = Field(default=2.0, gt=0)
    """How far ``rmu`` leads them, in root mean squares of the original's states."""
    cap: float = Field(default=20.0, gt=0)
    """Nats per token beyond which ``ascent`` and ``grad-diff`` leave a record alone."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_variant(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own = DEFAULTS.get(values.get("variant", "npo"), {})
        if values.get("train") == "lora":
            full = own.get("learning_rate", cls.model_fields["learning_rate"].default)
            own = {**own, "learning_rate": LORA_RATE * full}
        return {**own, **values}

    @model_validator(mode="after")
    def _retain_fits_the_variant(self) -> GradientAscentConfig:
        if self.variant == "ascent" and self.retain != "none":
            raise ValueError("variant 'ascent' has no retain term; use variant=grad-diff")
        if self.variant == "grad-diff" and self.retain == "none":
            raise ValueError("variant 'grad-diff' has a retain term; use variant=ascent")
        if self.variant == "rmu" and self.retain not in ("states", "none"):
            raise ValueError("variant 'rmu' holds inner states; set retain=states or none")
        if self.variant == "rmu" and self.near_per_forget:
            raise ValueError("variant 'rmu' holds no near names; set near_per_forget=0")
        if self.variant != "rmu" and self.retain == "states":
            raise ValueError("retain=states is for variant 'rmu'; set nll, kl, constraint or none")
        return self
