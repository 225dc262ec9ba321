"""What a model card says of an audit: a section for people, evaluation results for the hub.

The form is that of https://huggingface.co/docs/hub/model-cards: Markdown with a YAML head whose
``model-index`` holds the figures. A card is public: it has what a regulator gets, but no request.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from unlearn.errors import InputError
from unlearn.report import wording
from unlearn.report.checking import summary
from unlearn.report.markdown import listed, table, text
from unlearn.report.page import page
from unlearn.report.readers import seen_by
from unlearn.report.signature import Signature
from unlearn.types import AuditResult, Finding

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

BEGIN, END = "<!-- unlearn audit: begin -->", "<!-- unlearn audit: end -->"
_SECTION = re.compile(f"{BEGIN}.*?{END}", re.DOTALL)
DATASET = "unlearn-audit"
"""The type of the data set of every figure: records of a request, which are not on the hub."""
NAME = "unlearned"
SHOWN_CHARACTERS = 500
"""Of any one text."""
TAG = "machine-unlearning"
UNSEEN = (
    "The records that were to be forgotten are not published. What the audit does not show is part "
    "of the result:"
)


def model_card(
    result: AuditResult,
    signature: Signature | None = None,
    *,
    base_model: str | None = None,
    before: str = "",
) -> str:
    """The text of a card; of one there is already, all but its section about an audit stays.

    Args:
        result: of the audit of this very model.
        signature: of that audit.
        base_model: id on the hub of the model before; None where it is on no hub.
        before: the card there is.

    Raises:
        InputError: the head of ``before`` is no YAML.
    """
    card = _card(before)
    result = seen_by("regulator", result, SHOWN_CHARACTERS)
    data = cast("ModelCardData", card.data)
    others = [one for one in data.eval_results or [] if one.dataset_type != DATASET]
    data.eval_results = others + list(_results(result))
    data.model_name = data.model_name or NAME
    data.base_model = data.base_model or base_model
    data.tags = list(dict.fromkeys([*(data.tags or []), TAG]))
    section = f"{BEGIN}\n{_section(result, signature)}\n{END}"
    if _SECTION.search(card.text):
        card.text = _SECTION.sub(lambda _: section, card.text, count=1)
    else:
        start = card.text.rstrip() or "\n# A model that was made to forget"
        card.text = f"{start}\n\n{section}\n"
    return str(card.content)


def _card(before: str) -> ModelCard:
    import yaml
    from huggingface_hub import ModelCard

    head = "" if before.startswith("---") else "---\n{}\n---\n"
    try:
        return ModelCard(head + before)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            "the README.md that is there has a head that is no model card's; mend or remove it"
        ) from error


def _results(result: AuditResult) -> Iterator[EvalResult]:
    for finding in result.findings:
        estimate = finding.models.get("unlearned")
        if estimate is not None and math.isfinite(estimate.value):
            yield _result(finding)


def _result(finding: Finding) -> EvalResult:
    from huggingface_hub import EvalResult

    estimate = finding.models["unlearned"]
    more: dict[str, float] = {"n": estimate.n}
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        more |= {"low": estimate.low, "high": estimate.high}
    return EvalResult(
        task_type="text-generation",
        dataset_type=DATASET,
        dataset_name=wording.SPLITS[finding.split][0],
        dataset_split=finding.split,
        dataset_config=wording.visible(finding.condition) or None,
        metric_type=wording.visible(finding.metric),
        metric_name=wording.visible(finding.title),
        metric_value=estimate.value,
        metric_args=more,
    )


def _section(result: AuditResult, signature: Signature | None) -> str:
    shown = page(result, "regulator", signature)
    said = wording.VERDICTS[shown.verdict]
    claims = ((text(one.statement), f"{one.verdict}") for one in shown.judgements)
    blocks = (
        "## Unlearning audit",
        f"**{said.symbol} {shown.verdict}**: {text(shown.headline)}",
        text(shown.outcome),
        text(
            f"Audited on {wording.day(result.created)} with unlearn {result.tool_version}, tier "
            f"{result.tier}; digest of the model {shown.digest}; {summary(signature)}."
        ),
        table(("Claim", "Verdict"), claims),
        text(UNSEEN),
        *listed(shown.limits + wording.STANDING_LIMITS),
    )
    return "\n\n".join(blocks)
