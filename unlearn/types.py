"""The small nouns every room shares. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Split = Literal["forget", "retain", "neighbors", "holdout"]

SPLITS: tuple[Split, ...] = ("forget", "retain", "neighbors", "holdout")
"""What must go; what may be trained on to hold the rest; what is close by and only measured; what
no model was ever trained on."""

Measured = Literal["forget", "retain", "neighbors", "holdout", "general", "tasks"]

MEASURED: tuple[Measured, ...] = (*SPLITS, "general", "tasks")
"""What an audit measures: the splits of a forget set, and what has nothing to do with it: general
text and benchmark tasks."""

Role = Literal["original", "unlearned", "reference"]

Tokens = Literal["subject", "answer", "fact"]
"""Which tokens of a record count: the subject in the prompt, the answer, or of the answer what
depends on the subject."""

Text = Annotated[str, Field(min_length=1)]


class Noun(BaseModel):
    """A frozen value that knows its fields, and refuses any other.

    Its errors name the field and what is wrong with it, and never show the value, which may be
    personal data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Statement(Noun):
    """A prompt and the answer that completes it."""

    prompt: Text
    answer: Text
    separator: str = " "
    """What stands between prompt and answer; empty in scripts written without spaces."""

    @property
    def completion(self) -> str:
        """The text that follows the prompt, separator included."""
        return self.separator + self.answer

    @property
    def text(self) -> str:
        """Prompt and answer as one string."""
        return self.prompt + self.completion


class Record(Statement):
    """One thing a model may know, as one prompt and its answer.

    >>> Record(id="r1", subject="Ada Quill", relation="birthplace",
    ...        prompt="Ada Quill was born in", answer="Tarn").text
    'Ada Quill was born in Tarn'
    """

    id: Text
    subject: Text
    """Who or what the record is about; it occurs literally in the prompt."""
    relation: Text
    paraphrases: tuple[Text, ...] = ()
    """Other prompts with the same answer. Measured (generality), never trained on by a strategy."""
    alternatives: tuple[Text, ...] = ()
    """Wrong answers of the same type."""
    implications: tuple[Statement, ...] = ()
    """What follows from the record (portability). Measured, never trained on by a strategy."""
    translations: tuple[Statement, ...] = ()
    """The same fact in other languages. Measured, never trained on by a strategy."""

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every text that must not be blank, with the name of its field."""
        for field in ("id", "subject", "relation", "prompt", "answer"):
            yield field, getattr(self, field)
        for field in ("paraphrases", "alternatives"):
            for index, text in enumerate(getattr(self, field)):
                yield f"{field}[{index}]", text
        for field in ("implications", "translations"):
            for index, statement in enumerate(getattr(self, field)):
                yield f"{field}[{index}].prompt", statement.prompt
                yield f"{field}[{index}].answer", statement.answer


class Card(Noun):
    """What ``card.toml`` says of a forget set."""

    name: Text
    description: str
    language: str = ""
    """BCP 47 tags, for example ``en`` or ``ar, en``."""
    licence: str = ""


class Sites(Noun):
    """Where an update may act. A part that is ``None`` puts no restriction."""

    method: str
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Indices of decoder blocks, counted from 0."""
    modules: tuple[str, ...] | None = None
    """Fully qualified names of the modules whose own parameters may change."""
    weight_mask: Mapping[str, tuple[int, ...]] | None = None
    """Parameter name to the flat indices of the entries that may change."""
    token_mask: Mapping[str, tuple[int, ...]] | None = None
    """Forget record id to the token positions that count, in prompt plus answer with special
    tokens. A record that is not listed is not restricted."""
    scores: Mapping[str, float] = {}
    """Module name to the locator's score; higher means a better place to act."""
    settings: Mapping[str, str | int | float | bool | None] = {}
    seed: int = 0
    model_digest: str = ""
    forget_set_digest: str = ""

    @property
    def parts(self) -> frozenset[str]:
        """The restrictions present: a subset of layers, modules, weight_mask, token_mask."""
        names = ("layers", "modules", "weight_mask", "token_mask")
        return frozenset(name for name in names if getattr(self, name) is not None)


class Verdict(StrEnum):
    """What an audit says of one claim, or of all of them."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    CONFOUNDED = "CONFOUNDED"
    NOT_RUN = "NOT RUN"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 anything that proves neither."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(self, 3)


class Estimate(Noun):
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """How many records it is the mean of."""
    clusters: int
    """What the interval resamples: subjects, or facts or records where there is one subject."""


class Finding(Noun):
    """One figure of one probe on one split, for each model that was measured."""

    key: str
    """``metric/split``, for example ``extraction_strength/forget``, and ``@condition`` if any."""
    probe: str
    metric: str
    split: Measured
    condition: str = ""
    """The precision the models were brought to before measuring, for example ``int4``; empty for
    the models as they are."""
    title: str
    """The figure in plain words."""
    property: Literal["accuracy", "generality", "portability", "locality", "efficiency"]
    unit: str = ""
    more_knowledge: Literal["higher", "lower"] = "higher"
    """Which way the figure moves when the model knows more."""
    summary: Literal["mean", "auc", "tpr"] = "mean"
    """What the figure is of its records: their mean; the area under the ROC curve against
    ``contrast``; or the share above all but 1 % of the contrast."""
    models: Mapping[Role, Estimate]
    records: Mapping[Role, Mapping[str, float]] = {}
    """Role to record id to that record's value."""
    contrast: Mapping[Role, Mapping[str, float]] = {}
    """Role to holdout record id to value, where the figure sets the records against these."""
    axis: str = ""
    """What ``curves`` run along, for example ``layer``; empty where there are none."""
    curves: Mapping[Role, tuple[tuple[float, float], ...]] = {}


class Claim(Noun):
    """One sentence that the audit judges, with its verdict and its evidence."""

    id: str
    statement: str
    verdict: Verdict
    reason: str
    """Why, in plain words, with the figures that decided."""
    findings: tuple[str, ...]
    """Keys of the findings the verdict rests on."""
    n_needed: int | None = None
    """For INCONCLUSIVE: roughly how many subjects would decide it."""


class AuditedModel(Noun):
    """Which model played a role in an audit."""

    source: str
    digest: str
    dtype: str
    parameters: int | None
    """None where a model is only served."""


class AuditedSet(Noun):
    """Which forget set an audit used."""

    name: str
    digest: str
    records: Mapping[Measured, int]
    """How many records of each split were measured."""
    subjects: Mapping[Measured, int]


class Example(Noun):
    """What each model says to one prompt. Only in audits that were asked to show text."""

    record_id: str
    split: Split
    prompt: str
    expected: str
    outputs: Mapping[Role, str]


class Calibration(Noun):
    """How far figures of models that never saw the records differ, from training seed to seed."""

    forget_set_digest: str
    tier: Literal["smoke", "standard", "deep"]
    references: tuple[str, ...]
    """Digests of the never-trained models."""
    pairs: int
    """How many pairs of them were compared."""
    margins: Mapping[str, float]
    """Figure (``metric/split``) to the harm that is allowed: the farthest end of the 90 % intervals
    of the differences, at least the standing margin and at most a ceiling."""
    capped: tuple[str, ...] = ()
    """Figures whose differences reach beyond the ceiling: there even models that never saw the
    records are told apart."""


class Rung(Noun):
    """One step of the ladder of assurance."""

    id: str
    statement: str
    """What holds where it is reached, for a reader who is no specialist."""
    state: Literal["reached", "not reached", "not decided", "not tested"]
    why: str


class StrengthPoint(Noun):
    """One multiple of the change of weights that forgetting looked at."""

    strength: float
    """1 for what training arrived at, 0 for the original."""
    still_known: float
    """Share of the forget records, 0 to 1, that do not yet look never trained on. Lower: more is
    forgotten."""
    retain_nll: float
    """Nats per token on retain records, prompts given. Higher: more was lost."""
    kept: bool
    """Whether this is the multiple in the artifact."""


class SiteMap(Noun):
    """Where a change was allowed to act, and how the locator scored all places."""

    method: str
    scores: Mapping[str, float] = {}
    """Module name to the locator's score; higher means a better place to act."""
    modules: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    """What was chosen; ``None`` where that part was not restricted."""


class AuditResult(Noun):
    """Everything an audit found; the file form is ``audit.json``."""

    schema_version: Literal["1"] = "1"
    tool_version: str
    created: str
    """ISO 8601, UTC."""
    tier: Literal["smoke", "standard", "deep"]
    seed: int
    seconds: float
    models: Mapping[Role, AuditedModel]
    forget_set: AuditedSet
    findings: tuple[Finding, ...]
    claims: tuple[Claim, ...]
    verdict: Verdict
    """The worst of the claims."""
    label: Literal["suppressed", "removed", "none"]
    """``suppressed``: outputs no longer show it. ``removed`` also needs latent, relearning and
    low-precision probes. ``none``: not even suppressed, or not decided."""
    assurance: tuple[Rung, ...] = ()
    """How far the evidence reaches, lowest rung first."""
    limits: tuple[str, ...]
    """What this audit does not show, one sentence each."""
    calibration: Calibration | None = None
    """The margins from never-trained models that were used; None: the standing ones."""
    efficiency: Mapping[str, float] = {}
    """What forgetting cost, by name and unit, for example ``seconds``; from the artifact's log."""
    sites: SiteMap | None = None
    """Where the change was allowed to act; from the artifact's log. None: anywhere, or unknown."""
    strengths: tuple[StrengthPoint, ...] = ()
    """What other multiples of the change would have forgotten and cost, ascending; from the
    artifact's log."""
    below_half_step: Mapping[str, float] = {}
    """Precision to the share, in 0 to 1, of the changed weights that moved by less than half a step
    of its grid; empty without an original of the same shape, or where nothing changed."""
    provenance: Mapping[str, str] = {}
    """How the unlearned model came to be: strategy, settings, sites."""
    examples: tuple[Example, ...] = ()


class Problem(NamedTuple):
    """What is wrong with one field, in words that do not show its value."""

    field: str
    """Empty where the whole thing is wrong."""
    message: str

    def __str__(self) -> str:
        return f"field '{self.field}': {self.message}" if self.field else self.message


_KINDS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "is empty",
    "union_tag_invalid": "is of no known kind",
    "string_unicode": "holds a lone surrogate, which is not a character",
    "tuple_type": "must be a list",
    "model_type": "must be an object",
}


def first_problem(error: ValidationError, noun: type[Noun]) -> Problem:
    """The first thing that is wrong with what was to become a ``noun``."""
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    location, kind = detail["loc"], detail["type"]
    if not location:
        if kind == "json_invalid":
            return Problem("", detail["msg"].replace("Invalid JSON", "not valid JSON"))
        return Problem("", "must be a JSON object")
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    if kind != "extra_forbidden":
        return Problem(field, _KINDS.get(kind, detail["msg"]))
    known = (noun if len(location) == 1 else Statement).model_fields
    name = str(location[-1])
    if not (name.isascii() and name.isidentifier()):
        # Not even misspelt, so it may be a value that slipped into the place of a name.
        parent = field.removesuffix(name).rstrip(".")
        return Problem(parent, f"a field has an unknown name; known: {', '.join(known)}")
    if len(location) > 1 and noun is not Record:
        return Problem(field, "is not a known field")
    return Problem(field, f"is not a known field{nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all of them."""
    known = list(known)
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(known)}"
