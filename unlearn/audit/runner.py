"""What an audit asks of the models: each text once for each model and precision.

The probes' statements are united and scored in one pass, their prompts are united and continued
once, and each probe gets its share. What a model gave is kept in the journal as figures, so that an
interrupted audit goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from unlearn.audit import subject
from unlearn.audit.kept import Kept
from unlearn.audit.pace import Pace
from unlearn.audit.subject import Progress
from unlearn.errors import UnsupportedError
from unlearn.model.endpoint import Endpoint
from unlearn.model.language_model import LanguageModel
from unlearn.model.precision import at_precision
from unlearn.model.scoring import TokenScores
from unlearn.probes.probe import (
    Bench,
    Drawing,
    GenerationProbe,
    Key,
    LikelihoodProbe,
    Material,
    Measurement,
    ModelProbe,
    Probe,
    RecordProbe,
    content,
)
from unlearn.types import SPLITS, Role, Statement

ROOM_FOR_TEXT = 8
"""Tokens that a text may have beyond the longest answer, for an answer that starts late."""

Text = tuple[str, str]


@dataclass(frozen=True)
class Job:
    """What is to be measured, and on what."""

    probes: Mapping[str, Probe]
    models: Mapping[Role, Any]
    material: Material
    precisions: tuple[str, ...] = ()
    """At which the likelihood and generation probes are run again."""
    seed: int = 0
    kept: Kept = field(default_factory=Kept)
    progress: Progress | None = None

    @property
    def served(self) -> bool:
        """Whether a model is reached through an interface only."""
        return any(isinstance(lm, Endpoint) for lm in self.models.values())


class Work(NamedTuple):
    """What each model is asked, for an estimate before it starts."""

    requests: int
    prompt_characters: int
    new_tokens: int


def work_of(job: Job) -> Work:
    """How much each model is asked at full precision; a text that occurs twice counts once."""
    texts: set[Text] = set()
    prompts: set[tuple[str, Drawing]] = set()
    for probe in job.probes.values():
        if isinstance(probe, LikelihoodProbe):
            texts |= {content(s) for s in probe.statements(job.material).values()}
        if isinstance(probe, GenerationProbe):
            wanted = probe.prompts(job.material).values()
            prompts |= {(prompt, probe.drawing) for prompt in wanted}
    room = _room(job, None)
    return Work(
        len(texts) + len(prompts),
        sum(len(p) + len(c) for p, c in texts) + sum(len(p) for p, _ in prompts),
        sum(room * drawing.n_samples for _, drawing in prompts),
    )


class Measured(NamedTuple):
    """What one probe gave, for each model that it measured."""

    probe: Probe
    condition: str
    by_role: Mapping[Role, list[Measurement]]


def run(job: Job) -> list[Measured]:
    """Every probe's measurements.

    Raises:
        UnsupportedError: nothing to measure, or models whose tokens differ.
        NumericalError: a model gives NaN or infinity.
    """
    probes, material = job.probes.items(), job.material
    asked = {n: p.statements(material) for n, p in probes if isinstance(p, LikelihoodProbe)}
    prompts = {n: p.prompts(material) for n, p in probes if isinstance(p, GenerationProbe)}
    of_models = {n: p for n, p in probes if isinstance(p, ModelProbe)}
    of_records = [p for _, p in probes if isinstance(p, RecordProbe)]
    if not (any(asked.values()) or any(prompts.values()) or of_models or of_records):
        raise UnsupportedError(
            f"the forget set ({', '.join(job.material)}) has nothing for the probes "
            f"{', '.join(job.probes)}"
        )
    conditions = ("", *job.precisions) if asked or prompts else ()
    passes = sum(len(_models_at(job, condition)) for condition in conditions)
    drawings = {p.drawing for _, p in probes if isinstance(p, GenerationProbe)}
    pace = Pace(job.progress, passes + len(of_models), bool(asked) + len(drawings))
    found: list[Measured] = []
    for condition in conditions:
        found += _texts_measured(job, condition, asked, prompts, pace)
    found += [_models_measured(job, name, probe, pace) for name, probe in of_models.items()]
    found += [Measured(p, "", {"unlearned": p.measure(material, job.seed)}) for p in of_records]
    return found


def _texts_measured(
    job: Job,
    condition: str,
    asked: Mapping[str, Mapping[Key, Statement]],
    prompts: Mapping[str, Mapping[Key, str]],
    pace: Pace,
) -> Iterator[Measured]:
    """The probes that read likelihoods or texts, at one precision."""
    by_digest: dict[str, dict[str, list[Measurement]]] = {}
    tokens: dict[str, str] = {}
    models = _models_at(job, condition)
    for role, lm in models.items():
        if lm.digest in by_digest:
            pace.skip()
            continue
        with pace.unit(f"the {role}{condition and f' in {condition}'}"):
            label = f"{lm.digest} {condition}"
            known = job.kept.get(label, (*asked, *prompts))
            if known is None:
                copy = at_precision(lm, condition) if condition else lm
                known, seen = _read(job, copy, asked, pace)
                known |= _written(job, copy, prompts, pace)
                job.kept.add(label, known, seen)
            by_digest[lm.digest] = known
            tokens[lm.digest] = job.kept.tokens(label)
    _check_comparable(job, tokens)
    for name in (*asked, *prompts):
        roles = {role: by_digest[lm.digest][name] for role, lm in models.items()}
        yield Measured(job.probes[name], condition, roles)


def _models_at(job: Job, condition: str) -> Mapping[Role, Any]:
    """The models to measure: at lower precision the audited one and the reference alone.

    What the records to forget are worth in a copy is judged against the reference's copy; how well
    the original survives rounding is no question of forgetting.
    """
    if not condition:
        return job.models
    return {role: lm for role, lm in job.models.items() if role != "original"}


def _read(
    job: Job, lm: Any, asked: Mapping[str, Mapping[Key, Statement]], pace: Pace
) -> tuple[dict[str, list[Measurement]], str]:
    """The likelihood probes' figures from one pass, and a digest of the tokens that were scored."""
    distinct = {content(s): s for statements in asked.values() for s in statements.values()}
    if not distinct:
        return {name: [] for name in asked}, ""
    fresh = subject.score(lm, list(distinct.values()), progress=pace.stage("score"))
    scores = dict(zip(distinct, fresh, strict=True))
    measured = {
        name: _likelihood(job, name).measure(_share(statements, scores), job.material)
        for name, statements in asked.items()
    }
    return measured, _token_digest(fresh, by_id=not job.served)


def _likelihood(job: Job, name: str) -> LikelihoodProbe:
    probe = job.probes[name]
    assert isinstance(probe, LikelihoodProbe)
    return probe


def _share(
    asked: Mapping[Key, Statement], scores: Mapping[Text, TokenScores]
) -> dict[Key, TokenScores]:
    return {key: scores[content(statement)] for key, statement in asked.items()}


def _token_digest(scores: Iterable[TokenScores], *, by_id: bool) -> str:
    """A digest of how answers are cut into tokens; by their number alone where ids are unknown."""
    digest = hashlib.sha256()
    for score in scores:
        ids = np.asarray(score.ids, dtype=np.int64)
        digest.update((ids if by_id else np.array(len(ids))).tobytes() + b"|")
    return digest.hexdigest()


def _written(
    job: Job, lm: Any, prompts: Mapping[str, Mapping[Key, str]], pace: Pace
) -> dict[str, list[Measurement]]:
    """The generation probes' figures; equal prompts with equal drawings are continued once."""
    room = _room(job, lm)
    texts: dict[Drawing, dict[str, list[str]]] = {}
    measured: dict[str, list[Measurement]] = {}
    for name, wanted in prompts.items():
        probe = job.probes[name]
        assert isinstance(probe, GenerationProbe)
        known = texts.setdefault(probe.drawing, {})
        fresh = [p for p in dict.fromkeys(wanted.values()) if p not in known]
        if fresh:
            drawn = subject.generate(
                lm,
                fresh,
                max_new_tokens=room,
                **probe.drawing._asdict(),
                seed=job.seed,
                progress=pace.stage("continue prompts of"),
            )
            known.update(zip(fresh, drawn, strict=True))
        share = {key: known[prompt] for key, prompt in wanted.items()}
        measured[name] = probe.measure(share, job.material) if share else []
    return measured


def _room(job: Job, lm: Any) -> int:
    """How many tokens a text may have: the longest answer's, and some more.

    What is not the forget set's is not counted: it is long, and nothing is asked about it here.
    """
    answers = (
        record.completion
        for split, records in job.material.items()
        if split in SPLITS
        for record in records
    )
    longest = max(answers, key=len)
    if isinstance(lm, LanguageModel):
        return len(lm.bare().encode("", longest).ids) + ROOM_FOR_TEXT
    # An endpoint's tokens are not known; three bytes a token is few for any of them.
    return len(longest.encode()) // 3 + ROOM_FOR_TEXT


def _models_measured(job: Job, name: str, probe: ModelProbe, pace: Pace) -> Measured:
    """What a probe of models gives; kept under the digests of all of them."""
    label = " ".join(f"{role}={lm.digest}" for role, lm in sorted(job.models.items()))
    with pace.unit(""):
        known = job.kept.get_roles(label, name)
        if known is None:
            # Whoever has the weights is not held by a policy that is only served with them.
            models = {role: lm.bare() for role, lm in job.models.items()}
            bench = Bench(models, job.material, job.seed, pace.stage(name, of_unit=False))
            known = probe.measure(bench)
            job.kept.add_roles(label, name, known)
    return Measured(probe, "", known)


def _check_comparable(job: Job, tokens: Mapping[str, str]) -> None:
    """Refuse models that cut the answers into other tokens: figures per token would not compare."""
    own = tokens[job.models["unlearned"].digest]
    for role, lm in job.models.items():
        if tokens.get(lm.digest, own) != own:
            raise UnsupportedError(
                f"the {role} has another tokenizer than the audited model: it cuts an answer into "
                "other tokens, so their figures cannot be compared; give models that share one"
            )
