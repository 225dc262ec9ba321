"""Attribution patching as a locator: a causal trace estimated from gradients, for a first look."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import Field

from unlearn.locate.causal_trace import CausalTrace
from unlearn.locate.fact_tracer import CausalTraceConfig
from unlearn.model.attribution import Attributor
from unlearn.model.language_model import LanguageModel
from unlearn.registry import locators


class AttributionConfig(CausalTraceConfig):
    """Settings of attribution patching: those of causal tracing, and ``refine``."""

    window: int = Field(default=1, ge=1)
    """How many neighbouring MLPs, or attentions, a cell restores. A wider one is estimated by the
    sum of its members, which counts twice what one brings back through the next."""
    refine: int = Field(default=0, ge=0)
    """How many cells of each record, those with the largest estimates, are traced exactly."""


@locators.register("attribution")
class Attribution(CausalTrace):
    """Estimates the effects of a causal trace from one backward pass a corrupted prompt.

    A screen: the effect of a cell is the slope of the score at the corrupted run times the distance
    to the clean state (Nanda 2023). Scores, sites and their caveats are those of ``causal-trace``.

    Known failure: where the corrupted run sits on a plateau, of a softmax or of a norm, the slope
    says little about the way to the clean state; the total of early layers is underestimated.
    Guo et al. 2025 find its sites the worst of all supports for unlearning.

    >>> Attribution(AttributionConfig(refine=20)).trace(model, forget_set)     # doctest: +SKIP
    """

    name: ClassVar[str] = "attribution"
    summary: ClassVar[str] = "the causal trace estimated from gradients: a screen"
    method: ClassVar[Literal["causal-trace", "attribution"]] = "attribution"
    Config: ClassVar[type[CausalTraceConfig]] = AttributionConfig

    config: AttributionConfig

    def __init__(
        self,
        config: AttributionConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config or AttributionConfig(), clock)

    def engine(self, model: LanguageModel) -> Attributor:
        """What estimates the cells."""
        return Attributor(
            model.model,
            model.anatomy,
            refine=self.config.refine,
            max_rows=self.config.max_rows,
        )
