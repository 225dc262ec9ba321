"""From record-by-record measurements to findings: means over records, intervals over subjects."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from unlearn.errors import NumericalError
from unlearn.probes.probe import Material, Measurement, Probe, fact_of
from unlearn.statistics.clusters import Sample, mean_interval
from unlearn.types import MEASURED, Estimate, Finding, Record, Role

Fact = tuple[str, str]


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


def findings_of(
    probe: Probe, measured: Mapping[Role, Sequence[Measurement]], material: Material, seed: int
) -> list[Finding]:
    """The probe's figures with their intervals, one finding for each split it measured.

    A split with a single record of a figure without upper bound is left out: nothing bounds how far
    such a mean may be off.

    Raises:
        NumericalError: a figure is NaN or infinite; the message names model, figure and record.
    """
    found = []
    per_figure = zip(*measured.values(), strict=True)
    for figures in per_figure:
        by_role = dict(zip(measured, figures, strict=True))
        first = figures[0]
        if len(first.values) < 2 and not np.isfinite(first.bounds[1]):
            continue
        found.append(_finding(probe, by_role, material[first.split], seed))
    return sorted(found, key=lambda finding: MEASURED.index(finding.split))


def _finding(
    probe: Probe, by_role: Mapping[Role, Measurement], records: Iterable[Record], seed: int
) -> Finding:
    first = next(iter(by_role.values()))
    key = f"{first.metric}/{first.split}"
    measured = [record for record in records if record.id in first.values]
    return Finding(
        key=key,
        probe=probe.name,
        metric=first.metric,
        split=first.split,
        title=first.title,
        property=probe.property,
        unit=first.unit,
        more_knowledge=first.more_knowledge,
        models={
            role: _estimate(role, key, measurement, measured, seed_of(seed, key))
            for role, measurement in by_role.items()
        },
        records={
            role: {record.id: measurement.values[record.id] for record in measured}
            for role, measurement in by_role.items()
        },
    )


def _estimate(
    role: Role, key: str, measurement: Measurement, records: Sequence[Record], seed: int
) -> Estimate:
    values = [measurement.values[record.id] for record in records]
    for record, value in zip(records, values, strict=True):
        if not np.isfinite(value):
            raise NumericalError(f"{key} of the {role} model is {value} for record {record.id!r}")
    sample = Sample(values, clusters_of(records).labels)
    facts = len({fact_of(record) for record in records})
    value, low, high = mean_interval(sample, seed=seed, bounds=measurement.bounds, n_units=facts)
    return Estimate(value=value, low=low, high=high, n=len(values), clusters=sample.n_clusters)


def seed_of(seed: int, key: str) -> int:
    """A seed of its own for each figure, so that one probe more or less changes no other figure."""
    return zlib.crc32(f"{seed} {key}".encode())
