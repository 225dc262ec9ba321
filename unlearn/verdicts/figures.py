"""From record-by-record measurements to findings: figures with intervals over subjects."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from unlearn.errors import NumericalError
from unlearn.probes.probe import Material, Measurement, Probe, fact_of
from unlearn.statistics.clusters import Interval, Sample, mean_interval
from unlearn.statistics.ranking import auc_interval, tpr_interval
from unlearn.types import MEASURED, Estimate, Finding, Measured, Record, Role

Fact = tuple[str, str]

LOW_FPR = 0.01
"""The false-positive rate of ``tpr`` figures."""


class Clusters(NamedTuple):
    """What is resampled, and the label of each record."""

    kind: Literal["subjects", "facts", "records"]
    labels: list[str] | list[Fact]


def clusters_of(records: Sequence[Record]) -> Clusters:
    """The subjects of the records; their facts where there is one subject; else the records."""
    subjects = [record.subject for record in records]
    if len(set(subjects)) > 1:
        return Clusters("subjects", subjects)
    facts = [fact_of(record) for record in records]
    if len(set(facts)) > 1:
        return Clusters("facts", facts)
    return Clusters("records", [record.id for record in records])


def sample_of(values: Mapping[str, float], records: Iterable[Record]) -> Sample:
    """The values of the records that have one, in their order, with their clusters."""
    measured = [record for record in records if record.id in values]
    return Sample([values[record.id] for record in measured], clusters_of(measured).labels)


def findings_of(
    probe: Probe,
    measured: Mapping[Role, Sequence[Measurement]],
    material: Material,
    seed: int,
    condition: str = "",
) -> list[Finding]:
    """The probe's figures with their intervals, one finding for each figure and split.

    A split with a single record of a figure without upper bound is left out: nothing bounds how far
    such a mean may be off. So is a comparison with a holdout that has no value.

    Raises:
        NumericalError: a figure is NaN or infinite; the message names model, figure and record.
    """
    by_figure: dict[tuple[str, Measured], dict[Role, Measurement]] = {}
    for role, measurements in measured.items():
        for one in measurements:
            by_figure.setdefault((one.metric, one.split), {})[role] = one
    found = [
        _finding(probe, by_role, material, seed, condition)
        for by_role in by_figure.values()
        if all(_has_interval(one) for one in by_role.values())
    ]
    return sorted(found, key=lambda finding: MEASURED.index(finding.split))


def key_of(metric: str, split: Measured, condition: str = "") -> str:
    """What a finding is called: ``metric/split`` or ``metric/split@condition``."""
    return f"{metric}/{split}" + (f"@{condition}" if condition else "")


def seed_of(seed: int, key: str) -> int:
    """A seed of its own for each figure, so that one probe more or less changes no other figure."""
    return zlib.crc32(f"{seed} {key}".encode())


def _has_interval(measurement: Measurement) -> bool:
    if measurement.summary != "mean":
        return bool(measurement.values) and bool(measurement.contrast)
    return len(measurement.values) > 1 or (
        bool(measurement.values) and bool(np.isfinite(measurement.bounds[1]))
    )


def _finding(
    probe: Probe,
    by_role: Mapping[Role, Measurement],
    material: Material,
    seed: int,
    condition: str,
) -> Finding:
    first = next(iter(by_role.values()))
    key = key_of(first.metric, first.split, condition)
    records = [r for r in material[first.split] if any(r.id in m.values for m in by_role.values())]
    curves = {role: one.curve for role, one in by_role.items() if one.curve is not None}
    return Finding(
        key=key,
        probe=probe.name,
        metric=first.metric,
        split=first.split,
        condition=condition,
        title=first.title,
        property=probe.property,
        unit=first.unit,
        more_knowledge=first.more_knowledge,
        summary=first.summary,
        models={
            role: _estimate(role, key, one, material, seed_of(seed, key))
            for role, one in by_role.items()
        },
        records={
            role: {r.id: one.values[r.id] for r in records if r.id in one.values}
            for role, one in by_role.items()
        },
        contrast={role: one.contrast for role, one in by_role.items() if one.contrast},
        axis=next((curve.axis for curve in curves.values()), ""),
        curves={role: curve.points for role, curve in curves.items()},
    )


def _estimate(
    role: Role, key: str, measurement: Measurement, material: Material, seed: int
) -> Estimate:
    _check_finite(role, key, measurement)
    records = [r for r in material[measurement.split] if r.id in measurement.values]
    sample = sample_of(measurement.values, records)
    interval = _interval(sample, measurement, material, records, seed)
    return Estimate(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=len(sample.figures),
        clusters=sample.n_clusters,
    )


def _interval(
    sample: Sample,
    measurement: Measurement,
    material: Material,
    records: Sequence[Record],
    seed: int,
) -> Interval:
    facts = len({fact_of(record) for record in records})
    if measurement.summary == "mean":
        return mean_interval(sample, seed=seed, bounds=measurement.bounds, n_units=facts)
    contrast = sample_of(measurement.contrast or {}, material["holdout"])
    if measurement.summary == "auc":
        return auc_interval(sample, contrast, n_units=facts)
    return tpr_interval(sample, contrast, LOW_FPR, seed=seed, n_units=facts)


def _check_finite(role: Role, key: str, measurement: Measurement) -> None:
    for record_id, value in _all_values(measurement):
        if not np.isfinite(value):
            raise NumericalError(f"{key} of the {role} model is {value} for record {record_id!r}")


def _all_values(measurement: Measurement) -> Iterator[tuple[str, float]]:
    yield from measurement.values.items()
    yield from (measurement.contrast or {}).items()
