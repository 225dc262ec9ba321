"""`benchmarks/step.py` still runs: a step of each strategy, and of a plain loop over the same."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "step.py"))


@pytest.mark.parametrize("name", SCRIPT["STRATEGIES"])
def test_a_step_of_ours_and_of_a_plain_loop(
    name: str, model: LanguageModel, forget_set: ForgetSet
) -> None:
    records = replace(forget_set, retain=forget_set.retain[:6])
    near = list(encode(model, forget_set.neighbors))
    bench = SCRIPT["Bench"](SCRIPT["STRATEGIES"][name], model, records, near, 2)
    assert bench.trained() > 0 and bench.bare() > 0
