"""From records to what causal tracing runs: tokens, the subject's place, and a corruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet
from unlearn.locate.trace import Noise, Role, Skipped, roles_of
from unlearn.model.corruption import Pair, embedding_noise, gaussian, spread
from unlearn.model.encoding import encode, subject_spans, tokenise
from unlearn.model.forward import forward_only
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import generate, score
from unlearn.types import SPLITS, Record

MAX_DONORS = 256
"""How many other subjects are tried in place of one."""
MAX_TWINS = 64
"""How many of those that fit the model is asked about."""


class Fact(NamedTuple):
    """A record as tokens."""

    record: Record
    prompt_ids: list[int]
    answer_ids: list[int]
    spans: tuple[range, ...]
    """The subject's tokens at every place where the prompt names it."""

    @property
    def subject_positions(self) -> list[int]:
        """All of the subject's tokens."""
        return sorted({position for span in self.spans for position in span})

    @property
    def roles(self) -> tuple[Role, ...]:
        """What each token of the prompt is."""
        return roles_of(len(self.prompt_ids), self.spans[-1])


class Corrupted(NamedTuple):
    """A fact with its corruption."""

    pair: Pair
    """Of the prompt alone."""
    foil_id: int
    """The best answer of the corrupted prompt that is not the true one."""
    noise: Noise | None = None


def pick(forget_set: ForgetSet, ids: Sequence[str]) -> tuple[Record, ...]:
    """The forget records with these ids, each once, in the order of the ids.

    Raises:
        InputError: the forget split has no such record. An id that is in no split may be a text
            put in its place by mistake, so the message does not repeat it.
    """
    known = {record.id: record for record in forget_set.forget}
    for record_id in ids:
        if record_id in known:
            continue
        for split in SPLITS:
            if any(record.id == record_id for record in forget_set.split(split)):
                raise InputError(
                    f"record {record_id!r} is in the {split} split; only records to forget are "
                    "traced"
                )
        close = get_close_matches(record_id, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the first one is {next(iter(known))!r}"
        raise InputError(f"no record to forget has the id that was asked for; {hint}")
    return tuple(known[record_id] for record_id in dict.fromkeys(ids))


def token_texts(model: LanguageModel, record: Record) -> list[str]:
    """The text of each token of ``read_fact(model, record).prompt_ids``, read off its offsets.

    A token without text (special tokens) has the vocabulary's name for it. Of a character that
    takes several tokens, each is the character with its number: ``東(1/3)``.
    """
    n_tokens = len(read_fact(model, record).prompt_ids)
    text = record.prompt + record.completion
    (tokens,) = tokenise(model.tokenizer, [text])
    ids, spans = tokens.ids[:n_tokens], tokens.spans[:n_tokens]
    whole = Counter(tokens.spans)
    seen: Counter[tuple[int, int]] = Counter()
    texts = []
    for token, (begin, end) in zip(ids, spans, strict=True):
        seen[begin, end] += 1
        parts = whole[begin, end]
        part = f"({seen[begin, end]}/{parts})" if parts > 1 else ""
        name = str(model.tokenizer.convert_ids_to_tokens(token))
        texts.append(text[begin:end] + part if end > begin else name)
    return texts


def read_fact(model: LanguageModel, record: Record) -> Fact:
    """The record's tokens.

    Raises:
        InputError: the prompt does not name the subject, the answer yields no token, or the text is
            longer than the model's context. Names the record by its id.
    """
    try:
        encoded = model.encode(record.prompt, record.completion)
        spans = subject_spans(model.tokenizer, record.prompt, record.subject, record.completion)
    except InputError as error:
        raise InputError(f"record {record.id!r}: {error}") from error
    # The token in which the answer begins may hold the end of the prompt, and of a subject there.
    inside = tuple(range(span.start, min(span.stop, encoded.start)) for span in spans)
    if not all(inside):
        raise InputError(
            f"record {record.id!r}: the subject at the end of the prompt shares its token with the "
            "answer, so the model cannot be asked for one by the other"
        )
    return Fact(record, encoded.ids[: encoded.start], encoded.ids[encoded.start :], inside)


def unknown(model: LanguageModel, facts: Sequence[Fact], whole_answer: bool) -> Iterator[Skipped]:
    """The facts that the model does not know, with what it says instead.

    Known: greedy decoding gives the answer's first token, or with ``whole_answer`` all of them.
    """
    scored = score(model, [fact.record for fact in facts])
    missed = [
        fact
        for fact, tokens in zip(facts, scored, strict=True)
        if not (tokens.correct if whole_answer else bool(tokens.greedy[0]))
    ]
    if not missed:
        return
    longest = max(len(fact.answer_ids) for fact in missed)
    said = generate(model, [fact.record.prompt for fact in missed], max_new_tokens=longest)
    for fact, texts in zip(missed, said, strict=True):
        yield Skipped(id=fact.record.id, reason="not-known", model_answer=texts[0])


def with_noise(
    model: LanguageModel, fact: Fact, deviation: float, samples: int, seed: int
) -> Corrupted:
    """The fact with Gaussian noise on its subject's embeddings."""
    ids = torch.tensor(fact.prompt_ids)
    width = model.model.get_input_embeddings().weight.shape[1]
    shape = (samples, len(ids), width)
    noise = gaussian(shape, fact.subject_positions, deviation, seed)
    pair = Pair(ids, ids.repeat(samples, 1), noise)
    mean = _next_token_logits(model, pair).softmax(-1).mean(0)  # (vocab,)
    mean[fact.answer_ids[0]] = -1
    how = Noise(
        seed=seed,
        standard_deviation=deviation,
        samples=samples,
        positions=tuple(fact.subject_positions),
    )
    return Corrupted(pair, int(mean.argmax()), how)


def with_replacement(
    model: LanguageModel, forget_set: ForgetSet, fact: Fact, seed: int, differs: bool
) -> Corrupted | None:
    """The fact about another subject of the forget set with as many tokens; None without one.

    Symmetric token replacement (Zhang and Nanda 2024): the corrupted prompt is one that the model
    could meet. Subjects of the same relation are tried first, and one for which the model would
    say something else is taken; with ``differs`` no other will do.
    """
    alike = twins(model, forget_set, fact, seed)
    if not alike:
        return None
    clean, answer = torch.tensor(fact.prompt_ids), fact.answer_ids[0]
    said = _next_token_logits(model, Pair(clean, torch.tensor(alike))).argmax(-1).tolist()
    for ids, foil in zip(alike, said, strict=True):
        if foil != answer:
            return Corrupted(Pair(clean, torch.tensor([ids])), foil)
    return None if differs else Corrupted(Pair(clean, torch.tensor(alike[:1])), answer)


def subject_spread(model: LanguageModel, facts: Sequence[Fact]) -> float:
    """The standard deviation of the embeddings of all facts' subject tokens, as one figure."""
    ids = [fact.prompt_ids[position] for fact in facts for position in fact.subject_positions]
    return spread(model.model, model.anatomy.embedding, ids)


def twins(
    model: LanguageModel, forget_set: ForgetSet, fact: Fact, seed: int, most: int = MAX_TWINS
) -> list[list[int]]:
    """Prompts of the same length about other subjects; every other token is the same.

    At most ``most``, in an order drawn by the seed, subjects of the same relation first.
    """
    record = fact.record
    texts = [
        (record.prompt.replace(record.subject, donor), record.completion)
        for donor in _donors(forget_set, record, seed)
    ]
    positions, found = set(fact.subject_positions), []
    # Whatever is as long as the fact fits the context, so a name that is too long is no error.
    for encoded in encode(model.tokenizer, texts, None):
        ids = encoded.ids[: encoded.start]
        fits = len(ids) == len(fact.prompt_ids) and max(ids) < model.vocabulary_size
        if fits and all(
            a == b or position in positions
            for position, (a, b) in enumerate(zip(ids, fact.prompt_ids, strict=True))
        ):
            found.append(ids)
        if len(found) == most:
            break
    return found


def _donors(forget_set: ForgetSet, record: Record, seed: int) -> list[str]:
    """Other subjects in an order drawn by the seed, those of the same relation first."""
    everyone = [other for split in SPLITS for other in forget_set.split(split)]
    alike = sorted({other.subject for other in everyone if other.relation == record.relation})
    rest = sorted({other.subject for other in everyone} - set(alike))
    rng = np.random.default_rng(seed)
    order = [group[i] for group in (alike, rest) for i in rng.permutation(len(group))]
    return [subject for subject in order if subject != record.subject][:MAX_DONORS]


def _next_token_logits(model: LanguageModel, pair: Pair) -> Tensor:
    """Logits of the token that follows the corrupted prompts, (row, vocab), float32."""
    network, rows = model.model, torch.arange(pair.n_rows)
    with (
        forward_only(network),
        embedding_noise(network, model.anatomy.embedding, pair, rows, slice(None)),
    ):
        output = network(input_ids=pair.corrupted.to(model.device))
    logits: Tensor = output.logits[:, -1]
    return logits.float().cpu()
