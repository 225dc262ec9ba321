"""Trace: what causal tracing found, fact by fact. The file form is ``trace.json``. No torch here.

A trace holds token ids, which are text to whoever has the tokenizer. Keep it where the forget set
is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unlearn.types import Noun

Kind = Literal["hidden", "mlp", "attention"]
"""What is restored: the stream after a block, or what MLPs or attention add in a window of them."""

Part = Literal["mlp", "attention"]

KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attention")

Corruption = Literal["replace", "noise"]
Score = Literal["logit-diff", "logprob", "probability"]

Role = Literal[
    "before",
    "first-subject",
    "middle-subject",
    "last-subject",
    "first-after",
    "further",
    "last",
]
"""What a token is in its prompt. ``before``: before the subject. A subject of one token is its
last token. The last token of a prompt that ends with its subject is ``last-subject``."""

ROLES: tuple[Role, ...] = (
    "before",
    "first-subject",
    "middle-subject",
    "last-subject",
    "first-after",
    "further",
    "last",
)

SUBJECT_ROLES: tuple[Role, ...] = ("first-subject", "middle-subject", "last-subject")

Grid = tuple[tuple[float, ...], ...]
"""Tokens of the prompt by layers."""


class Noise(Noun):
    """How the noise of a fact can be drawn again.

    ``torch.randn(samples, len(positions), width, generator=torch.Generator().manual_seed(seed))``
    times ``standard_deviation`` is added to what the embedding puts out at ``positions``.
    """

    seed: int
    standard_deviation: float
    samples: int
    positions: tuple[int, ...]


class FactTrace(Noun):
    """Every cell of one record. An effect is the restored run's score minus the corrupted run's."""

    id: str
    cluster: int
    """Facts with the same number are about the same subject (or relation, in a set about one).
    -1 of a record that was asked for and not drawn."""
    token_ids: tuple[int, ...]
    """Of the prompt, special tokens in front included."""
    corrupted_token_ids: tuple[int, ...]
    """The same as ``token_ids`` where the corruption is noise."""
    answer_token_ids: tuple[int, ...]
    foil_token_id: int | None = None
    """The other token of a logit difference: what the corrupted run would say."""
    noise: Noise | None = None
    roles: tuple[Role, ...]
    """Of each token of the prompt."""
    clean: float
    """Score of the clean run."""
    corrupted: float
    """Score of the corrupted run; the mean over noise samples."""
    effects: Mapping[Kind, Grid]
    """Kinds that the model has no part for are left out."""
    severed: Mapping[Part, Grid] = {}
    """Effects of the stream clean again after a block, with the part held at its corrupted output
    at that token in all later blocks: what comes back without it. Estimates have none."""
    refined: tuple[tuple[Kind, int, int], ...] = ()
    """Kind, token and layer of the cells that were run, where all others are estimates."""

    @property
    def total_effect(self) -> float:
        """What the corruption took away: clean minus corrupted."""
        return self.clean - self.corrupted


class Skipped(Noun):
    """A record that was not traced, and why."""

    id: str
    reason: Literal["not-known", "no-replacement"]
    """``not-known``: the model does not give the answer. ``no-replacement``: no other subject of
    the forget set has as many tokens and changes the answer."""
    model_answer: str = ""
    """What the model says instead. Text of the model: as personal as the record."""


class Trace(Noun):
    """What causal tracing found on one model and one forget set."""

    schema_version: Literal["1"] = "1"
    tool_version: str
    method: Literal["causal-trace", "attribution"] = "causal-trace"
    """``attribution``: effects are estimates from gradients, but for those in ``refined``."""
    model_digest: str
    forget_set_digest: str
    seed: int
    corruption: Corruption
    score: Score
    """``logit-diff``: logit of the first answer token minus that of the foil. ``logprob``: sum of
    log-probabilities of the answer's tokens, in nats. ``probability``: of its first token."""
    windows: Mapping[Kind, tuple[tuple[int, int], ...]]
    """For each layer, the first and the last block that its cell restores."""
    settings: Mapping[str, str | int | float | bool | None]
    records: tuple[FactTrace, ...]
    skipped: tuple[Skipped, ...] = ()
    retained: tuple[FactTrace, ...] = ()
    """Retain records that the sites were held against. They are in no average."""
    not_covered: tuple[str, ...] = ()
    """Ids of records for which the time did not suffice."""
    extra: tuple[FactTrace | Skipped, ...] = ()
    """Records that were asked for by id, and that otherwise were not drawn or not reached in time.
    They are in no average, so that asking for one changes no figure."""

    def of(self, record_id: str) -> FactTrace | Skipped | None:
        """What there is of a record; None of one that was neither drawn and reached nor asked for.

        >>> trace.of("r1").clean  # doctest: +SKIP
        3.2
        """
        everything = (*self.records, *self.skipped, *self.extra)
        return next((found for found in everything if found.id == record_id), None)

    @property
    def n_layers(self) -> int:
        """How many blocks the model has."""
        return len(self.windows["hidden"])


def window(layer: int, width: int, n_layers: int) -> range:
    """The blocks of a window of ``width`` around ``layer``, cut at both ends of the model.

    ``layer - width // 2`` and the ``width - 1`` blocks after it: with 10, ``layer - 5`` to
    ``layer + 4``. So ROME's code has it; its paper (appendix B.2) writes one block later.
    """
    first = layer - width // 2
    return range(max(0, first), min(n_layers, first + width))


def roles_of(n_tokens: int, subject: range) -> tuple[Role, ...]:
    """The role of each token of a prompt whose subject (its last mention) has these positions."""

    def role(token: int) -> Role:
        if token == subject.stop - 1:
            return "last-subject"
        if token < subject.start:
            return "before"
        if token in subject:
            return "first-subject" if token == subject.start else "middle-subject"
        if token == n_tokens - 1:
            return "last"
        return "first-after" if token == subject.stop else "further"

    return tuple(role(token) for token in range(n_tokens))
