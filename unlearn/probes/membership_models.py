"""Membership attacks that need more than one model's token probabilities: a reference, gradients.

Signs and caveats as in ``membership``: a higher score looks more like a training member, an AUC of
0.5 tells nothing, and either side of it is a leak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from unlearn.errors import NumericalError, UnsupportedError
from unlearn.model.forward import differentiable
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import Job, Progress, TokenScores, encode_all, score
from unlearn.probes.membership import membership_figures
from unlearn.probes.probe import (
    Bench,
    Key,
    Measurement,
    ModelProbe,
    content,
    trained_statements,
)
from unlearn.registry import probes
from unlearn.types import Measured, Role, Statement


@probes.register("membership-reference")
class ReferenceAttack(ModelProbe):
    """AUC of ``mean token loss under the reference - under the model``. Above 0.5: trained on.

    Carlini et al. 2021 (arXiv 2012.07805), section 5.2, with a model of the same kind that never
    saw the records: what makes an answer easy for any model cancels. The reference itself scores 0
    everywhere, an AUC of 0.5. Fails where answers differ in how much there is to be gained: a name
    that is hard to guess gains more than a common word, and on the lab that tells members less well
    than the loss alone; and where the reference was trained otherwise, for any difference shows.
    """

    summary = "whether the model finds the answers to forget likelier than the reference does"
    honours = frozenset({"logprobs"})
    cost = "one forward pass of each model for each forget and holdout record"
    tier = "standard"
    property = "accuracy"
    needs = frozenset({"holdout", "reference"})
    requires = frozenset({"blind-baseline"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``membership_reference/forget``; nothing without a reference."""
        if "reference" not in bench.models:
            return {}
        asked = trained_statements(bench.material, "forget", "holdout")
        statements = list(asked.values())
        known = score(bench.models["reference"], statements)
        found: dict[Role, list[Measurement]] = {}
        for lm, roles in bench.by_digest().values():
            is_reference = "reference" in roles
            scored = known if is_reference else score(lm, statements, progress=bench.progress)
            gains = _gains(known, scored, roles[0])
            figures = membership_figures(
                "reference", "loss against the reference", _by_split(asked, gains)
            )
            found |= dict.fromkeys(roles, figures)
        return _ordered(bench, found)


@probes.register("membership-gradient-norm")
class GradientNormAttack(ModelProbe):
    """AUC of ``- norm of the gradient of the answer's mean token loss``. Above 0.5: trained on.

    The Euclidean norm of the gradient by all weights as one vector, dropout off, one record at a
    time: what was trained on has little left to pull at (Wang et al. 2024, arXiv 2402.17012, who
    average over tensors). Fails where forgetting made the model flat or steep there: gradient
    ascent leaves huge gradients, below 0.5, and refusals leave small ones.
    """

    summary = "whether the answers to forget pull less at the weights than unseen ones"
    honours = frozenset({"weights"})
    cost = "one forward and one backward pass for each forget and holdout record, one at a time"
    tier = "deep"
    property = "accuracy"
    needs = frozenset({"holdout"})
    requires = frozenset({"blind-baseline"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``membership_gradient_norm/forget`` and ``membership_gradient_norm_tpr/forget``."""
        asked = trained_statements(bench.material, "forget", "holdout")
        found: dict[Role, list[Measurement]] = {}
        for lm, roles in bench.by_digest().values():
            norms = gradient_norms(lm, list(asked.values()), progress=bench.progress)
            figures = membership_figures(
                "gradient_norm", "gradient norm", _by_split(asked, [-n for n in norms]), tpr=True
            )
            found |= dict.fromkeys(roles, figures)
        return _ordered(bench, found)


def gradient_norms(
    lm: LanguageModel, statements: Sequence[Statement], *, progress: Progress | None = None
) -> list[float]:
    """The Euclidean norm of the gradient of each answer's mean token loss by all weights.

    From 0 up, in nats per token and unit of weight. Weights, their gradients and the model's mode
    stay as they were. Holds one gradient, the size of the model, at a time. A text that occurs
    twice is computed once.

    Raises:
        InputError: a completion without tokens of its own, or a text longer than the context.
        NumericalError: a norm that is no finite number.
    """
    first_index: dict[tuple[str, str], int] = {}
    for index, statement in enumerate(statements):
        first_index.setdefault(content(statement), index)
    jobs = encode_all(lm, first_index)
    weights = [p for p in lm.model.parameters() if p.is_floating_point()]
    found: dict[int, float] = {}
    with differentiable(lm.model, weights):
        for job in jobs:
            found[job.statement] = _gradient_norm(lm, job, weights)
            if progress is not None:
                progress("gradients", len(found) / len(jobs))
    return [found[first_index[content(statement)]] for statement in statements]


def _gradient_norm(lm: LanguageModel, job: Job, weights: Sequence[torch.Tensor]) -> float:
    ids = torch.tensor([job.encoding.ids], device=lm.device)
    logits = lm.model(input_ids=ids, use_cache=False).logits
    start = job.encoding.start
    answer = ids[0, start:].to(logits.device)
    loss = torch.nn.functional.cross_entropy(logits[0, start - 1 : -1].float(), answer)
    # Not backward(): gradients that the weights already carry stay what they are.
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    squares = sum(float(g.double().square().sum()) for g in gradients if g is not None)
    if not np.isfinite(squares):
        raise NumericalError(
            f"statement {job.statement}: its gradient is not finite; the model's weights are "
            "broken, or its dtype is too narrow (try float32)"
        )
    return float(np.sqrt(squares))


def _gains(known: Sequence[TokenScores], scored: Sequence[TokenScores], role: Role) -> list[float]:
    """How much lower each loss is than under the reference."""
    if any(not np.array_equal(a.ids, b.ids) for a, b in zip(known, scored, strict=True)):
        raise UnsupportedError(
            f"the {role} model and the reference cut an answer into different tokens, so their "
            "losses cannot be compared; give a reference with the same tokenizer"
        )
    return [a.nll_per_token - b.nll_per_token for a, b in zip(known, scored, strict=True)]


def _by_split(
    asked: Mapping[Key, Statement], values: Sequence[float]
) -> dict[Measured, dict[str, float]]:
    found: dict[Measured, dict[str, float]] = {}
    for key, value in zip(asked, values, strict=True):
        found.setdefault(key.split, {})[key.record_id] = value
    return found


def _ordered(
    bench: Bench, found: Mapping[Role, list[Measurement]]
) -> dict[Role, list[Measurement]]:
    return {role: found[role] for role in bench.models}
