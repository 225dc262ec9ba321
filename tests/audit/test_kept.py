"""What was measured comes back from a store as it went in, and only all of it."""

from __future__ import annotations

import json
import math

from unlearn.audit.kept import Kept
from unlearn.probes.probe import UNBOUNDED, Curve, Measurement

MEASURED = [
    Measurement("answers", "forget", "Answers", {"r1": 1.0, "r2": 0.25}),
    Measurement(
        "loss",
        "holdout",
        "Loss",
        {"h1": 2.5},
        unit="nats",
        more_knowledge="lower",
        bounds=UNBOUNDED,
        contrast={"h2": -0.5},
        summary="auc",
        curve=Curve("layer", ((0.0, 0.5), (1.0, 0.75))),
    ),
]


class Lines:
    """A store that holds JSON, as a file would."""

    def __init__(self):
        self.lines = {}

    def get(self, key):
        return json.loads(self.lines[key]) if key in self.lines else None

    def add(self, key, value):
        self.lines[key] = json.dumps(value, allow_nan=False)


def test_measurements_come_back_as_they_were():
    store = Lines()
    Kept(store).add("model int4", {"a": MEASURED, "b": []}, "tokens")
    again = Kept(store)
    assert again.get("model int4", ["a", "b"]) == {"a": MEASURED, "b": []}
    assert again.tokens("model int4") == "tokens"
    assert again.get("model int4", ["a"])["a"][1].bounds == (-math.inf, math.inf)


def test_a_pass_that_lacks_a_probe_is_done_again():
    store = Lines()
    Kept(store).add("model", {"a": MEASURED}, "tokens")
    assert Kept(store).get("model", ["a", "b"]) is None
    assert Kept(store).get("other model", ["a"]) is None


def test_a_model_probe_keeps_its_figures_by_role():
    store = Lines()
    Kept(store).add_roles("u=1 r=2", "relearn", {"unlearned": MEASURED})
    assert Kept(store).get_roles("u=1 r=2", "relearn") == {"unlearned": MEASURED}
    assert Kept(store).get_roles("u=1 r=3", "relearn") is None


def test_without_a_store_nothing_is_kept():
    kept = Kept()
    kept.add("model", {"a": MEASURED}, "tokens")
    assert kept.get("model", ["a"]) is None
    assert kept.tokens("model") == "tokens"
