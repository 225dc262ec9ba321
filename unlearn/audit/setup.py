"""What an audit measures on what: models by role, records by split, probes, precisions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unlearn.audit.choosing import Chosen, choose
from unlearn.audit.subject import Subject, access_to
from unlearn.errors import ConfigError
from unlearn.forget_set import ForgetSet
from unlearn.journal import code_digest
from unlearn.probes.benchmarks import tasks_of
from unlearn.probes.harness import BenchmarkTask
from unlearn.probes.probe import TIERS, Access, Material, Tier
from unlearn.types import SPLITS, Measured, Record, Role
from unlearn.verdicts.criteria import Criterion, criteria_of

MAX_RECORDS: Mapping[Tier, int] = {"smoke": 400, "standard": 400, "deep": 1000}
"""The most records of a split that a tier measures unless told otherwise; forget is never cut.

400 are fifty subjects of eight records: without a loss 46 of them pass on a margin of 2 points."""

PRECISIONS: Mapping[Tier, tuple[str, ...]] = {
    "smoke": (),
    "standard": ("bf16", "int8", "int4"),
    "deep": ("bf16", "int8", "int4"),
}
"""At which precisions a tier measures again unless told otherwise."""


class Setup(NamedTuple):
    """What an audit measures on what; two audits with equal setups give equal figures."""

    models: Mapping[Role, Any]
    material: Material
    tier: Tier
    chosen: Chosen
    precisions: tuple[str, ...]
    seed: int

    def belongs_to(self, forget_set: ForgetSet) -> str:
        """A digest of all that figures hold for beside the models: code, records and seed."""
        digest = hashlib.sha256(f"{code_digest()} {forget_set.digest} {self.seed}".encode())
        for split, records in self.material.items():
            for record in records:
                digest.update(f"{split} {record.id}".encode())
                if split not in SPLITS:
                    digest.update(record.text.encode())
        return digest.hexdigest()

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """The claims that are judged."""
        judged = [task.judged for task in tasks_of(self.material) if task.judged]
        return criteria_of(self.tier, self.precisions, judged)


def setup_of(
    models: Mapping[Role, Subject],
    forget_set: ForgetSet,
    *,
    tier: str = "smoke",
    probes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    general: Sequence[Record] = (),
    tasks: Sequence[BenchmarkTask] = (),
    max_records: int | None = None,
    seed: int = 0,
) -> Setup:
    """What ``audit`` measures with these arguments; see there."""
    if tier not in TIERS:
        raise ConfigError(f"there is no tier {tier!r}; known: {', '.join(TIERS)}")
    cap = MAX_RECORDS[tier] if max_records is None else max_records
    check_count("max_records", cap, 1)
    material = _material(forget_set, cap, general, tasks, seed)
    access = access_to(models.values())
    instructed = any(getattr(lm, "policy", None) for lm in models.values())
    chosen = choose(
        tier, probes, access=access, roles=models, material=material, instructed=instructed
    )
    wanted = PRECISIONS[tier] if precisions is None else tuple(dict.fromkeys(precisions))
    return Setup(models, material, tier, chosen, _possible(wanted, models, access), seed)


def _possible(
    wanted: tuple[str, ...], models: Mapping[Role, Subject], access: Access
) -> tuple[str, ...]:
    """The precisions that copies can be made at, and that are not the models' own."""
    if access != "weights":
        return ()
    if all(str(lm.dtype) == "torch.bfloat16" for lm in models.values()):
        return tuple(precision for precision in wanted if precision != "bf16")
    return wanted


def by_role(
    original: Subject | None, unlearned: Subject, reference: Subject | None
) -> dict[Role, Subject]:
    """The models that were given, by role."""
    roles: dict[Role, Subject | None] = {
        "original": original,
        "unlearned": unlearned,
        "reference": reference,
    }
    return {role: lm for role, lm in roles.items() if lm is not None}


def check_count(name: str, value: int, least: int) -> None:
    """Raise ConfigError for a number below ``least``."""
    if value < least:
        raise ConfigError(f"{name} is {value}; it must be {least} or more")


def _material(
    forget_set: ForgetSet,
    cap: int,
    general: Sequence[Record],
    tasks: Sequence[BenchmarkTask],
    seed: int,
) -> Material:
    """The records to measure; the forget split is never cut, and every task is cut by itself."""
    material: dict[Measured, tuple[Record, ...]] = {"forget": forget_set.forget}
    for split in SPLITS[1:]:
        if forget_set.split(split):
            material[split] = forget_set.sample(split, cap, seed)
    if general:
        material["general"] = tuple(general[:cap])
    if tasks:
        material["tasks"] = tuple(one for task in tasks for one in task.documents(cap, seed))
    return material
