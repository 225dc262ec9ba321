"""One audit from start to end: what is measured on what, figures, verdicts, label, limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import unlearn
from unlearn.audit.examples import examples_of
from unlearn.audit.kept import Kept
from unlearn.audit.runner import Job, run
from unlearn.audit.setup import Setup, by_role, check_count, setup_of
from unlearn.audit.subject import Subject
from unlearn.errors import ConfigError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.journal import Journal
from unlearn.model.language_model import LanguageModel
from unlearn.model.precision import share_below_half_step
from unlearn.probes.harness import BenchmarkTask
from unlearn.probes.probe import Material
from unlearn.types import (
    AuditedModel,
    AuditedSet,
    AuditResult,
    Calibration,
    Finding,
    Record,
    SiteMap,
    StrengthPoint,
)
from unlearn.verdicts.assurance import label_of, ladder
from unlearn.verdicts.case import Case
from unlearn.verdicts.claims import judge
from unlearn.verdicts.criteria import Criterion
from unlearn.verdicts.figures import findings_of
from unlearn.verdicts.limits import limits_of

Progress = Callable[[str, float], None]


def audit(
    model: Subject,
    forget_set: ForgetSet,
    *,
    original: Subject | None = None,
    reference: Subject | None = None,
    tier: str = "smoke",
    probes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    general: Sequence[Record] = (),
    tasks: Sequence[BenchmarkTask] = (),
    calibration: Calibration | None = None,
    seed: int = 0,
    max_records: int | None = None,
    provenance: Mapping[str, str] | None = None,
    efficiency: Mapping[str, float] | None = None,
    sites: SiteMap | None = None,
    strengths: Sequence[StrengthPoint] = (),
    examples: int = 0,
    journal: Path | Journal | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """What a model still knows of a forget set and what it lost, with a verdict for each claim.

    Args:
        model: the audited model, or an endpoint that serves it; no model is changed.
        forget_set: what had to go, and what had to stay.
        original: the model before forgetting. Without it nothing is said of what was to stay.
        reference: a model that never saw the forget records. Without it no claim of forgetting
            passes.
        tier: ``smoke``: likelihoods of given texts. ``standard``: also sampling, elicitation,
            membership, low precision, agreement. ``deep``: also relearning and hidden states.
        probes: only these of the tier's probes, and what they require. Claims that need the others
            are NOT RUN.
        precisions: at which the probes of texts are run again: ``bf16``, ``int8``, ``int4``. By
            default all from the standard tier on.
        general: text that has nothing to do with the forget set, as records.
        tasks: benchmark tasks from ``unlearn.probes.harness.read_tasks``. ``max_records`` holds for
            each.
        calibration: margins from never-trained models, in place of the standing ones.
        seed: of intervals, of the records and texts drawn, and of attacks. Same seed, same result,
            but for ``created`` and ``seconds``.
        max_records: the most records of each split but forget, whole subjects drawn at random.
        provenance: how the audited model came to be.
        efficiency: what forgetting cost.
        sites: where the change was allowed to act.
        strengths: what other multiples of the change would have forgotten and cost.
        examples: how many forget prompts, and half as many neighbouring ones, to show with what
            each model says. They hold the data of the request.
        journal: a file for what is done, so that an interrupted audit goes on from there; removed
            at the end. It holds figures and record ids, no text. Audits of several models with
            equal arguments may share an open ``Journal``, which stays: then what they have in
            common is measured once.
        progress: told what is going on and the fraction done.

    Raises:
        UnsupportedError: models that cannot be compared, or nothing to measure.
        UnknownNameError: a probe that does not exist.
        ConfigError: a number out of range, or a calibration of another forget set.
        NumericalError: a model gives NaN or infinity.
    """
    started = time.monotonic()
    check_count("examples", examples, 0)
    setup = setup_of(
        by_role(original, model, reference),
        forget_set,
        tier=tier,
        probes=probes,
        precisions=precisions,
        general=general,
        tasks=tasks,
        max_records=max_records,
        seed=seed,
    )
    margins = _margins(calibration, forget_set)
    kept = _journal(journal, setup.belongs_to(forget_set))
    case = case_of(setup, measure(setup, Kept(kept), progress), margins)
    result = AuditResult(
        **_judged(case, setup.criteria),
        tool_version=unlearn.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tier=setup.tier,
        seed=seed,
        seconds=round(time.monotonic() - started, 3),
        models={role: _audited(lm) for role, lm in setup.models.items()},
        forget_set=_audited_set(forget_set, setup.material),
        findings=tuple(case.findings.values()),
        limits=limits_of(case, forget_set, setup.tier, setup.precisions, _dtype(model)),
        below_half_step=_below_half_step(setup),
        calibration=calibration,
        efficiency=dict(efficiency or {}),
        sites=sites,
        strengths=tuple(strengths),
        provenance=dict(provenance or {}),
        examples=tuple(examples_of(setup.models, setup.material, examples, seed)),
    )
    if kept is not journal:
        kept.remove()
    return result


def _journal(given: Path | Journal | None, belongs_to: str) -> Journal:
    return given if isinstance(given, Journal) else Journal(given, belongs_to, kind="audit")


def measure(
    setup: Setup, kept: Kept | None = None, progress: Progress | None = None
) -> list[Finding]:
    """Every finding of a setup."""
    job = Job(
        setup.chosen.probes,
        setup.models,
        setup.material,
        setup.precisions,
        setup.seed,
        kept or Kept(),
        progress,
    )
    findings: list[Finding] = []
    for probe, condition, figures in run(job):
        findings += findings_of(probe, figures, setup.material, setup.seed, condition)
    return findings


def _below_half_step(setup: Setup) -> dict[str, float]:
    """How much of the change a precision does not resolve; see ``share_below_half_step``."""
    before, after = (setup.models.get(role) for role in ("original", "unlearned"))
    if not (isinstance(before, LanguageModel) and isinstance(after, LanguageModel)):
        return {}
    found: dict[str, float] = {}
    for precision in setup.precisions:
        with suppress(UnsupportedError):
            shares = share_below_half_step(before, after, precision)
            found |= {precision: shares[""].share} if shares else {}
    return found


def _judged(case: Case, criteria: Sequence[Criterion]) -> dict[str, Any]:
    """Claims, verdict, label and ladder."""
    claims, verdict = judge(case, criteria)
    return {
        "claims": claims,
        "verdict": verdict,
        "label": label_of(claims, case, criteria),
        "assurance": ladder(claims, case, criteria),
    }


def case_of(setup: Setup, findings: Iterable[Finding], margins: Mapping[str, float]) -> Case:
    """What verdicts rest on."""
    return Case(
        {finding.key: finding for finding in findings},
        setup.material,
        {role: lm.digest for role, lm in setup.models.items()},
        frozenset(setup.chosen.probes),
        setup.seed,
        setup.chosen.left_out,
        served_only=bool(getattr(setup.models["unlearned"], "policy", None)),
        margins=margins,
    )


def _margins(calibration: Calibration | None, forget_set: ForgetSet) -> Mapping[str, float]:
    if calibration is None:
        return {}
    if calibration.forget_set_digest != forget_set.digest:
        raise ConfigError(
            "the calibration belongs to another forget set "
            f"({calibration.forget_set_digest[:12]}, not {forget_set.digest[:12]}); "
            "calibrate on this one"
        )
    return calibration.margins


def _audited(lm: Any) -> AuditedModel:
    return AuditedModel(
        source=lm.source,
        digest=lm.digest,
        dtype=_dtype(lm),
        parameters=lm.n_parameters,
    )


def _audited_set(forget_set: ForgetSet, material: Material) -> AuditedSet:
    return AuditedSet(
        name=forget_set.name,
        digest=forget_set.digest,
        records={split: len(records) for split, records in material.items()},
        subjects={
            split: len({record.subject for record in records})
            for split, records in material.items()
        },
    )


def _dtype(lm: Any) -> str:
    return str(lm.dtype).removeprefix("torch.")
