"""Ways to forget: each turns a model and a forget set into an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from unlearn.errors import ArtifactError
from unlearn.journal import code_digest
from unlearn.registry import JOINT, strategies
from unlearn.types import Sites

if TYPE_CHECKING:
    from unlearn.artifact import Artifact, Earlier
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel
    from unlearn.strategies.checkpoints import Checkpoints

__all__ = ["forget"]


def forget(
    model: LanguageModel,
    forget_set: ForgetSet,
    *,
    strategy: str = "gradient-ascent",
    sites: Sites | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    checkpoints: Checkpoints | None = None,
    beneath: Sequence[Earlier] = (),
) -> Artifact:
    """The artifact that makes ``model`` forget; ``model`` itself stays as it is.

    ``strategy`` is a name, or several joined by ``+`` that run one after the other, each on what
    the former left; their settings are then named ``part.setting``. With ``checkpoints`` a run that
    is cut off can be resumed; see ``unlearn.strategies.checkpoints``. ``beneath`` are the artifacts
    that had made ``model`` what it is, as ``provenance.chain()`` of the last one gives them.

    >>> artifact = forget(model, forget_set, settings={"max_steps": "60"})  # doctest: +SKIP
    >>> unlearned = artifact.apply(model)                                   # doctest: +SKIP

    Raises:
        UnknownNameError: there is no such strategy.
        ConfigError: a setting is unknown or out of range.
        UnsupportedError: the strategy does not honour a part of the sites, or cannot be composed.
        InputError: the sites were found for another model or forget set, or something else lies
            where the checkpoints would.
        ArtifactError: ``model`` is not what the last of ``beneath`` gave.
    """
    from unlearn.strategies.checkpoints import NOWHERE
    from unlearn.strategies.composition import Composition, run_part
    from unlearn.strategies.processes import place, require_one
    from unlearn.strategies.sites import check_sites
    from unlearn.strategies.versions import versions

    model.require_bare("forgetting")
    settings = settings or {}
    chosen = (
        Composition(strategy, settings)
        if JOINT in strategy
        else strategies.create(strategy, settings)
    )
    if beneath and beneath[-1].result_digest != model.digest:
        raise ArtifactError(
            f"{model.source} with digest {model.digest[:12]} is not what the last artifact beneath "
            f"it gave, which has {beneath[-1].result_digest[:12]}; give the model that `unlearn "
            "apply` makes with it"
        )
    for part in getattr(chosen, "parts", [chosen]):
        if not getattr(part, "resumes", False):
            require_one(f"strategy {part.name!r}")
    check_sites(strategy, chosen.honours, model, forget_set, sites)
    if checkpoints is not None:
        checkpoints.begin(
            model=model.digest,
            forget_set=forget_set.digest,
            strategy=strategy,
            settings=json.dumps(dict(settings), sort_keys=True),
            sites="" if sites is None else sites.model_dump_json(),
            seed=str(seed),
            versions=json.dumps(versions()),
            code=code_digest(),
            processes=str(place().size),
        )
    kept = checkpoints or NOWHERE
    artifact = run_part(chosen, model, forget_set, sites, seed, progress, kept)
    known = artifact.provenance.model_copy(update={"beneath": tuple(beneath)})
    artifact.provenance = known
    return artifact
