"""What an audit does not show, one sentence each, as true of the audit at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unlearn.forget_set import ForgetSet
from unlearn.probes.benchmarks import tasks_of
from unlearn.probes.probe import TIERS, Tier
from unlearn.types import SPLITS, Split
from unlearn.verdicts.case import Case
from unlearn.verdicts.criteria import FORGET_MARGIN, MIN_SUBJECTS
from unlearn.verdicts.figures import clusters_of

UNTIL: Mapping[Tier, tuple[str, ...]] = {
    "standard": (
        "Nothing was sampled: answers that greedy decoding hides may come back with random "
        "decoding.",
        "No low-precision copy was measured: quantisation may bring the records back.",
        "No membership-inference attack was run against the holdout.",
        "Only the prompts of the forget set were tried: no prefilled answers, no attacks by "
        "prompt.",
    ),
    "deep": (
        "Nothing was trained: a little further training may bring the records back.",
        "Nothing inside the model was read: hidden layers may still hold what the outputs do not "
        "show.",
    ),
}
"""What is not shown by the tiers before this one."""

STANDING: tuple[str, ...] = (
    "Where answers are scored, all of their tokens must match; another spelling of them counts "
    "only in sampled texts.",
    "Attacks that were not tried may succeed.",
)

NO_GENERAL = "Perplexity is that of short answers; general text{} not measured."

SPLIT_LIMITS: dict[Split, str] = {
    "retain": "There are no retain records, so what was to be kept was not measured.",
    "neighbors": "There are no neighbouring records, so damage close by was not measured.",
    "holdout": "There are no holdout records, so nothing checks that the reference is ignorant.",
}


def limits_of(
    case: Case, forget_set: ForgetSet, tier: Tier, precisions: Sequence[str], dtype: str
) -> tuple[str, ...]:
    """The sentences that hold for this audit, the standing ones last."""
    return (
        *_of_models(case),
        *_of_records(case, forget_set),
        *_of_figures(case),
        *_of_tier(tier, precisions),
        *STANDING,
        *_of_the_rest(case),
        f"The figures hold only for the model with digest {case.digests['unlearned'][:12]} "
        f"in {dtype}{_and_copies(precisions)}.",
        "Whoever ran the audit knew the forget set, and may be the one who ran the forgetting.",
    )


def _of_the_rest(case: Case) -> Iterator[str]:
    """What has nothing to do with the forget set."""
    if "general" not in case.material:
        yield NO_GENERAL.format(" was" if "tasks" in case.material else " and benchmarks were")
    for task in tasks_of(case.material):
        if not task.judged:
            yield (
                f"No verdict rests on the benchmark task {task.name}: none of its figures is a "
                "share of its documents, so no margin fits it."
            )


def _of_tier(tier: Tier, precisions: Sequence[str]) -> Iterator[str]:
    for later, sentences in UNTIL.items():
        if TIERS.index(tier) < TIERS.index(later):
            yield from sentences
        elif later == "standard" and not precisions:
            yield sentences[1]


def _and_copies(precisions: Sequence[str]) -> str:
    if not precisions:
        return ""
    return (
        f", and for weights rounded to {', '.join(precisions)} in groups along the input; other "
        "ways to quantise may differ"
    )


def _of_models(case: Case) -> Iterator[str]:
    digests = case.digests
    if "reference" not in digests:
        yield "No never-trained reference was given: no figure on forget records can be judged."
    if "original" not in digests:
        yield "No original was given: what forgetting broke cannot be judged."
    elif digests["original"] == digests["unlearned"]:
        yield "The audited model is the original, bit for bit: it was measured once."
    if digests.get("reference") == digests["unlearned"]:
        yield (
            "The audited model is the reference, bit for bit: it was measured once, and the "
            "comparison says only what is known of how that reference came to be."
        )


def _of_records(case: Case, forget_set: ForgetSet) -> Iterator[str]:
    forget = case.material["forget"]
    n_subjects = len({record.subject for record in forget})
    if n_subjects < MIN_SUBJECTS:
        who = "one subject" if n_subjects == 1 else f"{n_subjects} subjects"
        yield f"The forget records are about {who}: nothing is shown for other subjects."
    for split in SPLITS:
        records = case.material.get(split, ())
        n_all = len(forget_set.split(split))
        if not n_all and split in SPLIT_LIMITS:
            yield SPLIT_LIMITS[split]
            continue
        if (kind := clusters_of(records).kind) != "subjects":
            yield f"The {split} records have one subject: their intervals resample its {kind}."
        if len(records) < n_all:
            yield f"Of {n_all} {split} records {len(records)} were drawn, whole subjects at random."


def _of_figures(case: Case) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for name, why in case.left_out.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        yield f"Probes of this tier that were not run ({why}): {', '.join(sorted(names))}."
    answers = case.findings.get("answers/forget")
    if answers is None or not {"original", "reference"} <= answers.models.keys():
        return
    original, reference = answers.models["original"], answers.models["reference"]
    if original.value <= reference.value + FORGET_MARGIN:
        yield (
            f"The original answered {original.value:.0%} of the forget records and the reference "
            f"{reference.value:.0%}: there was little to forget, so little is shown by passing."
        )
