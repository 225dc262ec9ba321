"""Which probes an audit runs: those of its tier that models, records and access allow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from unlearn import registry
from unlearn.errors import ConfigError, UnsupportedError
from unlearn.probes.probe import ACCESS, TIERS, Access, Material, ModelProbe, Probe, Tier
from unlearn.types import Role


class Chosen(NamedTuple):
    """The probes to run, and why others of the tier are not."""

    probes: dict[str, Probe]
    """By name, in the order of names."""
    left_out: dict[str, str]
    """Name to the reason, as the rest of a sentence that begins "The probe was not run: "."""


BROUGHT = frozenset({"tasks"})
"""What no forget set holds and only some users bring: who brought none misses no probe of it."""


def choose(
    tier: Tier,
    names: Sequence[str] | None,
    *,
    access: Access,
    roles: Collection[Role],
    material: Material,
    instructed: bool = False,
) -> Chosen:
    """The probes of a tier and those before it, or those of them that were asked for.

    ``instructed`` says that a model is served with an instruction before each prompt.

    Raises:
        ConfigError: no name at all.
        UnknownNameError: a probe that does not exist.
        UnsupportedError: a probe of a later tier.
    """
    offered = of_tier(tier)
    wanted = set(offered) if names is None else _picked(tier, names)
    probes, left_out = {}, {}
    for name, kind in offered.items():
        if names is None and BROUGHT & kind.needs - set(material):
            continue
        if name not in wanted:
            left_out[name] = "it was not asked for"
        elif lacking := _lacking(kind, access, roles, material):
            left_out[name] = lacking
        elif instructed and issubclass(kind, ModelProbe) and kind.bare_only:
            left_out[name] = "it cannot put a model's instruction before the prompts it makes"
        else:
            probes[name] = kind()
    if not probes:
        name, why = next((n, w) for n, w in left_out.items() if n in wanted)
        raise UnsupportedError(f"no probe is left to run; of {name}: {why}")
    return Chosen(probes, left_out)


def of_tier(tier: Tier) -> dict[str, type[Probe]]:
    """The probes of a tier and of those before it, by name."""
    ranks = TIERS.index(tier)
    known = {name: registry.probes.get(name) for name in sorted(registry.probes.names())}
    return {name: kind for name, kind in known.items() if TIERS.index(kind.tier) <= ranks}


def _picked(tier: Tier, names: Sequence[str]) -> set[str]:
    """The named probes, and those without which their figures cannot be read."""
    if not names:
        raise ConfigError("probes is empty; name at least one, or leave it out to run them all")
    picked: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        kind = registry.probes.get(name)
        if TIERS.index(kind.tier) > TIERS.index(tier):
            raise UnsupportedError(
                f"the probe {name!r} is not part of the tier {tier!r}; it needs {kind.tier!r}"
            )
        if name not in picked:
            picked.add(name)
            waiting += kind.requires
    return picked


def _lacking(kind: type[Probe], access: Access, roles: Collection[Role], material: Material) -> str:
    """What a probe would need and does not have; empty where nothing is lacking."""
    if issubclass(kind, ModelProbe) and access != "weights":
        return f"it works on models that are here, and they give no more than {access}"
    beyond = [a for a in kind.honours if a != "none" and ACCESS.index(a) > ACCESS.index(access)]
    if beyond:
        return f"it needs {beyond[0]}, and the models give no more than {access}"
    missing = sorted(kind.needs - set(roles) - set(material))
    if missing:
        what = missing[0]
        if what == "tasks":
            return "no benchmark tasks were given"
        kind_of = "model" if what in ("original", "reference") else "split"
        return f"it needs the {what} {kind_of}, which was not given"
    return ""
