"""Runs strategies on one forget set and audits each result; what is done is kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

import unlearn
from unlearn.artifact import Artifact
from unlearn.audit import audit
from unlearn.bench.equivalence import PROBES, equivalence
from unlearn.bench.memory import Peak
from unlearn.deletion.workflow import cost_of, provenance_of
from unlearn.errors import UnlearnError
from unlearn.forget_set import ForgetSet
from unlearn.journal import Journal, code_digest
from unlearn.locate import locate
from unlearn.model.language_model import LanguageModel
from unlearn.registry import locators
from unlearn.strategies import forget
from unlearn.types import Noun, Role, Sites

Progress = Callable[[str, float], None]

EVERYWHERE = "all"
"""The name of no restriction."""


class Entry(Noun):
    """One way to forget."""

    strategy: str
    settings: Mapping[str, str] = {}
    sites: str = EVERYWHERE
    """``all``, or the locator that finds the sites."""
    seed: int = 0

    def __str__(self) -> str:
        """What a table calls it, without its seed."""
        told = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return self.strategy + (f":{told}" if told else "")

    @property
    def file_name(self) -> str:
        """A name for its files that holds nothing a file system could mind."""
        told = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]
        return f"{self.strategy}-{self.sites}-{self.seed}-{told}"


class Outcome(Noun):
    """What one entry came to. ``refused`` says why there are no figures."""

    entry: Entry
    given: str
    """A digest of models, records and code: what the figures hold for."""
    refused: str = ""
    verdict: str = ""
    label: str = ""
    kind: str = ""
    equivalence: float | None = None
    worst: str = ""
    shares: Mapping[str, float] = {}
    figures: Mapping[str, Mapping[str, float]] = {}
    """Finding to role to figure."""
    curves: Mapping[str, Mapping[Role, tuple[tuple[float, float], ...]]] = {}
    """Finding to role to the points of its curve, where it has one."""
    seconds: float = 0.0
    tokens: int = 0
    strength: float = 1.0
    peak_mib: float = 0.0
    """Most memory that forgetting took beyond the loaded model, as the process saw it."""
    stop_reason: str = ""


class Table(NamedTuple):
    """The sources of everything that is compared."""

    model: str
    forget_set: ForgetSet
    reference: str
    folder: Path
    dtype: str = "float32"
    device: str = "cpu"

    def load(self, source: str) -> LanguageModel:
        """A model by name."""
        return unlearn.load(source, dtype=self.dtype, device=self.device)


def contest(
    table: Table, entries: Sequence[Entry], progress: Progress | None = None
) -> Iterator[Outcome]:
    """The outcome of each entry, in order; those in the folder already are not run again.

    Every strategy runs in a process of its own, so that one does not pay for what another left in
    memory. All results are audited with the same probes, and what original and reference say is
    measured once.
    """
    original, reference = table.load(table.model), table.load(table.reference)
    told = [original.digest, reference.digest, table.forget_set.digest, code_digest(), *PROBES]
    given = hashlib.sha256(" ".join(told).encode()).hexdigest()
    (table.folder / "outcomes").mkdir(parents=True, exist_ok=True)
    journal = Journal(table.folder / "measured.jsonl", given, kind="bench")
    for number, entry in enumerate(entries):
        if progress is not None:
            progress(f"{entry}, sites {entry.sites}, seed {entry.seed}", number / len(entries))
        file = table.folder / "outcomes" / f"{entry.file_name}.json"
        outcome = _kept(file, entry, given)
        if outcome is None:
            outcome = _outcome(table, entry, original, reference, journal, given)
            file.write_text(outcome.model_dump_json(indent=1) + "\n", encoding="utf-8")
        yield outcome
    journal.remove()


def _kept(file: Path, entry: Entry, given: str) -> Outcome | None:
    """What the folder holds, if it still holds for these models, records and code."""
    try:
        outcome = Outcome.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    return outcome if (outcome.entry, outcome.given) == (entry, given) else None


def _outcome(
    table: Table,
    entry: Entry,
    original: LanguageModel,
    reference: LanguageModel,
    journal: Journal,
    given: str,
) -> Outcome:
    folder = table.folder / "artifacts" / entry.file_name
    try:
        sites = _sites(entry, original, table.forget_set)
        peak = _in_a_process(forget_into, table, entry, sites, folder)
        artifact = Artifact.load(folder)
        result = audit(
            artifact.apply(original),
            table.forget_set,
            original=original,
            reference=reference,
            tier="deep",
            probes=PROBES,
            precisions=("int8", "int4"),
            provenance=provenance_of(artifact),
            efficiency=cost_of(artifact),
            journal=journal,
        )
    except UnlearnError as error:
        return Outcome(entry=entry, given=given, refused=str(error))
    found, provenance = equivalence(result), artifact.provenance
    return Outcome(
        entry=entry,
        given=given,
        verdict=result.verdict,
        label=result.label,
        kind=artifact.kind,
        equivalence=None if found is None else found.value,
        worst="" if found is None else found.worst,
        shares={} if found is None else found.shares,
        figures={
            finding.key: {role: estimate.value for role, estimate in finding.models.items()}
            for finding in result.findings
        },
        curves={f.key: f.curves for f in result.findings if f.curves},
        seconds=provenance.seconds,
        tokens=provenance.tokens,
        strength=provenance.strength,
        peak_mib=peak,
        stop_reason=provenance.stop_reason,
    )


def _sites(entry: Entry, model: LanguageModel, forget_set: ForgetSet) -> Sites | None:
    if entry.sites == EVERYWHERE:
        return None
    locators.get(entry.sites)
    return locate(model, forget_set, method=entry.sites, seed=entry.seed)


def _in_a_process(work: Callable[..., float], *given: Any) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def forget_into(table: Table, entry: Entry, sites: Sites | None, folder: Path) -> float:
    """Writes the entry's artifact, and returns the MiB that forgetting took beyond the model."""
    model = table.load(table.model)
    with Peak() as peak:
        artifact = forget(
            model,
            table.forget_set,
            strategy=entry.strategy,
            sites=sites,
            settings=entry.settings,
            seed=entry.seed,
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    artifact.save(folder)
    return peak.mib


def read_outcomes(folder: Path) -> list[Outcome]:
    """All that a folder holds, by name."""
    files = sorted((folder / "outcomes").glob("*.json"))
    return [Outcome.model_validate(json.loads(file.read_bytes())) for file in files]
