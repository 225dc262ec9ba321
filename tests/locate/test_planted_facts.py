"""Facts planted in one group of modules are found there; the benchmark has all groups."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from planted_facts import plant, recall

from unlearn.locate.sites import candidates


@pytest.fixture(scope="module")
def planted():
    found = plant("6.mlp", seed=2)
    assert found.learned > 0.9 and found.kept > 0.9
    return found


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("attribution", {"max_records": "16"}),
        ("causal-trace", {"window": "1", "max_records": "16", "retain_records": "16"}),
        ("intervention", {}),
    ],
)
def test_what_was_trained_into_one_mlp_is_found_there(planted, method, settings):
    chance = len(planted.truth) / len(candidates(planted.model))
    assert chance < 0.06
    assert recall(planted, method, settings, seed=0) > 0.5


def test_random_modules_are_those_by_chance(planted):
    found = [recall(planted, "random", {}, seed=seed) for seed in range(60)]
    assert 0.01 < sum(found) / len(found) < 0.12
