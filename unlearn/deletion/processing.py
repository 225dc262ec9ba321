"""Processing: from approved requests to an unlearned model and evidence, in several attempts.

Requests about one model are merged into one run; each is audited by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unlearn.atomic_folder import appearing_at, remove_unfinished
from unlearn.deletion import records
from unlearn.deletion.evidence import ATTEMPT, last_attempt, write_evidence, write_signed
from unlearn.deletion.leases import LEASE_SECONDS, leased
from unlearn.deletion.ledger import Detail
from unlearn.deletion.registry import Change, RegisteredModel
from unlearn.deletion.states import WORKING, State
from unlearn.deletion.workflow import Run, fitting, judge, look_at, make
from unlearn.errors import InputError, UnlearnError
from unlearn.merged import write_merged
from unlearn.registry import DEFAULT_LOCATOR
from unlearn.report.model_card import model_card
from unlearn.types import AuditResult, Noun, Verdict
from unlearn.verdicts.case import worst

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.deletion.request import DeletionRequest
    from unlearn.deletion.store import Store
    from unlearn.forget_set import ForgetSet
    from unlearn.model.language_model import LanguageModel

KEPT_FORGOTTEN: tuple[State, ...] = ("audited", "filter-only", "deployed", "notified")
"""States of requests that a later model must not remember again."""


class Attempt(Noun):
    """One way to forget."""

    strategy: str
    settings: Mapping[str, str] = {}


DEFAULT_PLAN = (
    Attempt(strategy="gradient-ascent"),
    Attempt(strategy="distillation"),
    Attempt(strategy="in-context", settings={"sealed": "true"}),
)
"""The cheapest that changes weights, the strongest that does, and a policy before the model where
neither forgets without breaking what has to stay."""


@dataclass(frozen=True)
class Job:
    """How requests are processed."""

    output: Path
    """Where the unlearned model goes; nothing may be there."""
    by: str
    """Who did it, as the ledger says."""
    worker: str
    """Who holds the leases: unlike ``by``, one for each process."""
    plan: Sequence[Attempt] = DEFAULT_PLAN
    locator: str | None = DEFAULT_LOCATOR
    """What finds the sites of strategies that obey them; ``None`` for no restriction."""
    run: Run = field(default_factory=lambda: Run(""))
    lease_seconds: float = LEASE_SECONDS


class Processed(NamedTuple):
    """What processing a request came to."""

    request: DeletionRequest
    result: AuditResult
    """Of the outcome, or of the last attempt where there is none to use."""


class _Try(NamedTuple):
    """What one attempt gave."""

    number: int
    attempt: Attempt
    artifact: Artifact
    """Of the records of all requests together."""
    digest: str
    """Of the model that it gives."""
    results: Mapping[str, AuditResult]
    """By request."""

    @property
    def verdict(self) -> Verdict:
        return worst(result.verdict for result in self.results.values())

    @property
    def served_only(self) -> bool:
        return self.artifact.threat_model == "served-only"


class Processing:
    """One run over the requests about one model.

    >>> Processing(store, job, model, ["3f2a…"]).run()                           # doctest: +SKIP

    Every request ends in ``audited``, in ``filter-only`` where only a policy before the model did
    not fail, or in ``retrain-scheduled`` where everything in the plan did. The ledger says what was
    tried and why it was not kept. Requests whose processing was cut off begin anew.

    Raises:
        InputError: a request is not about this model, or something is in the way of the output.
    """

    def __init__(self, store: Store, job: Job, model: LanguageModel, requests: Sequence[str]):
        self.store, self.job, self.model = store, job, model
        self.requests = list(dict.fromkeys(requests))
        for request in self.requests:
            self._check_scope(store.get(request))
        if job.output.exists() and not self._is_ours(job.output):
            raise InputError(f"{job.output} exists; give a new folder for the unlearned model")

    def run(self) -> list[Processed]:
        """What became of each request.

        Raises:
            InputError: a request is not approved, or another worker has it.
        """
        with leased(self.store.registry, self.requests, self.job.worker, self.job.lease_seconds):
            self._clear_up()
            self.sets = {request: self.store.forget_set(request) for request in self.requests}
            for request, forget_set in self.sets.items():
                self._look_before(request, forget_set)
            self._all_step("plan", ", ".join(attempt.strategy for attempt in self.job.plan))
            # Whoever is killed from here on finds that what lies there is theirs.
            self._all_step("unlearn", model_out=str(self.job.output))
            kept = self._try_in_turn()
            if kept.verdict is not Verdict.FAIL:
                self._hand_over(kept)
            return self._conclude(kept)

    def _check_scope(self, request: DeletionRequest) -> None:
        with self.store.registry.look() as view:
            lineage = view.lineage(self.model.digest)
        if not {each.digest for each in request.models} & set(lineage):
            known = ", ".join(f"{each.source} ({each.digest[:12]})" for each in request.models)
            raise InputError(
                f"request {request.id} is about {known or 'no model yet'}, and "
                f"{self.model.source} ({self.model.digest[:12]}) is neither that nor registered as "
                "made from it"
            )

    def _is_ours(self, output: Path) -> bool:
        """Whether an earlier run over these requests wrote it, and was killed before its end."""
        found = [self.store.get(request) for request in self.requests]
        return all(each.state in WORKING and each.model_out == str(output) for each in found)

    def _clear_up(self) -> None:
        """Removes what a run over these requests that was killed had begun to write."""
        remove_unfinished(self.job.output.parent, self.job.output.name)
        for request in self.requests:
            remove_unfinished(self.store.evidence(request))

    def _look_before(self, request: str, forget_set: ForgetSet) -> None:
        """Measures what the model knows before anything is done, for the record."""
        # The step first: a request that may not be processed is not measured either.
        self._step(request, "locate", details={"model": self.model.digest})
        result = look_at(self.model, forget_set, replace(self.job.run, request=request))
        digest = self._write(request, "before", result)
        self._note(request, "measured", {"verdict": str(result.verdict), "audit": digest})

    def _try_in_turn(self) -> _Try:
        """Attempts until one does not fail; the last one is what is kept."""
        last: _Try | None = None
        refused: UnlearnError | None = None
        # Earlier attempts are what the ledger names: they stay as they are.
        earlier = max(last_attempt(self.store.evidence(each)) for each in self.requests)
        for number, attempt in enumerate(self.job.plan, start=earlier + 1):
            try:
                last = self._attempt(number, attempt)
            except UnlearnError as error:
                # One strategy may refuse a model or a set that the next one takes.
                refused = error
                self._note_refusal(number, attempt, error)
                continue
            if last.verdict is not Verdict.FAIL:
                break
        if last is None:
            assert refused is not None
            raise refused
        return last

    def _attempt(self, number: int, attempt: Attempt) -> _Try:
        _, artifact = make(
            self.model,
            self._together(),
            self.job.run,
            strategy=attempt.strategy,
            locator=self.job.locator and fitting(self.job.locator, attempt.strategy),
            settings=attempt.settings,
        )
        unlearned = artifact.apply(self.model)
        results = {
            request: judge(
                artifact, unlearned, self.model, forget_set, replace(self.job.run, request=request)
            )
            for request, forget_set in self.sets.items()
        }
        for request, result in results.items():
            details: dict[str, Detail] = {
                "attempt": number,
                "strategy": attempt.strategy,
                "verdict": str(result.verdict),
                "label": result.label,
                "audit": self._write(request, f"{ATTEMPT}{number}", result),
            }
            self._note(request, "attempted", details)
        return _Try(number, attempt, artifact, unlearned.digest, results)

    def _together(self) -> ForgetSet:
        if len(self.sets) == 1:
            return next(iter(self.sets.values()))
        return records.merged(self.sets, "batch")

    def _note_refusal(self, number: int, attempt: Attempt, error: UnlearnError) -> None:
        # The message may repeat what is in the records; its kind is enough for what stays.
        for request in self.requests:
            details: dict[str, Detail] = {
                "attempt": number,
                "strategy": attempt.strategy,
                "refused": type(error).__name__,
            }
            self._note(request, "attempted", details)

    def _hand_over(self, kept: _Try) -> None:
        """Writes the model, or the policy, that answers the requests, and registers it."""
        made = RegisteredModel(
            digest=kept.digest,
            source=str(self.job.output),
            parent=self.model.digest,
            relation="filtered" if kept.served_only else "unlearned",
        )
        with self.store.registry.change() as change:
            change.register(made)
        if kept.served_only:
            kept.artifact.save(self.job.output)
        else:
            with appearing_at(self.job.output) as folder:
                # Of several requests each has its own audit, and none speaks for the model.
                only = next(iter(kept.results.values())) if len(self.requests) == 1 else None
                card = None if only is None else model_card(only)
                write_merged(kept.artifact, self.model, folder, card)

    def _conclude(self, kept: _Try) -> list[Processed]:
        """Writes the evidence of every request, then answers all of them at once or none."""
        signed = {request: self._write_signed(request, kept) for request in self.requests}
        with self.store.change() as change:
            for request in self.requests:
                # Whoever slept for longer than the lease may find that another has taken over.
                change.hold(request, self.job.worker, seconds=self.job.lease_seconds)
            return [
                Processed(self._answer(request, kept, signed[request], change), result)
                for request, result in kept.results.items()
            ]

    def _answer(
        self, request: str, kept: _Try, signed: Mapping[str, str], change: Change
    ) -> DeletionRequest:
        result = kept.results[request]
        details: dict[str, Detail] = {
            "base": self.model.digest,
            "attempt": kept.number,
            "strategy": kept.attempt.strategy,
            "seed": self.job.run.seed,
            "verdict": str(result.verdict),
            **signed,
        }
        step, reason, output = "audited", "", str(self.job.output)
        if kept.verdict is Verdict.FAIL:
            failing = [claim.id for claim in result.claims if claim.verdict is Verdict.FAIL]
            said = ", ".join(failing) or "another request of the batch"
            step, reason, output = (
                "retrain-scheduled",
                f"every attempt failed; the last: {said}",
                "",
            )
        else:
            step = "filter-only" if kept.served_only else step
            details["result"] = kept.digest
        return self.store.take_step(
            request,
            step,
            by=self.job.by,
            reason=reason,
            details=details,
            within=change,
            verdict=str(result.verdict),
            model_out=output,
        )

    def _write_signed(self, request: str, kept: _Try) -> dict[str, str]:
        """Writes the audit that answers a request again, signed; the digests of both."""
        answered = kept.verdict is not Verdict.FAIL and not kept.served_only
        return write_signed(
            self._evidence(request, f"{ATTEMPT}{kept.number}"),
            kept.results[request],
            self.store.registry.key,
            request=request,
            model_dir=self.job.output if answered else None,
        )

    def _all_step(self, step: str, reason: str = "", **changed: str) -> None:
        for request in self.requests:
            self._step(request, step, reason, None, **changed)

    def _step(
        self,
        request: str,
        step: str,
        reason: str = "",
        details: dict[str, Detail] | None = None,
        **changed: Any,
    ) -> DeletionRequest:
        return self.store.take_step(
            request, step, by=self.job.by, reason=reason, details=details, **changed
        )

    def _note(self, request: str, event: str, details: dict[str, Detail]) -> None:
        with self.store.change() as change:
            change.record(request, event, by=self.job.by, details=details)

    def _evidence(self, request: str, name: str) -> Path:
        return self.store.evidence(request) / name

    def _write(self, request: str, name: str, result: AuditResult) -> str:
        """Writes an audit and its report; the digest of ``audit.json``."""
        return write_evidence(self._evidence(request, name), result)


def recheck(
    store: Store, model: LanguageModel, run: Run, *, by: str, besides: Sequence[str]
) -> dict[str, AuditResult]:
    """Audits the earlier requests that a model has to keep forgotten, by request.

    Those are the requests with an outcome that were about one of the models it was made from.
    """
    with store.registry.look() as view:
        lineage = set(view.lineage(model.digest))
        earlier = view.requests(KEPT_FORGOTTEN)
    found = {}
    for request in earlier:
        if request.id in besides or not lineage & {each.digest for each in request.models}:
            continue
        result = look_at(model, store.forget_set(request.id), replace(run, request=request.id))
        name = f"recheck-{model.digest[:12]}"
        evidence = store.evidence(request.id) / name
        details: dict[str, Detail] = {
            "model": model.digest,
            "verdict": str(result.verdict),
            **write_signed(evidence, result, store.registry.key, request=request.id),
        }
        with store.change() as change:
            change.record(request.id, "rechecked", by=by, details=details)
        found[request.id] = result
    return found


def plan_of(strategies: Sequence[str], settings: Mapping[str, str]) -> tuple[Attempt, ...]:
    """A plan that tries strategies in turn, each with the settings; the standing one without any.

    Raises:
        InputError: there are settings and nothing that they are of.
    """
    if settings and not strategies:
        raise InputError("settings are those of a strategy; name it with --strategy")
    named = tuple(Attempt(strategy=name, settings=dict(settings)) for name in strategies)
    return named or DEFAULT_PLAN
