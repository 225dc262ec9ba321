"""What hidden states still hold: the logit lens, and linear probes fitted afresh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from unlearn.model.encoding import subject_spans
from unlearn.model.language_model import LanguageModel
from unlearn.model.lens import Lens
from unlearn.model.linear_probe import Floats, Labels, cross_validated, predict
from unlearn.model.scoring import distinct_jobs
from unlearn.model.streams import read_states, streams
from unlearn.probes.probe import UNBOUNDED, Bench, Curve, Measurement, ModelProbe
from unlearn.registry import probes
from unlearn.types import Record, Role

CANDIDATES = 4
"""How many tokens the lens may propose for each token of an answer, at one depth."""

FOLDS = 4
"""Of the cross-validation that chooses what a linear probe reads."""
SHUFFLES = 3
"""Random labellings that the control is the mean of."""
MIN_SUBJECTS = 2
"""Of an answer among the training subjects, so that some fold can be tested on it."""
MAX_EXAMPLES = 500
"""The most training records of a relation."""
PLATEAU = 0.9
"""The first depth that reaches this share of the best is read."""


class Seen(NamedTuple):
    """What the lens shows of one answer; one entry a depth."""

    logprob: Floats
    """Mean log-probability of the answer tokens, in nats."""
    rank: npt.NDArray[np.int64]
    """The worst rank of an answer token; 0 is the first choice."""


@probes.register("logit-lens")
class LogitLens(ModelProbe):
    """Whether the answers to forget can be read off any depth by the model's own unembedding.

    The true text before each answer token is given. ``lens_answers`` is 1 where at one depth every
    answer token is among the 4 likeliest, the attack with a candidate budget of Patil et al. 2023
    (arXiv 2309.17410), asked of the whole answer. ``lens_logprob`` is the best depth's mean
    log-probability of the answer tokens. Both are higher when the model knows more, in 0..1 and in
    nats up to 0. The last depth is what the model says, so both are at least what is said openly.
    Curves: share and log-probability by how many blocks the state has passed.

    Four candidates at every depth find some answers by luck: only a reference says how many. What
    is written in another basis than the unembedding's is missed, and an unembedding that was itself
    edited blinds the lens; ``patching-depth`` and ``linear-probe`` do not depend on it.
    """

    summary = "whether some depth still brings up the answers to forget"
    honours = frozenset({"weights"})
    cost = "one forward pass for each forget record, with one unembedding for each block"
    tier = "deep"
    property = "accuracy"

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``lens_answers/forget`` and ``lens_logprob/forget``."""
        found: dict[Role, list[Measurement]] = {}
        records = bench.material["forget"]
        for lm, roles in bench.by_digest().values():
            seen = through_lens(lm, records)
            for role in roles:
                found[role] = _of_lens(records, seen)
        return {role: found[role] for role in bench.models}


def through_lens(lm: LanguageModel, records: Sequence[Record]) -> list[Seen]:
    """What the lens shows of each record's answer."""
    jobs, sources = distinct_jobs(lm, records)
    texts = [job.encoding.ids for job in jobs]
    positions = [range(job.encoding.start - 1, len(job.encoding.ids) - 1) for job in jobs]
    lens, seen = Lens(lm), dict[int, Seen]()
    for states in read_states(lm, texts, positions):
        starts = np.flatnonzero(np.diff(states.texts, prepend=-1))
        ids = torch.tensor(
            [texts[index][at + 1] for index in states.texts[starts] for at in positions[index]]
        )
        logprob, rank = _own(lens, states.stream, ids)
        for index, own, worst in zip(
            states.texts[starts],
            np.split(logprob, starts[1:]),
            np.split(rank, starts[1:]),
            strict=True,
        ):
            seen[jobs[index].statement] = Seen(own.mean(0), worst.max(0))
    return [seen[source] for source in sources]


def _own(
    lens: Lens, stream: torch.Tensor, ids: torch.Tensor
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Log-probability and rank of each token at each depth, (token, depth)."""
    logprob = np.zeros(stream.shape[:2])
    rank = np.zeros(stream.shape[:2], dtype=np.int64)
    for depth in range(stream.shape[1]):
        for piece, logprobs in lens.logprobs(stream[:, depth]):
            own = logprobs.gather(1, ids[piece, None].to(logprobs.device))
            logprob[piece, depth] = own[:, 0].double().cpu().numpy()
            rank[piece, depth] = (logprobs > own).sum(1).cpu().numpy()
    return logprob, rank


def _of_lens(records: Sequence[Record], seen: Sequence[Seen]) -> list[Measurement]:
    among = np.array([one.rank for one in seen]) < CANDIDATES  # (record, depth)
    logprob = np.array([one.logprob for one in seen])
    return [
        Measurement(
            metric="lens_answers",
            split="forget",
            title="Answers among the candidates of some depth",
            values=_values(records, among.max(1)),
            curve=layer_curve(among.mean(0)),
        ),
        Measurement(
            metric="lens_logprob",
            split="forget",
            title="Log-probability of the answers at the best depth",
            values=_values(records, logprob.max(1)),
            unit="nats per token",
            bounds=UNBOUNDED,
            curve=layer_curve(logprob.mean(0)),
        ),
    ]


def layer_curve(figures: Floats) -> Curve:
    """A figure for each depth of the stream, by how many blocks it has passed."""
    return Curve("layer", tuple((float(at), float(value)) for at, value in enumerate(figures)))


def _values(records: Sequence[Record], figures: npt.NDArray[np.bool_] | Floats) -> dict[str, float]:
    return {record.id: float(value) for record, value in zip(records, figures, strict=True)}


class Lesson(NamedTuple):
    """What a linear probe of one relation is trained on, and what it is asked."""

    train: tuple[Record, ...]
    test: tuple[Record, ...]
    labellings: tuple[Labels, ...]
    """Of the training records: their answers first, then those of other subjects at random."""


class Readings(NamedTuple):
    """What the probes of one relation say; every array is (labelling, record, token, depth)."""

    validated: Floats
    """Right or not on each training record, asked of a probe trained on other subjects."""
    asked: Floats
    """Right or not on each forget record."""


@probes.register("linear-probe")
class LinearProbe(ModelProbe):
    """Whether a linear probe, trained on other subjects, reads the answers to forget.

    For each relation a ridge classifier from hidden state to answer is trained on retain and
    neighbouring records, which the model is to know, and asked about the forget records. Which
    token is read (the subject's last or the prompt's last) and how deep is chosen by
    cross-validation over the training subjects, never by what is to be forgotten: the first depth
    that reaches nine tenths of the best accuracy. ``probed_answers`` is 1 where the probe says the
    answer, ``probed_control`` the same for probes trained on the answers of other subjects drawn at
    random (Hewitt and Liang 2019), the mean of three. Both in 0..1; higher when more is left.
    Curves: accuracy on the forget records by how many blocks the state has passed.

    Answers that fewer than two training subjects share cannot be asked for: those records are left
    out, and where none is left there is no figure. A probe can also be led by the name alone, and
    one that was trained against may fall below chance (read the figure two-sided): only the
    distance to a reference speaks of knowledge.
    """

    summary = "whether a linear probe trained on other subjects reads the answers to forget"
    honours = frozenset({"weights"})
    cost = "one forward pass for each forget, retain and neighbouring record, and small regressions"
    tier = "deep"
    property = "accuracy"
    needs = frozenset({"retain"})

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``probed_answers/forget`` and ``probed_control/forget``."""
        lessons = lessons_of(bench)
        if not lessons:
            return {}
        found: dict[Role, list[Measurement]] = {}
        for lm, roles in bench.by_digest().values():
            figures = _of_probe(lessons, [readings(lm, lesson) for lesson in lessons])
            for role in roles:
                found[role] = figures
        return {role: found[role] for role in bench.models}


def lessons_of(bench: Bench) -> list[Lesson]:
    """What can be asked of linear probes, relation by relation."""
    rng = np.random.default_rng(bench.seed)
    known: dict[str, list[Record]] = defaultdict(list)
    asked: dict[str, list[Record]] = defaultdict(list)
    forgotten = {record.subject for record in bench.material["forget"]}
    for split in ("retain", "neighbors"):
        for record in bench.material.get(split, ()):
            if record.subject not in forgotten:
                known[record.relation].append(record)
    for record in bench.material["forget"]:
        asked[record.relation].append(record)
    lessons = []
    for relation, test in sorted(asked.items()):
        train = _shared(known[relation])
        train = [train[at] for at in sorted(rng.permutation(len(train))[:MAX_EXAMPLES])]
        answers = {record.answer for record in train}
        able = tuple(record for record in test if record.answer in answers)
        if able and len(answers) > 1 and len({r.subject for r in train}) >= FOLDS:
            labels = np.array([record.answer for record in train])
            shuffled = tuple(_shuffled(train, rng) for _ in range(SHUFFLES))
            lessons.append(Lesson(tuple(train), able, (labels, *shuffled)))
    return lessons


def _shared(records: Sequence[Record]) -> list[Record]:
    """The records whose answer enough subjects have."""
    subjects: dict[str, set[str]] = defaultdict(set)
    for record in records:
        subjects[record.answer].add(record.subject)
    return [record for record in records if len(subjects[record.answer]) >= MIN_SUBJECTS]


def _shuffled(records: Sequence[Record], rng: np.random.Generator) -> Labels:
    """For each record the answer of another subject, the same for all records of a subject."""
    answers = {record.subject: record.answer for record in records}
    drawn = rng.permutation(list(answers.values()))
    by_subject = dict(zip(answers, drawn.tolist(), strict=True))
    return np.array([by_subject[record.subject] for record in records])


def readings(lm: LanguageModel, lesson: Lesson) -> Readings:
    """What the probes of one relation say of the training and of the forget records."""
    train, test = _states(lm, lesson.train), _states(lm, lesson.test)
    groups = np.array([record.subject for record in lesson.train])
    answers = np.array([record.answer for record in lesson.test])
    validated = np.stack(
        [
            cross_validated(train[:, token], lesson.labellings[:1], groups, FOLDS)
            for token in range(train.shape[1])
        ],
        axis=2,
    )
    asked = np.zeros((len(lesson.labellings), *test.shape[:3]))
    for token, depth in np.ndindex(*test.shape[1:3]):
        said = predict(train[:, token, depth], lesson.labellings, test[:, token, depth])
        asked[:, :, token, depth] = [labels == answers for labels in said]
    return Readings(validated, asked)


def _states(lm: LanguageModel, records: Sequence[Record]) -> npt.NDArray[np.float32]:
    """The stream at the subject's last and the prompt's last token, (record, 2, depth, width)."""
    jobs, sources = distinct_jobs(lm, records)
    positions = []
    for job in jobs:
        record, start = records[job.statement], job.encoding.start
        spans = subject_spans(lm.tokenizer, record.prompt, record.subject, record.completion)
        # The token in which the answer begins may hold the end of the subject.
        positions.append((min(spans[-1].stop, start) - 1, start - 1))
    texts = [job.encoding.ids[: job.encoding.start] for job in jobs]
    found = streams(lm, texts, positions)
    row_of = {job.statement: row for row, job in enumerate(jobs)}
    return found[[row_of[source] for source in sources]]


def _of_probe(lessons: Sequence[Lesson], found: Sequence[Readings]) -> list[Measurement]:
    accuracy = np.concatenate([of.validated[0] for of in found]).mean(0)  # (token, depth)
    token = int(accuracy.max(1).argmax())
    depth = int(np.argmax(accuracy[token] >= PLATEAU * accuracy[token].max()))
    asked = np.concatenate([of.asked[:, :, token] for of in found], axis=1)
    records = [record for lesson in lessons for record in lesson.test]
    parts: Mapping[str, tuple[str, Floats]] = {
        "probed_answers": ("Answers a linear probe reads from hidden states", asked[0]),
        "probed_control": ("Answers a probe trained on random labels reads", asked[1:].mean(0)),
    }
    return [
        Measurement(
            metric=metric,
            split="forget",
            title=title,
            values=_values(records, right[:, depth]),
            curve=layer_curve(right.mean(0)),
        )
        for metric, (title, right) in parts.items()
    ]
