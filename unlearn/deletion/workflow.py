"""From a request to evidence: the only module that joins locate, strategies and audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from unlearn.audit import audit
from unlearn.locate import locate
from unlearn.registry import DEFAULT_LOCATOR, locators, parts_of, strategies
from unlearn.strategies import forget
from unlearn.types import AuditResult, Noun, SiteMap, Sites, StrengthPoint

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel

Progress = Callable[[str, float], None]


class AuditOptions(Noun):
    """How thorough the audit at the end is."""

    tier: Literal["smoke", "standard", "deep"] = "smoke"
    probes: tuple[str, ...] | None = None
    max_records: int | None = None
    examples: int = 0


class Outcome(NamedTuple):
    """What processing a request gave."""

    sites: Sites | None
    """Where the update was allowed to act; ``None`` where it was not restricted."""
    artifact: Artifact
    result: AuditResult


@dataclass(frozen=True)
class Run:
    """What every step of one run shares."""

    request: str
    """The id that audits name."""
    reference: LanguageModel | None = None
    seed: int = 0
    options: AuditOptions = field(default_factory=AuditOptions)
    progress: Progress | None = None


def process(
    model: LanguageModel,
    forget_set: ForgetSet,
    run: Run,
    *,
    strategy: str = "gradient-ascent",
    locator: str | None = DEFAULT_LOCATOR,
    settings: Mapping[str, str] | None = None,
) -> Outcome:
    """What forgetting produced and what the audit says of it: locate, forget, audit.

    ``model`` stays as it is. Without a ``locator`` the strategy may act anywhere. ``settings`` are
    the strategy's.
    """
    sites, artifact = make(
        model, forget_set, run, strategy=strategy, locator=locator, settings=settings
    )
    return Outcome(sites, artifact, judge(artifact, artifact.apply(model), model, forget_set, run))


def make(
    model: LanguageModel,
    forget_set: ForgetSet,
    run: Run,
    *,
    strategy: str,
    locator: str | None,
    settings: Mapping[str, str] | None = None,
) -> tuple[Sites | None, Artifact]:
    """Where the update may act, and what forgetting there produced; no audit."""
    sites = None
    if locator is not None:
        sites = locate(model, forget_set, method=locator, seed=run.seed, progress=run.progress)
    artifact = forget(
        model,
        forget_set,
        strategy=strategy,
        sites=sites,
        settings=settings,
        seed=run.seed,
        progress=run.progress,
    )
    return sites, artifact


def judge(
    artifact: Artifact,
    unlearned: LanguageModel,
    original: LanguageModel,
    forget_set: ForgetSet,
    run: Run,
) -> AuditResult:
    """The audit of what an artifact made of a model, with how it came to be and its limits."""
    result = audit(
        unlearned,
        forget_set,
        original=original,
        reference=run.reference,
        seed=run.seed,
        provenance={"request": run.request, **provenance_of(artifact)},
        efficiency=cost_of(artifact),
        sites=sites_of(artifact),
        strengths=strengths_of(artifact),
        progress=run.progress,
        **run.options.model_dump(),
    )
    if artifact.limits:
        result = result.model_copy(update={"limits": (*artifact.limits, *result.limits)})
    return result


def look_at(model: LanguageModel, forget_set: ForgetSet, run: Run) -> AuditResult:
    """The smoke audit of a model as it is: what it knows before anything is done, or still."""
    options = run.options.model_copy(update={"tier": "smoke"})
    return audit(
        model,
        forget_set,
        original=model,
        reference=run.reference,
        seed=run.seed,
        provenance={"request": run.request},
        progress=run.progress,
        **options.model_dump(),
    )


def fitting(locator: str, strategy: str) -> str | None:
    """The locator, if the strategy honours every part of the sites it finds; else ``None``."""
    found = locators.get(locator).honours
    obeyed = all(found <= strategies.get(part).honours for part in parts_of(strategy))
    return locator if obeyed else None


def provenance_of(artifact: Artifact) -> dict[str, str]:
    """How an artifact came to be, in the few words that an audit carries."""
    provenance = artifact.provenance
    sites = provenance.sites
    settings = ", ".join(f"{key}={value}" for key, value in provenance.settings.items())
    words = {
        "artifact": f"{artifact.kind}, threat model {artifact.threat_model}",
        "strategy": provenance.strategy,
        "settings": settings,
        "seed": str(provenance.seed),
        "sites": "no restriction" if sites is None else f"{sites.method}: {', '.join(sites.parts)}",
        "stopped": provenance.stop_reason,
        "base": provenance.base_source,
        "base digest": provenance.base_digest,
        "result digest": provenance.result_digest,
    }
    return {key: value for key, value in words.items() if value}


def sites_of(artifact: Artifact) -> SiteMap | None:
    """Where an artifact's change was allowed to act; ``None`` where it was not restricted."""
    sites = artifact.provenance.sites
    if sites is None:
        return None
    return SiteMap(
        method=sites.method, scores=sites.scores, modules=sites.modules, layers=sites.layers
    )


def strengths_of(artifact: Artifact) -> tuple[StrengthPoint, ...]:
    """The multiples of the change that were looked at; none for artifacts without a sweep."""
    found = []
    for point in artifact.provenance.sweep:
        strength, matched, lost = (point.get(key) for key in ("strength", "matched", "retain_nll"))
        # Without a retain split nobody knows what a multiple costs.
        if isinstance(strength, float) and isinstance(matched, float) and isinstance(lost, float):
            kept = strength == artifact.provenance.strength
            found.append(
                StrengthPoint(
                    strength=strength, still_known=1 - matched, retain_nll=lost, kept=kept
                )
            )
    return tuple(found)


def cost_of(artifact: Artifact) -> dict[str, float]:
    """What forgetting cost, by name and unit: the efficiency of an audit."""
    provenance = artifact.provenance
    cost = {
        "seconds": provenance.seconds,
        "gradient tokens": float(provenance.tokens),
        "logged steps": float(len(provenance.steps)),
    }
    return {name: value for name, value in cost.items() if value}
