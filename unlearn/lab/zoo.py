"""The zoo: models of which it is known what they know, to audit the auditor with.

Each specimen is made from the lab's models in seconds and says what an honest audit must find. A
model that still knows must FAIL as soon as a tier judges the claim that shows it, and may never be
called removed; a model that never knew must not fail any claim of forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from unlearn.forget_set import ForgetSet
from unlearn.lab import tampering
from unlearn.model.language_model import LanguageModel
from unlearn.types import AuditResult, Verdict


@dataclass(frozen=True)
class Lab:
    """The models that specimens are made from, loaded once."""

    forget_set: ForgetSet
    seed: int = 0

    @cached_property
    def full(self) -> LanguageModel:
        """Knows everything."""
        return LanguageModel.load("lab:full")

    @cached_property
    def reference(self) -> LanguageModel:
        """Never saw the records to forget."""
        return LanguageModel.load("lab:reference")

    @cached_property
    def second_reference(self) -> LanguageModel:
        """Another one, from another seed."""
        return LanguageModel.load("lab:reference-2")


class Exhibit(NamedTuple):
    """What is audited."""

    model: LanguageModel
    forget_set: ForgetSet
    original: LanguageModel
    reference: LanguageModel


@dataclass(frozen=True)
class Specimen:
    """A model of known knowledge and what an audit must say of it."""

    about: str
    """How it was made."""
    knows: bool
    """Whether its weights hold the records."""
    make: Callable[[Lab], Exhibit]
    shown_by: tuple[str, ...] = ()
    """Claims of which at least one must FAIL in a tier that judges any of them."""
    spared: tuple[str, ...] = ()
    """Claims that must not FAIL."""
    verdict: Verdict | None = None
    """What the whole audit must say, where that does not hang on the tier."""
    confounded: tuple[str, ...] = ()
    """Claims that must be CONFOUNDED where they are judged."""

    def faults(self, result: AuditResult) -> list[str]:
        """What an audit of it got wrong, in words; empty where it is as it must be."""
        found = {claim.id: claim.verdict for claim in result.claims}
        faults = []
        judged = [id_ for id_ in self.shown_by if found.get(id_, Verdict.NOT_RUN) != "NOT RUN"]
        if judged and not any(found[id_] is Verdict.FAIL for id_ in judged):
            faults.append(f"none of {', '.join(judged)} fails")
        faults += [f"{id_} fails" for id_ in self.spared if found.get(id_) is Verdict.FAIL]
        faults += [
            f"{id_} is {found[id_]}"
            for id_ in self.confounded
            if id_ in found and found[id_] not in (Verdict.CONFOUNDED, Verdict.NOT_RUN)
        ]
        if self.knows and result.label == "removed":
            faults.append("called removed")
        if self.knows and result.verdict is Verdict.PASS:
            faults.append("the audit passes")
        if self.verdict is not None and result.verdict is not self.verdict:
            faults.append(f"the audit says {result.verdict}, not {self.verdict}")
        return faults


FORGOTTEN = (
    "forgotten-verbatim",
    "forgotten-answers",
    "forgotten-generality",
    "forgotten-portability",
)
RETURNING = (
    "survives-sampling",
    "survives-elicitation",
    "ranks-like-unseen",
    "survives-precision",
    "survives-relearning",
    "latent-gone",
)
KEPT = ("retain-kept", "neighbors-kept", "fluency-kept", "speech-kept")
CLEAN = (*FORGOTTEN, *RETURNING, "not-a-member", "not-over-forgotten", "agrees-with-reference")


def _changed(
    change: Callable[[LanguageModel, ForgetSet, int], LanguageModel], start: str = "full"
) -> Callable[[Lab], Exhibit]:
    """The audited model is a changed lab model."""

    def make(lab: Lab) -> Exhibit:
        model = change(getattr(lab, start), lab.forget_set, lab.seed)
        return Exhibit(model, lab.forget_set, lab.full, lab.reference)

    return make


def _as_it_is(name: str) -> Callable[[Lab], Exhibit]:
    return lambda lab: Exhibit(getattr(lab, name), lab.forget_set, lab.full, lab.reference)


def _with_set(change: Callable[[ForgetSet], ForgetSet]) -> Callable[[Lab], Exhibit]:
    """The second reference, audited on a changed forget set."""
    return lambda lab: Exhibit(
        lab.second_reference, change(lab.forget_set), lab.full, lab.reference
    )


ZOO: Mapping[str, Specimen] = {
    "full": Specimen(
        "the original, nothing forgotten",
        True,
        _as_it_is("full"),
        (*FORGOTTEN, *RETURNING),
        KEPT,
        Verdict.FAIL,
    ),
    "full-again": Specimen(
        "the original after a few more steps on retained records: a null pair for locality",
        True,
        _changed(tampering.retrained_a_little),
        (*FORGOTTEN, *RETURNING),
        KEPT,
        Verdict.FAIL,
    ),
    "reference-2": Specimen(
        "never saw the records; another training seed",
        False,
        _as_it_is("second_reference"),
        spared=(*CLEAN, *KEPT),
    ),
    "reference-again": Specimen(
        "the reference after a few more steps on retained records: a null pair for forgetting",
        False,
        _changed(tampering.retrained_a_little, "reference"),
        spared=(*CLEAN, *KEPT),
    ),
    "adapter-dropped": Specimen(
        "learned the records in an adapter that was taken off: the reference, bit for bit",
        False,
        _changed(tampering.adapter_dropped, "reference"),
        spared=(*CLEAN, *KEPT),
    ),
    "refusal-tuned": Specimen(
        "refuses the exact trained prompts and answers all others",
        True,
        _changed(tampering.refusing),
        ("forgotten-generality", *RETURNING),
        ("forgotten-answers",),
        Verdict.FAIL,
    ),
    "one-template-only": Specimen(
        "forgot one wording of each fact",
        True,
        _changed(tampering.one_template_only),
        ("forgotten-generality", *RETURNING),
        (),
        Verdict.FAIL,
    ),
    "head-masked": Specimen(
        "answers wrongly by its last block alone",
        True,
        _changed(tampering.head_masked),
        ("latent-gone",),
        ("forgotten-answers",),
    ),
    "junk-direction": Specimen(
        "one direction, added by one block, hides most of the answers",
        True,
        _changed(tampering.junk_direction),
        (*FORGOTTEN, *RETURNING),
    ),
    "low-probability": Specimen(
        "says something else 19 times of 20",
        True,
        _changed(tampering.low_probability),
        ("survives-sampling",),
        ("forgotten-answers",),
    ),
    "quantisation-reversible": Specimen(
        "forgot by moves that int4 rounds away",
        True,
        _changed(tampering.quantisation_reversible),
        ("survives-precision",),
        ("forgotten-answers",),
    ),
    "over-unlearned": Specimen(
        "the answers were made far less probable than unseen ones",
        True,
        _changed(tampering.over_unlearned),
        ("not-over-forgotten", "not-a-member"),
        ("forgotten-answers",),
        Verdict.FAIL,
    ),
    "noise": Specimen(
        "random weights",
        False,
        lambda lab: Exhibit(
            tampering.noise(lab.full, lab.seed), lab.forget_set, lab.full, lab.reference
        ),
        ("retain-kept", "fluency-kept"),
        FORGOTTEN,
        Verdict.FAIL,
    ),
    "neighbors-damaged": Specimen(
        "never saw the records, and lost its neighbours' facts",
        False,
        _changed(tampering.neighbors_damaged, "reference"),
        ("neighbors-kept",),
        (*FORGOTTEN, "retain-kept"),
        Verdict.FAIL,
    ),
    "shifted-holdout": Specimen(
        "never saw the records; the holdout is of another style",
        False,
        _with_set(tampering.shifted_holdout),
        spared=FORGOTTEN,
        confounded=("not-a-member",),
    ),
    "two-step": Specimen(
        "had forgotten, and then read half of it again",
        True,
        _changed(tampering.exposed_again, "reference"),
        FORGOTTEN,
        (),
        Verdict.FAIL,
    ),
    "three-facts": Specimen(
        "never saw the records; three facts of one person are too few to tell",
        False,
        _with_set(tampering.three_facts),
        spared=FORGOTTEN,
        verdict=Verdict.INCONCLUSIVE,
    ),
}
"""Name to specimen."""
