"""Margins from models that never saw the records: how far apart seeds alone bring their figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from unlearn.audit.auditor import Progress, case_of, measure
from unlearn.audit.kept import Kept
from unlearn.audit.setup import Setup, setup_of
from unlearn.errors import ConfigError, InputError
from unlearn.forget_set import ForgetSet
from unlearn.journal import Journal
from unlearn.model.language_model import LanguageModel
from unlearn.probes.harness import BenchmarkTask
from unlearn.types import Calibration, Record, Role, first_problem
from unlearn.verdicts.case import Case
from unlearn.verdicts.comparing import harm_of
from unlearn.verdicts.criteria import Comparison
from unlearn.verdicts.scales import CONFIDENCE, Scale

CEILING = 2.5
"""A margin is at most this many times the standing one, however far the references differ: beyond,
hardly any leak would be found, and the figure is named as one that does not tell."""

SHARE_CEILING = 0.4
"""Nor is the margin of a share ever more than this."""

DECIMALS = 2
"""Margins are rounded up to whole points."""


class Reach(NamedTuple):
    """How far from zero the interval of a difference reaches."""

    comparison: Comparison
    high: float


def calibrate(
    references: Sequence[LanguageModel],
    forget_set: ForgetSet,
    *,
    original: LanguageModel | None = None,
    tier: str = "standard",
    precisions: Sequence[str] | None = None,
    general: Sequence[Record] = (),
    tasks: Sequence[BenchmarkTask] = (),
    max_records: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """The margins within which models that never saw the records differ from one another.

    Each pair of references is audited as if one of them had forgotten. A margin is the farthest end
    of the 90 % intervals of a figure's difference over all pairs, so it holds for forget sets with
    as many subjects and for models trained alike. What was to stay is compared with ``original``,
    or with the other reference where none is given.

    Args:
        references: two or more models that never saw the forget records, from different seeds.
        forget_set: the one that is audited with these margins.
        original: the model before forgetting.
        tier: whose figures get margins.
        precisions: as in ``audit``.
        general: as in ``audit``.
        tasks: as in ``audit``.
        max_records: as in ``audit``.
        seed: as in ``audit``.
        progress: told what is going on and the fraction done.

    Raises:
        ConfigError: fewer than two different references.
        InputError: the original is one of them.
    """
    distinct = _distinct(references, original)
    pairs = list(combinations(distinct.values(), 2))
    # In memory, so that a model that is part of several pairs is read once.
    kept = Kept(Journal(None, "", kind="calibration"))
    reaches: list[Reach] = []
    for number, (first, second) in enumerate(pairs):
        setup = setup_of(
            {"original": original or second, "unlearned": first, "reference": second},
            forget_set,
            tier=tier,
            precisions=precisions,
            general=general,
            tasks=tasks,
            max_records=max_records,
            seed=seed,
        )
        told = _told(progress, number, len(pairs))
        reaches += _reaches(setup, case_of(setup, measure(setup, kept, told), {}))
    high: dict[str, float] = {}
    for figure, reach in ((r.comparison.figure, r.high) for r in reaches):
        high[figure] = max(reach, high.get(figure, 0.0))
    compared = {r.comparison.figure: r.comparison for r in reaches}
    return Calibration(
        forget_set_digest=forget_set.digest,
        tier=setup.tier,
        references=tuple(distinct),
        pairs=len(pairs),
        margins={figure: _margin(compared[figure], reach) for figure, reach in high.items()},
        capped=tuple(f for f, reach in high.items() if reach > _ceiling(compared[f])),
    )


def _distinct(
    references: Sequence[LanguageModel], original: LanguageModel | None
) -> dict[str, LanguageModel]:
    distinct = {lm.digest: lm for lm in references}
    if len(distinct) < 2:
        raise ConfigError(
            f"{len(distinct)} reference is too few to calibrate with; give two or more models that "
            "never saw the records, trained from different seeds"
        )
    if original is not None and original.digest in distinct:
        raise InputError("the original is among the references; it saw the records")
    return distinct


def _reaches(setup: Setup, case: Case) -> Iterator[Reach]:
    for criterion in setup.criteria:
        for comparison in criterion.comparisons:
            if comparison.scale is Scale.OVERSHOT or comparison.key not in case.findings:
                continue
            if not {"unlearned", criterion.against} <= _roles(comparison, case):
                continue
            interval = harm_of(comparison, criterion.against, case).interval_at(CONFIDENCE)
            ends = (abs(interval.low), abs(interval.high))
            if all(math.isfinite(end) for end in ends):
                yield Reach(comparison, max(ends))


def _roles(comparison: Comparison, case: Case) -> set[Role]:
    """The models that have figures; how far apart two are is a figure of one of them."""
    roles = set(case.findings[comparison.key].models)
    return roles | {"reference"} if comparison.scale is Scale.APART else roles


def _margin(comparison: Comparison, high: float) -> float:
    points = 10**DECIMALS
    rounded = math.ceil(high * points) / points
    return float(min(max(comparison.limit, rounded), _ceiling(comparison)))


def _ceiling(comparison: Comparison) -> float:
    ceiling: float = CEILING * comparison.limit
    if comparison.scale.in_points:
        return float(max(comparison.limit, min(ceiling, SHARE_CEILING)))
    return ceiling


def _told(progress: Progress | None, number: int, n: int) -> Progress | None:
    if progress is None:
        return None
    return lambda what, fraction: progress(
        f"pair {number + 1} of {n}: {what}", (number + fraction) / n
    )


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file that ``unlearn audit --calibrate`` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; `unlearn audit --calibrate` writes one")
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = first_problem(error, Calibration)
        raise InputError(
            f"{path} is not a calibration: {problem}; `unlearn audit --calibrate` writes one"
        ) from error
