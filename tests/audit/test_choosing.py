"""Which probes run: the tier's, as far as access, models and splits go."""

from __future__ import annotations

import pytest

from unlearn import registry
from unlearn.audit.choosing import choose, of_tier
from unlearn.errors import ConfigError, UnknownNameError, UnsupportedError
from unlearn.probes.probe import TIERS, RecordProbe

ROLES = ("original", "unlearned", "reference")
SPLITS = dict.fromkeys(("forget", "retain", "neighbors", "holdout"), ())


def pick(tier="smoke", names=None, access="weights", roles=ROLES, material=SPLITS):
    return choose(tier, names, access=access, roles=roles, material=material)


@pytest.fixture
def invented(monkeypatch):
    """Two more probes: one that looks at records only, and one that cannot be read without it."""
    registry.probes.names()
    monkeypatch.setattr(registry.probes, "_classes", dict(registry.probes._classes))

    def make(name, **fields):
        kind = type(
            name.title(),
            (RecordProbe,),
            {
                "__doc__": "Invented.",
                "summary": "invented",
                "cost": "nothing",
                "property": "accuracy",
                "honours": frozenset({"none"}),
                "tier": "smoke",
                "measure": lambda self, material, seed: [],
                **fields,
            },
        )
        return registry.probes.register(name)(kind)

    make("first")
    make("second", requires=frozenset({"first"}), needs=frozenset({"reference", "holdout"}))
    return make


def test_each_tier_runs_the_probes_of_those_before_it():
    offered = [set(of_tier(tier)) for tier in TIERS]
    assert offered[0] <= offered[1] <= offered[2]
    assert "answers" in offered[0]


def test_without_names_every_probe_that_can_run_is_run():
    chosen = pick()
    brought = {"benchmark-tasks"}
    assert set(chosen.probes) == set(of_tier("smoke")) - set(chosen.left_out) - brought
    assert not brought & set(chosen.left_out)


def test_names_pick_and_the_rest_is_said_not_to_be_asked_for():
    chosen = pick(names=["answers"])
    assert set(chosen.probes) == {"answers"}
    assert chosen.left_out["probability"] == "it was not asked for"


def test_a_picked_probe_brings_what_it_cannot_be_read_without(invented):
    assert set(pick(names=["second"]).probes) == {"first", "second"}


def test_a_missing_model_or_split_is_named(invented):
    chosen = pick(roles=("unlearned",))
    assert chosen.left_out["second"] == "it needs the reference model, which was not given"
    bare = {"forget": ()}
    assert "holdout split" in pick(material=bare).left_out["second"]


def test_access_that_is_too_little_is_named():
    with pytest.raises(UnsupportedError, match="needs logprobs, and the models give no more than"):
        pick(names=["answers"], access="text")


def test_a_probe_that_needs_no_model_runs_on_any_access(invented):
    assert "first" in pick(names=["first"], access="text").probes


def test_a_probe_of_a_later_tier_is_refused(invented):
    invented("third", tier="deep")
    with pytest.raises(UnsupportedError, match="'third' is not part of the tier 'smoke'"):
        pick(names=["third"])


def test_no_name_and_an_unknown_name_are_refused():
    with pytest.raises(ConfigError):
        pick(names=[])
    with pytest.raises(UnknownNameError):
        pick(names=["nothing"])
