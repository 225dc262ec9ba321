"""The report's fixed words, and how numbers, dates and hostile text become readable.

One rule for every sentence here: say what was measured, never what the law calls it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from unlearn.types import (
    AuditResult,
    Calibration,
    Claim,
    Estimate,
    Measured,
    Role,
    Verdict,
)

NOT_MEASURED = "not measured"
ONLY_SERVED = "only served, not here"
NOT_COMPUTED = "could not be computed"
NO_INTERVAL = "no interval"
FEW_SUBJECTS = 5

ROLES: dict[Role, tuple[str, str]] = {
    "original": ("Original", "before forgetting"),
    "unlearned": ("Unlearned", "after forgetting"),
    "reference": ("Reference", "never trained on the records to forget"),
}
SPLITS: dict[Measured, tuple[str, str]] = {
    "forget": ("Records to forget", "what must go"),
    "retain": ("Retained records", "what the model should keep; forgetting may train on them"),
    "neighbors": ("Neighbouring records", "close to the forgotten ones; only ever measured"),
    "holdout": ("Never-seen records", "no model here was trained on them"),
    "general": ("General text", "has nothing to do with the records"),
    "tasks": ("Benchmark tasks", "documents of tasks that have nothing to do with the records"),
}
PROPERTIES: dict[str, tuple[str, str]] = {
    "accuracy": ("The records themselves", "Asked for directly, does the knowledge still show?"),
    "generality": (
        "The same facts in other words",
        "Does it show when the question is put differently?",
    ),
    "portability": (
        "What follows from the facts",
        "Does it show in conclusions drawn from the records?",
    ),
    "locality": (
        "Everything that should stay",
        "Did knowledge that nobody asked to remove survive?",
    ),
    "efficiency": ("Cost", "What forgetting took."),
}
STRENGTHS = "More or less of the same change"
RETAIN_NLL = "loss on what should stay, nats per token"
STRENGTH_COLUMNS = (
    "Multiple of the change",
    "Share still known",
    "Loss on what should stay",
    "Kept",
)
ABOUT_SITES = (
    "Where the change was allowed to act. Each cell is a module of a block: the darker, the "
    "higher the locator scored it; framed ones were chosen."
)
ABOUT_STRENGTHS = (
    "Forgetting made one change to the weights. These are multiples of it: 0 is the model before, "
    "1 what training arrived at. A record counts as still known until it looks never trained on. "
    "Measured by the strategy itself on its own sample, not by the probes above."
)
TIERS = {
    "smoke": "a first look in minutes; it leaves out the strongest attacks",
    "standard": "the full set of questions, without retraining attacks",
    "deep": "every probe, including latent, relearning and low-precision ones",
}
LABELS = {
    "suppressed": (
        "Suppressed: the outputs no longer show the records. Traces may remain inside the model, "
        "and further training or a change of precision may bring them back."
    ),
    "removed": (
        "Removed, as far as this audit can see: outputs, latent, relearning and low-precision "
        "probes all agree with the comparison they were given."
    ),
    "none": (
        "Neither suppressed nor removed: this audit cannot use either word for the records, "
        "because they still show or because too little could be decided."
    ),
}
NO_REFERENCE = (
    "No reference model was measured. No figure can be held against a model that never saw the "
    "records, so the strongest conclusions are out of reach."
)
NO_ORIGINAL = (
    "The original model was not measured. The report cannot show how much changed, only where the "
    "unlearned model stands."
)
STANDING_LIMITS = (
    "Training data, back-ups, caches and models derived from this one were not looked at.",
    "This is technical evidence for a decision. It is neither the decision nor legal advice.",
)
NO_LIMITS = "The auditor named no limits. Read that as a gap in this record, not as a strength."
NO_PROVENANCE = "Nothing was recorded about how the unlearned model came to be."
PERSONAL = (
    "This section quotes records and model output. It may hold personal data and text nobody "
    "checked: share it only with people who may see the records. Invisible characters are spelled "
    "out, as in ⟨U+200B⟩."
)


class Meaning(NamedTuple):
    """How a verdict looks and what it says."""

    symbol: str
    meaning: str


VERDICTS = {
    Verdict.PASS: Meaning("✓", "The claim holds within the margin the auditor states."),
    Verdict.FAIL: Meaning("✕", "The figures contradict the claim."),
    Verdict.INCONCLUSIVE: Meaning("?", "Too little data to tell. This is not a pass."),
    Verdict.CONFOUNDED: Meaning(
        "≠", "Something other than memory may explain the figures, so they decide nothing."
    ),
    Verdict.NOT_RUN: Meaning("–", "The test was not carried out. Nothing is known either way."),
}

INTERVALS = (
    "Each figure, but for those that say otherwise, is a mean over records, with the range that "
    "the true mean plausibly lies in: were the audit repeated with other subjects, about 95 of 100 "
    "such ranges would contain it.",
    "Intervals are drawn over subjects, not records, because records about one subject rise and "
    "fall together. With a few subjects they are wide, or too narrow to trust, whatever the number "
    "of records. Where all records are about one subject, they are drawn over groups of its "
    "records, and say nothing of anybody else.",
    "Compare the unlearned model with the reference, not with zero: a model that never saw a "
    "record still guesses some of it. The shaded band marks the reference. Overlap with it "
    "is no proof of likeness; the verdicts above use the stated margins.",
    "A figure far beyond the reference on the other side is a warning too: a model that avoids a "
    "subject more than a stranger would gives that subject away.",
)
GLOSSARY = (
    ("AUC", "How often a record scores above a never-seen one; 0.5 is what chance gives."),
    ("Claim", "One sentence the audit judges, with the figures it rests on."),
    ("Digest", "A fingerprint of a model or a forget set. One changed bit gives another digest."),
    ("Finding", "One figure of one probe on one group of records, for each model measured."),
    ("Forget set", "The records a request covers, with the groups used to compare them."),
    ("Interval", "The range in which the true mean plausibly lies (95 %)."),
    ("Neighbours", "Records close to the forgotten ones, which should stay as they were."),
    ("Original", "The model as it was before forgetting."),
    ("Probe", "One way of testing what a model knows."),
    ("Record", "One fact a model may know: a prompt and its answer."),
    ("Reference", "A model trained like the original, but never on the records to forget."),
    ("Removed", "Suppressed, and deeper probes find no more than in the reference."),
    ("Seed", "The number that fixes every random choice, so that the audit can be run again."),
    ("Subject", "Who or what a record is about."),
    ("Suppressed", "The outputs no longer show the records; the inside may still hold them."),
    ("Tier", "How thorough the audit was: smoke, standard or deep."),
    ("Unlearned", "The model after forgetting: the one being audited."),
)

_MONTHS = (
    "January February March April May June July August September October November December".split()
)
_NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with control, bidirectional and zero-width characters spelled out.

    Line feeds and tabs stay, and so do the joiners U+200C and U+200D, which Persian, Indic scripts
    and emoji need.

    >>> visible("safe\x1b[31m")
    'safe⟨U+001B⟩[31m'
    """
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def cut(text: str, length: int) -> str:
    """The beginning of a text that is too long, and how much more there is.

    >>> cut("abcdef", 4)
    'abcd… (2 more characters in audit.json)'
    """
    left = len(text) - length
    return (
        text if left <= 0 else f"{text[:length]}… ({count(left, 'more character')} in audit.json)"
    )


def escape_hidden(json_text: str) -> str:
    """JSON text with the same characters as escapes, which a terminal shows inert."""
    return _HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], json_text)


def count(n: int, noun: str) -> str:
    """The number with its noun.

    >>> count(1, "subject"), count(1300, "record")
    ('1 subject', '1,300 records')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def number(value: float) -> str:
    """The value with two or three significant digits.

    >>> [number(v) for v in (0, 0.04567, 0.00091, -1.5, 48.27, 1234.5, 2.5e-9)]
    ['0', '0.046', '0.00091', '−1.50', '48.3', '1,234', '2.5 × 10⁻⁹']
    """
    if not math.isfinite(value):
        return NOT_COMPUTED if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size, sign = abs(value), "−" if value < 0 else ""
    if size == 0:
        return "0"
    if size < 1e-5 or size >= 1e7:
        digits, power = f"{size:.1e}".split("e")
        return f"{sign}{digits} × 10{str(int(power)).translate(_RAISED)}"
    if size < 0.01:
        return sign + f"{size:.{1 - math.floor(math.log10(size))}f}".rstrip("0")
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{sign}{size:,.{decimals}f}"


def interval(estimate: Estimate) -> str:
    """The 95 % interval as ``low to high``."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return NO_INTERVAL
    return f"{number(estimate.low)} to {number(estimate.high)}"


def sample_size(estimate: Estimate, subjects: int) -> str:
    """How many records and subjects an estimate rests on."""
    return f"{count(estimate.n, 'record')}, {count(min(estimate.clusters, subjects), 'subject')}"


def few_subjects(clusters: int, subjects: int) -> str:
    """What to know about an interval over few subjects; empty where there are enough.

    Args:
        clusters: how many groups of records the interval resamples.
        subjects: how many subjects the split has. With one, the groups are that subject's facts.
    """
    if subjects == 1 < clusters:
        return f"Interval over {clusters} groups, one subject."
    if clusters < FEW_SUBJECTS:
        return "Few subjects: interval may be too narrow."
    return ""


def below_half_step(shares: Mapping[str, float]) -> str:
    """How much of the change each precision may round away; empty where nothing is known."""
    if not shares:
        return ""
    each = ", ".join(f"{share:.0%} in {precision}" for precision, share in shares.items())
    return f"of the weights that changed, {each} moved by less than half a step"


def margins(calibration: Calibration | None) -> str:
    """Where the margins of the claims come from."""
    if calibration is None:
        return "the standing ones"
    return f"from {count(calibration.pairs, 'pair')} of never-trained models"


def day(created: str) -> str:
    """The moment in words, or the text itself where it is no ISO 8601 date.

    >>> day("2026-03-14T09:12:44Z")
    '14 March 2026, 09:12 UTC'
    """
    try:
        at = datetime.fromisoformat(created)
        zone = "" if at.tzinfo is None else " UTC"
        at = at.astimezone(UTC) if zone else at
    except (ValueError, OverflowError):
        return created
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M}{zone}"


def duration(seconds: float) -> str:
    """How long something took, rounded to what a reader cares about."""
    if not math.isfinite(seconds) or seconds < 0:
        return NOT_COMPUTED
    if seconds < 90:
        return count(round(seconds), "second")
    if seconds < 5400:
        return count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def headline(result: AuditResult) -> str:
    """The audit's outcome in one sentence."""
    if not result.claims:
        return "No claim was judged: this audit says nothing about the model."
    if result.verdict is Verdict.PASS:
        return _passed(result)
    start, verdicts, verb = _OTHERWISE[result.verdict]
    if result.verdict is Verdict.FAIL:
        start = _FAILED[result.label]
    part = sum(claim.verdict in verdicts for claim in result.claims)
    if not part:
        return f"{start}."
    joint = ", but" if result.verdict is Verdict.FAIL and result.label != "none" else ":"
    return f"{start}{joint} {_of(part, len(result.claims))} {verb[part > 1]}."


_FAILED = {
    "suppressed": "The model’s outputs no longer show these records",
    "removed": "No test found these records any more",
    "none": "Forgetting is not shown",
}
_OPEN = frozenset({Verdict.INCONCLUSIVE, Verdict.CONFOUNDED, Verdict.NOT_RUN})
_OTHERWISE = {
    Verdict.FAIL: ("", frozenset({Verdict.FAIL}), ("does not hold", "do not hold")),
    Verdict.INCONCLUSIVE: ("The audit cannot decide", _OPEN, ("stays open", "stay open")),
    Verdict.CONFOUNDED: (
        "The figures cannot be read as they stand",
        frozenset({Verdict.CONFOUNDED}),
        ("may have another explanation than memory", "may have another explanation than memory"),
    ),
    Verdict.NOT_RUN: (
        "The audit is not finished",
        frozenset({Verdict.NOT_RUN}),
        ("was not tested", "were not tested"),
    ),
}
"""How the sentence starts, which claims it counts, and its verb for one of them and for more."""


def _passed(result: AuditResult) -> str:
    if result.label == "removed" and "reference" in result.models:
        return (
            "In every test of this audit, the model behaved like one that never saw these records, "
            "within the stated margins."
        )
    if result.label == "suppressed":
        return "The model’s outputs no longer show these records, and every tested claim held."
    return "Every tested claim held, within the limits named below."


def _of(part: int, total: int) -> str:
    return f"{_words(part)} of {_words(total)} claim{'' if total == 1 else 's'}"


def _words(n: int) -> str:
    return _NUMBERS[n] if n < len(_NUMBERS) else f"{n:,}"


def left_out(n: int) -> str:
    """What stands below the examples when some are not shown."""
    return f"{count(n, 'more example')} in audit.json."


def tally(claims: Sequence[Claim]) -> tuple[tuple[Verdict, int], ...]:
    """How many claims got each verdict, worst first, verdicts nobody got left out."""
    found = Counter(claim.verdict for claim in claims)
    order = (
        Verdict.FAIL,
        Verdict.CONFOUNDED,
        Verdict.INCONCLUSIVE,
        Verdict.NOT_RUN,
        Verdict.PASS,
    )
    return tuple((verdict, found[verdict]) for verdict in order if found[verdict])
