"""One audit from start to end: which records, one pass of each model, figures, verdicts, limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

import numpy as np

import unlearn
from unlearn import registry
from unlearn.audit.figures import findings_of
from unlearn.audit.limits import limits_of
from unlearn.audit.verdicts import Case, judge, label_of
from unlearn.errors import ConfigError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model import scoring
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import (
    Key,
    LikelihoodProbe,
    Material,
    Measurement,
    Tier,
    content,
    fact_of,
)
from unlearn.types import (
    SPLITS,
    AuditedModel,
    AuditedSet,
    AuditResult,
    Example,
    Finding,
    Measured,
    Record,
    Role,
    Split,
    Statement,
)

Progress = Callable[[str, float], None]
Text = tuple[str, str]

MAX_RECORDS: Mapping[str, int] = {"smoke": 400}
"""The most records of a split that a tier measures unless told otherwise; forget is never cut.

400 are fifty subjects of eight records: without a loss 46 of them pass on a margin of 2 points."""

EXAMPLE_TOKENS = 24


def audit(
    model: LanguageModel,
    forget_set: ForgetSet,
    *,
    original: LanguageModel | None = None,
    reference: LanguageModel | None = None,
    tier: str = "smoke",
    probes: Sequence[str] | None = None,
    seed: int = 0,
    max_records: int | None = None,
    provenance: Mapping[str, str] | None = None,
    examples: int = 0,
    progress: Progress | None = None,
) -> AuditResult:
    """What a model still knows of a forget set and what it lost, with a verdict for each claim.

    Args:
        model: the audited model; no model is changed.
        forget_set: what had to go, and what had to stay.
        original: the model before forgetting. Without it nothing is said of what was to stay.
        reference: a model that never saw the forget records. Without it no claim of forgetting
            passes.
        tier: how thorough; ``smoke`` is offered.
        probes: only these of the tier's probes. Claims that need the others are NOT RUN.
        seed: of intervals, of the records drawn, and of the examples. Same seed, same result, but
            for ``created`` and ``seconds``.
        max_records: the most records of each split but forget, whole subjects drawn at random.
        provenance: how the audited model came to be.
        examples: how many forget prompts, and half as many neighbouring ones, to show with what
            each model says. They hold the data of the request.
        progress: told what is going on and the fraction done.

    Raises:
        UnsupportedError: a tier without probes, or models that cannot be compared.
        UnknownNameError: a probe that does not exist.
        ConfigError: a number out of range.
        NumericalError: a model gives NaN or infinity.
    """
    started = time.monotonic()
    if examples < 0:
        raise ConfigError(f"examples is {examples}; it must be 0 or more")
    chosen = _choose(tier, probes)
    material = _material(forget_set, _cap(tier, max_records), seed)
    models = _by_role(original, model, reference)
    findings = _measure(chosen, models, material, seed, progress)
    by_key = {finding.key: finding for finding in findings}
    digests = {role: lm.digest for role, lm in models.items()}
    case = Case(by_key, material, digests, frozenset(chosen), seed)
    judgement = judge(case)
    audited = {role: _audited(lm) for role, lm in models.items()}
    return AuditResult(
        tool_version=unlearn.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tier=cast(Tier, tier),
        seed=seed,
        seconds=round(time.monotonic() - started, 3),
        models=audited,
        forget_set=_audited_set(forget_set, material),
        findings=tuple(findings),
        claims=judgement.claims,
        verdict=judgement.verdict,
        label=label_of(judgement.claims, case),
        limits=limits_of(case, forget_set, audited["unlearned"], frozenset(_choose(tier, None))),
        provenance=dict(provenance or {}),
        examples=tuple(_examples(models, material, examples, seed)),
    )


def _choose(tier: str, names: Sequence[str] | None) -> dict[str, LikelihoodProbe]:
    """The tier's probes by name, or those of them that were asked for."""
    known = {name: registry.probes.get(name) for name in registry.probes.names()}
    offered = sorted({probe.tier for probe in known.values()})
    if tier not in offered:
        raise UnsupportedError(
            f"the tier {tier!r} is not offered yet: no probe belongs to it. "
            f"Offered: {', '.join(offered)}"
        )
    if names is not None and not names:
        raise ConfigError("probes is empty; name at least one, or leave it out to run them all")
    wanted = known if names is None else {name: registry.probes.get(name) for name in names}
    strange = [name for name, probe in wanted.items() if tier != probe.tier]
    if names is not None and strange:
        raise UnsupportedError(f"the probe {strange[0]!r} is not part of the tier {tier!r}")
    return {name: probe() for name, probe in sorted(wanted.items()) if tier == probe.tier}


def _cap(tier: str, max_records: int | None) -> int | None:
    if max_records is not None and max_records < 1:
        raise ConfigError(f"max_records is {max_records}; it must be at least 1")
    return MAX_RECORDS.get(tier) if max_records is None else max_records


def _material(forget_set: ForgetSet, cap: int | None, seed: int) -> Material:
    """The records to measure; the forget split is never cut."""
    material: dict[Measured, tuple[Record, ...]] = {"forget": forget_set.forget}
    for split in SPLITS[1:]:
        records = forget_set.split(split)
        if records:
            material[split] = records if cap is None else forget_set.sample(split, cap, seed)
    return material


def _by_role(
    original: LanguageModel | None, unlearned: LanguageModel, reference: LanguageModel | None
) -> dict[Role, LanguageModel]:
    roles: dict[Role, LanguageModel | None] = {
        "original": original,
        "unlearned": unlearned,
        "reference": reference,
    }
    return {role: lm for role, lm in roles.items() if lm is not None}


def _measure(
    probes: Mapping[str, LikelihoodProbe],
    models: Mapping[Role, LanguageModel],
    material: Material,
    seed: int,
    progress: Progress | None,
) -> list[Finding]:
    """Every probe's findings, from one pass of each model over what all probes ask for."""
    asked = {name: probe.statements(material) for name, probe in probes.items()}
    distinct = {content(s): s for statements in asked.values() for s in statements.values()}
    if not distinct:
        raise UnsupportedError(
            f"the forget set {_listed(material)} has nothing for the probes {', '.join(probes)}"
        )
    scored = _score(models, distinct, progress)
    findings: list[Finding] = []
    for name, probe in probes.items():
        measured: dict[Role, list[Measurement]] = {
            role: probe.measure(_share(asked[name], scores), material)
            for role, scores in scored.items()
        }
        findings += findings_of(probe, measured, material, seed)
    return findings


def _score(
    models: Mapping[Role, LanguageModel],
    distinct: Mapping[Text, Statement],
    progress: Progress | None,
) -> dict[Role, dict[Text, TokenScores]]:
    """Each model's scores of each text; a model with two roles is scored once."""
    by_digest: dict[str, dict[Text, TokenScores]] = {}
    statements = list(distinct.values())
    for done, (role, lm) in enumerate(models.items()):
        if lm.digest not in by_digest:
            told = _told(progress, role, done, len(models))
            fresh = scoring.score(lm, statements, progress=told)
            by_digest[lm.digest] = dict(zip(distinct, fresh, strict=True))
    scored = {role: by_digest[lm.digest] for role, lm in models.items()}
    for role, scores in scored.items():
        _check_comparable(role, scores, scored["unlearned"])
    return scored


def _told(progress: Progress | None, role: Role, done: int, n: int) -> Progress | None:
    if progress is None:
        return None
    return lambda _, fraction: progress(f"score the {role}", (done + fraction) / n)


def _check_comparable(
    role: Role, scores: Mapping[Text, TokenScores], audited: Mapping[Text, TokenScores]
) -> None:
    """Refuse models that cut the answers into other tokens: figures per token would not compare."""
    for text, score in scores.items():
        if not np.array_equal(score.ids, audited[text].ids):
            raise UnsupportedError(
                f"the {role} has another tokenizer than the audited model: it cuts an answer into "
                "other tokens, so their figures cannot be compared; give models that share one"
            )


def _share(
    asked: Mapping[Key, Statement], scores: Mapping[Text, TokenScores]
) -> dict[Key, TokenScores]:
    return {key: scores[content(statement)] for key, statement in asked.items()}


def _listed(material: Material) -> str:
    return f"({', '.join(material)})"


def _audited(lm: LanguageModel) -> AuditedModel:
    return AuditedModel(
        source=lm.source,
        digest=lm.digest,
        dtype=str(lm.dtype).removeprefix("torch."),
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


def _examples(
    models: Mapping[Role, LanguageModel], material: Material, n: int, seed: int
) -> list[Example]:
    """What each model says, greedily, to ``n`` forget prompts and ``n // 2`` neighbouring ones."""
    shown: list[tuple[Split, Record]] = []
    wanted: tuple[tuple[Split, int], ...] = (("forget", n), ("neighbors", n // 2))
    for split, count in wanted:
        shown += [(split, record) for record in _drawn(material.get(split, ()), count, seed)]
    if not shown:
        return []
    prompts = [record.prompt for _, record in shown]
    texts: dict[str, list[list[str]]] = {}
    for lm in models.values():
        if lm.digest not in texts:
            texts[lm.digest] = scoring.generate(lm, prompts, max_new_tokens=EXAMPLE_TOKENS)
    return [
        Example(
            record_id=record.id,
            split=split,
            prompt=record.prompt,
            expected=record.answer,
            outputs={role: texts[lm.digest][i][0] for role, lm in models.items()},
        )
        for i, (split, record) in enumerate(shown)
    ]


def _drawn(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """``count`` records at random, about different facts as far as there are any, in file order."""
    order = np.random.default_rng(seed).permutation(len(records))
    facts = set()
    first: list[int] = []
    repeated: list[int] = []
    for index in order.tolist():
        fresh = fact_of(records[index]) not in facts
        (first if fresh else repeated).append(index)
        facts.add(fact_of(records[index]))
    return [records[index] for index in sorted((first + repeated)[:count])]
