"""What an audit of an endpoint will ask for, before it asks."""

from __future__ import annotations

from typing import Any

from unlearn.audit.runner import Job, work_of
from unlearn.audit.setup import setup_of
from unlearn.forget_set import ForgetSet
from unlearn.model.endpoint import Endpoint
from unlearn.model.rate_limit import Cost


def cost_of_audit(model: Any, forget_set: ForgetSet, **choices: Any) -> Cost | None:
    """The cost of an endpoint's share of an audit; None where the model is here.

    ``choices`` are the arguments of ``setup_of``. What needs another model or more access is not
    counted, as it will not be asked.
    """
    if not isinstance(model, Endpoint):
        return None
    setup = setup_of({"unlearned": model}, forget_set, **choices)
    work = work_of(Job(setup.chosen.probes, setup.models, setup.material))
    return model.estimate(work.requests, work.prompt_characters, work.new_tokens)
