"""From words of a command line to what is audited: a model, an artifact's, or a URL's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import say
from unlearn.cli.inputs import is_artifact, read_artifact, read_base, read_model
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.forget_set import ForgetSet
    from unlearn.types import SiteMap, StrengthPoint

OWN_SET = "this forget set"


class Audited(NamedTuple):
    """The model to measure, the one it came from, and how."""

    model: Any
    original: Any
    provenance: Mapping[str, str]
    efficiency: Mapping[str, float]
    strengths: tuple[StrengthPoint, ...] = ()
    sites: SiteMap | None = None
    limits: tuple[str, ...] = ()
    """What cannot be told of how the model came to be, for the limits of the report."""


class Serving(NamedTuple):
    """How endpoints are asked."""

    requests_per_minute: float
    prices: tuple[float, float] | None


def read_audited(
    source: str,
    original: str | None,
    records: ForgetSet,
    options: opt.Options,
    serving: Serving,
) -> Audited:
    """What the source stands for, with the model before forgetting as far as it is known."""
    if not is_artifact(source):
        before = None if original is None else read_subject(original, options, serving)
        audited = read_subject(source, options, serving)
        return Audited(audited, before, _recorded(Path(source)), {})
    artifact = read_artifact(source)
    if original is None:
        base = read_base(artifact, source, options)
    else:
        base = read_model(original, options)
    from unlearn.deletion.workflow import cost_of, provenance_of, sites_of, strengths_of

    made_for = _made_for(artifact, records)
    if made_for != OWN_SET:
        say(options, f"note: {source} was made for {made_for}")
    provenance = {**provenance_of(artifact), "made for": made_for}
    limits = (*artifact.limits, *origin_limits(made_for))
    return Audited(
        artifact.apply(base),
        base,
        provenance,
        cost_of(artifact),
        strengths_of(artifact),
        sites_of(artifact),
        limits,
    )


def read_subject(source: str, options: opt.Options, serving: Serving) -> Any:
    """A model whose weights are here, or one behind a URL: ``https://host/v1#model``."""
    if not source.startswith(("http://", "https://")):
        return read_model(source, options)
    from unlearn.model.endpoint import Endpoint
    from unlearn.model.rate_limit import Prices

    url, _, model = source.partition("#")
    if not model:
        raise InputError(
            "the URL of an endpoint needs the name of the model that it serves behind a #, for "
            "example http://localhost:8000/v1#my-model"
        )
    prices = None if serving.prices is None else Prices(*serving.prices)
    rate = serving.requests_per_minute
    return Endpoint(url, model, requests_per_minute=rate, prices=prices)


def origin_limits(made_for: str) -> tuple[str, ...]:
    """A sentence for the limits of the audit where the artifact is not known to be of its set."""
    return () if made_for == OWN_SET else (f"The artifact was made for {made_for}.",)


def _made_for(artifact: Artifact, records: ForgetSet) -> str:
    """Whether the artifact was made for the forget set it is audited on."""
    if artifact.forget_set_key is None:
        return "a forget set it cannot be tied to any more: its key is gone"
    return OWN_SET if artifact.concerns(records.digest) else "another forget set, or an older state"


def _recorded(folder: Path) -> Mapping[str, str]:
    """How a model that ``unlearn apply`` wrote came to be; empty for any other model."""
    try:
        note = json.loads((folder / outputs.MODEL.marker).read_text(encoding="utf-8"))
        provenance = note["provenance"]
        return {"strategy": str(provenance["strategy"]), "base": str(note["base_source"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
