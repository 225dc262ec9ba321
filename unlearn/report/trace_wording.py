"""A causal trace in sentences: figures, intervals and record counts, never a record's text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from unlearn.locate.averages import Averages, Curve, average
from unlearn.locate.trace import SUBJECT_ROLES, FactTrace, Kind, Role, Score, Trace

SCORES: dict[Score, str] = {
    "logit-diff": "logit difference",
    "logprob": "log-probability of the answer (nats)",
    "probability": "probability of the first answer token",
}

ROLES: dict[Role, str] = {
    "before": "tokens before the subject",
    "first-subject": "the subject's first token",
    "middle-subject": "the subject's middle tokens",
    "last-subject": "the subject's last token",
    "first-after": "the first token after the subject",
    "further": "further tokens",
    "last": "the last token",
}

KINDS: dict[Kind, str] = {"hidden": "one state", "mlp": "MLPs", "attention": "attention"}

NEAR = 0.9
"""A layer belongs to a peak if its effect is at least this share of it."""

REASONS = {
    "not-known": "the model does not give the answer",
    "no-replacement": "no other subject has as many tokens and another answer",
}


def describe_trace(trace: Trace) -> str:
    """The trace in a few lines."""
    found = average(trace)
    lines = [
        *_coverage(trace, found),
        _corruption(trace, found),
        *_subject(trace, found),
        *_passing_on(trace, found),
        *_severed(found),
        "A trace shows where a fact passes, not where it is best changed.",
    ]
    return "\n".join(lines)


def number(value: float) -> str:
    """A figure with its sign, and no sign before zero."""
    rounded = round(value, 3 if abs(value) < 1 else 2) + 0.0
    return f"{rounded:+.3g}" if rounded else "0"


def layers(curve: Curve) -> str:
    """The layers around the peak of a curve that come near to it."""
    first = last = curve.peak
    near = NEAR * curve.mean[curve.peak]
    while first > 0 and curve.mean[first - 1] >= near:
        first -= 1
    while last + 1 < len(curve.mean) and curve.mean[last + 1] >= near:
        last += 1
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _coverage(trace: Trace, found: Averages) -> Iterator[str]:
    n = found.total.n
    verb = "traced" if trace.method == "causal-trace" else "screened"
    yield f"{verb} {n} {'fact' if n == 1 else 'facts'}{_groups(found)}"
    if trace.method == "attribution":
        refined = sum(len(fact.refined) for fact in trace.records)
        exact = f"all but {refined} cells, which were traced" if refined else "all cells"
        yield f"Effects are estimates from gradients: {exact}."
    reasons = Counter(skipped.reason for skipped in trace.skipped)
    for reason, count in sorted(reasons.items()):
        yield f"skipped {count}: {REASONS[reason]}"
    if trace.not_covered:
        yield f"not covered {len(trace.not_covered)}: the time did not suffice"
    if trace.retained:
        yield f"traced {len(trace.retained)} retain records, to hold the sites against them"
    if extra := sum(isinstance(found, FactTrace) for found in trace.extra):
        yield f"traced {extra} more that were asked for; no average holds them"


def _groups(found: Averages) -> str:
    """What the intervals are over: facts of one group rise and fall together."""
    n, m = found.total.n, found.total.clusters
    if m < 2:
        return "; no intervals, which need two subjects, or two relations of one"
    if m == n:
        return "; intervals are over facts"
    return f" in {m} groups, each of one subject or relation; intervals are over groups"


def _corruption(trace: Trace, found: Averages) -> str:
    how = "another subject's tokens" if trace.corruption == "replace" else "noise on the subject"
    return (
        f"With {how} the {SCORES[trace.score]} goes from {found.clean.mean[0]:.3g} to "
        f"{found.corrupted.mean[0]:.3g}: a total effect of {_figure(found.total, 0)}."
    )


def _subject(trace: Trace, found: Averages) -> Iterator[str]:
    for kind, curves in found.by_role.items():
        having = [role for role in SUBJECT_ROLES if role in curves]
        role = max(having, key=lambda role: float(curves[role].mean.max()))
        curve = curves[role]
        yield (
            f"Restoring {KINDS[kind]} at the subject brings most back at {ROLES[role]}, "
            f"{layers(curve)}{_blocks(trace, kind, curve)}: "
            f"{_figure(curve, curve.peak)}{_share(curve, found)}."
        )
    yield from _decisive(found)


def _decisive(found: Averages) -> Iterator[str]:
    """Whether a token other than the subject's last one is decisive, or only seems so."""
    lead, last = found.lead, found.by_role["hidden"]["last-subject"]
    if lead is None:
        return
    if lead.clusters > 1 and lead.low[0] > 0:
        yield (
            f"The decisive token is not the subject's last one, whose state brings back at most "
            f"{_figure(last, last.peak)}: the difference is {_figure(lead, 0)}."
        )
    else:
        yield (
            f"These facts do not settle which token is decisive: {ROLES[found.decisive]} brings "
            f"back {_figure(lead, 0)} more than the subject's last one."
        )


def _blocks(trace: Trace, kind: Kind, curve: Curve) -> str:
    """What the window at a curve's peak restores."""
    first, last = trace.windows[kind][curve.peak]
    return "" if first == last else f", restored in blocks {first} to {last}"


def _passing_on(trace: Trace, found: Averages) -> Iterator[str]:
    curve = found.by_role["hidden"].get("last")
    total = float(found.total.mean[0])
    if curve is None or total <= 0:
        return
    reached = [layer for layer, mean in enumerate(curve.mean) if mean >= total / 2]
    if reached:
        yield f"Half of the total effect has reached the last token after layer {reached[0]}."
    attention = found.by_role.get("attention", {}).get("last")
    if attention is not None:
        yield (
            f"Attention brings most to the last token in {layers(attention)}"
            f"{_blocks(trace, 'attention', attention)}: "
            f"{_figure(attention, attention.peak)}{_share(attention, found)}."
        )


def _severed(found: Averages) -> Iterator[str]:
    role = found.decisive
    whole = found.by_role["hidden"][role]
    for part, curves in found.severed.items():
        yield (
            f"Without later {KINDS[part]} at {ROLES[role]}, the effect of its state after layer "
            f"{whole.peak} is {_figure(curves[role], whole.peak)} instead of "
            f"{number(whole.mean[whole.peak])}."
        )


def _figure(curve: Curve, layer: int) -> str:
    mean, low, high = curve.at(layer)
    about = f"n = {curve.n}"
    if curve.clusters > 1:
        about = f"95 % {number(low)} to {number(high)}, {about}"
    return f"{number(mean)} ({about})"


def _share(curve: Curve, found: Averages) -> str:
    total = float(found.total.mean[0])
    return f", {curve.mean[curve.peak] / total:.0%} of the total" if total > 0 else ""
