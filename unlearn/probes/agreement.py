"""Whether a model predicts what another one does: the reference on forget, the original elsewhere.

A model that never saw a record is not certain of nonsense: it spreads its guesses as its training
taught it. A model that was pushed away from the answers may be just as wrong in another way, and
that way can be recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unlearn.model.divergence import Apart, compare, jensen_shannon, kl_to
from unlearn.probes.locality import KEPT
from unlearn.probes.probe import LOSS, Bench, Key, Measurement, ModelProbe, trained_statements
from unlearn.registry import probes
from unlearn.types import Measured, Role


@probes.register("agreement")
class Agreement(ModelProbe):
    """Jensen-Shannon divergence between the predictions of a model and of the reference.

    In bits, mean over the answer's tokens, the true tokens before them given: 0 where both predict
    the same, 1 where they have no token in common. Higher: farther from a model that never saw the
    records. On ``holdout``, which neither model saw, the same figure is what two trainings differ
    by of themselves; only what lies beyond that on ``forget`` tells. Of the reference itself it is
    0 and not reported.
    """

    summary = "whether predictions on forget prompts are those of a model that never saw them"
    honours = frozenset({"logits"})
    cost = "one forward pass of each model for each forget and holdout record"
    tier = "standard"
    property = "accuracy"
    needs = frozenset({"reference"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``divergence_from_reference/forget`` and ``/holdout`` of original and unlearned."""
        return _compared(bench, "reference", ("original", "unlearned"), self._against)

    def _against(self, bench: Bench, role: Role) -> list[Measurement]:
        asked = trained_statements(bench.material, "forget", "holdout")
        lm, reference = bench.models[role], bench.models["reference"]
        apart = compare(
            lm, reference, list(asked.values()), jensen_shannon, progress=_told(bench, role)
        )
        titles: Mapping[Measured, str] = {
            "forget": "Divergence from the reference's predictions on forget prompts",
            "holdout": "Divergence from the reference's predictions on never-seen prompts",
        }
        found = _by_split(dict(zip(asked, apart, strict=True)), lambda one: one.predictions)
        return [
            Measurement("divergence_from_reference", split, titles[split], values, unit="bits")
            for split, values in found.items()
        ]


@probes.register("drift")
class Drift(ModelProbe):
    """How far predictions and states have moved from the original's on what was to stay.

    ``kl_from_original``: KL(original || model) in nats, mean over every token of prompt and answer
    but the first. ``state_drift``: the distance of the final hidden states, relative to the norm of
    the original's. Both from 0; higher: more has moved, for better or worse. A model trained anew
    moves a lot without any harm, so they are shown beside the reference's and decide nothing.
    """

    summary = "how far predictions and hidden states moved on texts that were to stay"
    honours = frozenset({"weights"})
    cost = "one forward pass of each model for each record outside forget"
    tier = "standard"
    property = "locality"
    needs = frozenset({"original"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``kl_from_original`` and ``state_drift`` by split, of unlearned and reference."""
        return _compared(bench, "original", ("unlearned", "reference"), self._against)

    def _against(self, bench: Bench, role: Role) -> list[Measurement]:
        asked = trained_statements(bench.material, *KEPT)
        if not asked:
            return []
        lm, original = bench.models[role], bench.models["original"]
        apart = compare(
            lm,
            original,
            list(asked.values()),
            kl_to,
            whole_text=True,
            with_states=True,
            progress=_told(bench, role),
        )
        by_key = dict(zip(asked, apart, strict=True))
        moved = _by_split(by_key, lambda one: one.predictions)
        drifted = _by_split(by_key, lambda one: one.states)
        figures = [
            Measurement(
                metric="kl_from_original",
                split=split,
                title=f"KL divergence from the original on {KEPT[split]}",
                values=values,
                unit="nats per token",
                more_knowledge="lower",
                bounds=LOSS,
            )
            for split, values in moved.items()
        ]
        return figures + [
            Measurement(
                metric="state_drift",
                split=split,
                title=f"Drift of the final hidden states on {KEPT[split]}",
                values=values,
                unit="of the original's norm",
                more_knowledge="lower",
                bounds=LOSS,
            )
            for split, values in drifted.items()
        ]


def _compared(
    bench: Bench,
    against: Role,
    roles: tuple[Role, ...],
    measure: Callable[[Bench, Role], list[Measurement]],
) -> dict[Role, list[Measurement]]:
    """The figures of each role that is there; a model with two roles is compared once."""
    by_digest: dict[str, list[Measurement]] = {}
    found: dict[Role, list[Measurement]] = {}
    for role in roles:
        if role not in bench.models or role == against:
            continue
        digest = bench.models[role].digest
        if digest not in by_digest:
            by_digest[digest] = measure(bench, role)
        found[role] = by_digest[digest]
    return found


def _by_split(
    apart: Mapping[Key, Apart], value: Callable[[Apart], float]
) -> dict[Measured, dict[str, float]]:
    found: dict[Measured, dict[str, float]] = {}
    for (split, record_id, _), one in apart.items():
        found.setdefault(split, {})[record_id] = value(one)
    return found


def _told(bench: Bench, role: Role) -> Callable[[float], None] | None:
    if bench.progress is None:
        return None
    progress = bench.progress
    start = 0.0 if role == "original" else 0.5
    return lambda fraction: progress("compare", start + fraction / 2)
