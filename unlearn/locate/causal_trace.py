"""Causal tracing as a locator: which restored states bring a corrupted fact back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from unlearn import __version__
from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.journal import code_digest
from unlearn.locate.averages import average
from unlearn.locate.fact_tracer import CausalTraceConfig, FactTracer
from unlearn.locate.journal import TraceJournal
from unlearn.locate.selection import choose
from unlearn.locate.sites import Candidate, build_sites, candidates
from unlearn.locate.trace import KINDS, ROLES, SUBJECT_ROLES, FactTrace, Role, Skipped, Trace
from unlearn.locate.tracing_facts import Fact, pick, read_fact, unknown
from unlearn.model.attribution import Attributor
from unlearn.model.language_model import LanguageModel
from unlearn.model.tracing import Tracer
from unlearn.registry import locators
from unlearn.types import Sites

Progress = Callable[[str, float], None] | None


@locators.register("causal-trace")
class CausalTrace:
    """Measures what a restored state brings back of a fact whose subject was corrupted.

    After Meng et al. 2022. The effect of a cell is the score of the corrupted run with that cell's
    states clean again, minus the score of the corrupted run; higher: the states carry more of the
    fact.

    For the sites retain records are traced as well. A module scores by how much the average effect
    of its layer and part is larger for forget records, at the kind of token where that is most. So
    what every fact needs, in the first block and on the way out in the last, does not count. With
    ``retain_records=0`` a module scores its largest average effect at any token of the subject;
    tokens behind it do not count then, for restoring the answer on its way out always helps.

    Windows as wide as the default blur the layers of a shallow model; ``window=1`` is sharp.

    Known failure: it says where a fact passes, not where it is best changed. Hase et al. 2023 find
    that the effect of a layer says next to nothing about how well an edit there works. So it is a
    diagnosis; compare its sites with the controls before relying on them.

    >>> trace = CausalTrace(CausalTraceConfig(window=1)).trace(model, forget_set)
    ... # doctest: +SKIP
    """

    name: ClassVar[str] = "causal-trace"
    summary: ClassVar[str] = "where restoring a state brings a corrupted fact back: a diagnosis"
    honours: ClassVar[frozenset[str]] = frozenset({"modules"})
    method: ClassVar[Literal["causal-trace", "attribution"]] = "causal-trace"
    Config: ClassVar[type[CausalTraceConfig]] = CausalTraceConfig

    def __init__(
        self,
        config: CausalTraceConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config or CausalTraceConfig()
        self.clock = clock

    def locate(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        *,
        seed: int = 0,
        progress: Progress = None,
    ) -> Sites:
        """The modules with the largest effects up to the share ``top``, and all scores."""
        trace = self.trace(model, forget_set, seed=seed, progress=progress)
        return self.sites(model, forget_set, trace)

    def trace(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        *,
        seed: int = 0,
        progress: Progress = None,
        journal: Path | None = None,
        also: Sequence[str] = (),
    ) -> Trace:
        """Every cell of every record that the model knows.

        Args:
            model: left as it is.
            forget_set: whose forget records are traced.
            seed: draws records, their order, replacements and noise.
            progress: told what is done, and about how long the rest takes.
            journal: a file that keeps finished records until all are done. It holds token ids.
            also: ids of forget records to trace whatever is drawn, and after the time has run out.

        Raises:
            InputError: a record without its subject, without an answer, or too long; an id in
                ``also`` that no forget record has.
            UnsupportedError: no record can be traced, or the model cannot.
        """
        config = self.config
        records = forget_set.sample("forget", config.max_records, seed)
        n_beside = config.retain_records
        beside = forget_set.sample("retain", n_beside, seed) if n_beside else ()
        asked = [read_fact(model, record) for record in pick(forget_set, also)]
        facts = [read_fact(model, record) for record in records]
        others = [read_fact(model, record) for record in beside]
        kept = TraceJournal(journal, self._belongs_to(model, forget_set, seed))
        tracer = FactTracer(model, forget_set, facts, config, seed, self.engine(model))
        waiting = self._run(tracer, (facts, others), kept, progress)
        found = [kept.entries[r.id] for r in records if r.id in kept.entries]
        traced = tuple(entry for entry in found if isinstance(entry, FactTrace))
        retained = [kept.entries.get(r.id) for r in beside]
        skipped = tuple(entry for entry in found if isinstance(entry, Skipped))
        extra = tuple(self._extra(tracer, asked, kept))
        if not waiting:
            kept.remove()
        if not traced:
            raise UnsupportedError(_why_none(skipped, config.corruption))
        return Trace(
            tool_version=__version__,
            method=self.method,
            model_digest=model.digest,
            forget_set_digest=forget_set.digest,
            seed=seed,
            corruption=config.corruption,
            score=config.score,
            windows={
                kind: tuple((blocks.start, blocks.stop - 1) for blocks in tracer.windows(kind))
                for kind in KINDS
            },
            settings=config.model_dump(),
            records=traced,
            skipped=skipped,
            not_covered=tuple(waiting),
            retained=tuple(entry for entry in retained if isinstance(entry, FactTrace)),
            extra=extra,
        )

    def engine(self, model: LanguageModel) -> Tracer | Attributor:
        """What runs the cells."""
        return Tracer(model.model, model.anatomy, max_rows=self.config.max_rows)

    def sites(self, model: LanguageModel, forget_set: ForgetSet, trace: Trace) -> Sites:
        """The sites that a trace of this model and forget set suggests."""
        among = candidates(model)
        names = [candidate.name for candidate in among]
        scores = dict(zip(names, _scores(trace, among), strict=True))
        able = {name: score for name, score in scores.items() if score > 0}
        if not able:
            raise UnsupportedError(
                "no restored state brings more back of forget records than of others, so the trace "
                "suggests no site; try the other corruption, or retain_records=0"
            )
        chosen = choose(among, able, self.config.top)
        return build_sites(
            self.name, model, forget_set, self.config, trace.seed, chosen=chosen, scores=scores
        )

    def _run(
        self,
        tracer: FactTracer,
        samples: Sequence[Sequence[Fact]],
        kept: TraceJournal,
        progress: Progress,
    ) -> list[str]:
        """Traces what is not in the journal; returns the ids for which the time did not suffice."""
        started, rng = self.clock(), np.random.default_rng(tracer.seed)
        # In an order of chance, so that a run which stops early has seen a fair part of each.
        facts = [sample[i] for sample in samples for i in rng.permutation(len(sample))]
        todo = [fact for fact in facts if fact.record.id not in kept.entries]
        whole = self.config.score == "logprob"
        for entry in unknown(tracer.model, todo, whole) if todo else ():
            kept.add(entry)
        todo = [fact for fact in todo if fact.record.id not in kept.entries]
        for done, fact in enumerate(todo):
            spent = self.clock() - started
            some = any(isinstance(entry, FactTrace) for entry in kept.entries.values())
            if done and some and self.config.max_seconds and spent > self.config.max_seconds:
                left_out = {fact.record.id for fact in todo[done:]}
                return [f.record.id for f in samples[0] if f.record.id in left_out]
            kept.add(tracer.trace(fact))
            if progress is not None:
                progress("trace", (done + 1) / len(todo))
        return []

    def _extra(
        self, tracer: FactTracer, asked: Sequence[Fact], kept: TraceJournal
    ) -> Iterator[FactTrace | Skipped]:
        """Those asked for that were not drawn or reached; never journalled, so never averaged."""
        left = [fact for fact in asked if fact.record.id not in kept.entries]
        whole = self.config.score == "logprob"
        missed = {e.id: e for e in unknown(tracer.model, left, whole)} if left else {}
        for fact in left:
            yield missed.get(fact.record.id) or tracer.trace(fact)

    def _belongs_to(self, model: LanguageModel, forget_set: ForgetSet, seed: int) -> str:
        """What tells one trace from another: all that its figures depend on."""
        settings = self.config.model_dump(exclude={"top", "max_rows", "max_seconds"})
        whole = [code_digest(), self.name, model.digest, forget_set.digest, seed, settings]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _scores(trace: Trace, among: Sequence[Candidate]) -> list[float]:
    """Each module's score, from the average effects of its part and layer."""
    forget = average(trace).by_role
    roles: Sequence[Role] = SUBJECT_ROLES
    if trace.retained:
        retain = average(trace.model_copy(update={"records": trace.retained})).by_role
        roles = tuple(
            role for role in ROLES if role in forget["hidden"] and role in retain["hidden"]
        )
    best = {}
    for kind, curves in forget.items():
        means = {role: curve.mean for role, curve in curves.items() if role in roles}
        if trace.retained:
            means = {role: mean - retain[kind][role].mean for role, mean in means.items()}
        best[kind] = np.max([*means.values()], axis=0)
    scores = []
    for candidate in among:
        effects = best.get(candidate.part)
        scores.append(0.0 if effects is None else float(effects[candidate.layer]))
    return scores


def _why_none(skipped: Sequence[Skipped], corruption: str) -> str:
    unknown_ones = sum(entry.reason == "not-known" for entry in skipped)
    without = len(skipped) - unknown_ones
    message = (
        f"none of the {len(skipped)} records can be traced: the model does not give the answer to "
        f"{unknown_ones} of them"
    )
    if without:
        message += (
            f", and for {without} no other subject of the forget set has as many tokens and "
            "another answer; add neighbors, or use corruption=noise"
        )
    return message
