"""Text to tokens: where the completion starts, and which tokens a subject occupies.

A prompt and its completion are tokenised as one string, because tokenising them apart gives other
tokens than the model meets in running text. Everything here is read off the tokenizer's character
offsets; nothing depends on how a vocabulary spells a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from unlearn.errors import ForgetSetError, TextError
from unlearn.model.policy import PLAIN, Treatment

Told = TypeVar("Told")

PROBE = "a"
"""A text that shows which tokens a tokenizer puts around every text."""


class Encoding(NamedTuple):
    """Token ids, and the index of the first one that belongs to the completion."""

    ids: list[int]
    start: int
    """``len(ids)`` where there is no completion."""


class Tokenised(NamedTuple):
    """Token ids and the characters each one covers; added special tokens cover none."""

    ids: list[int]
    spans: list[tuple[int, int]]
    n_added: int
    """How many special tokens the tokenizer put in front."""


def tokenise(tokenizer: Any, texts: Sequence[str]) -> Iterator[Tokenised]:
    """Each text's tokens, with the special tokens the tokenizer puts in front but none behind."""
    if not texts:
        return
    batch = tokenizer(
        list(texts),
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
    )
    for ids, spans, added in zip(
        batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"], strict=True
    ):
        end = len(ids)
        # A closing EOS says "the text ends here", which is no part of what is asked. Its offsets
        # are empty, unlike those of a special token that somebody wrote out in the text.
        while end and added[end - 1] and spans[end - 1][0] == spans[end - 1][1]:
            end -= 1
        if end == 0 and ids and texts != [PROBE]:
            # Of an empty text only the added tokens are left, and which side each is on is unsaid.
            (probe,) = tokenise(tokenizer, [PROBE])
            end = probe.n_added
        n_added = next((i for i in range(end) if not added[i]), end)
        yield Tokenised(ids[:end], spans[:end], n_added)


def boundary(spans: Sequence[tuple[int, int]], n_prompt_characters: int) -> int:
    """The index of the first token that ends beyond the prompt; ``len(spans)`` if none does.

    A token that covers the end of the prompt and the beginning of the completion counts as
    completion: the model can only be right about it by knowing the answer.
    """
    for index, (_, end) in enumerate(spans):
        if end > n_prompt_characters:
            return index
    return len(spans)


class Reading(NamedTuple):
    """A prompt and its completion as the model gets them, after the policy's treatment."""

    encoding: Encoding
    prompt: str = ""
    """The prompt as it was given."""
    front: str = ""
    """What stands before the prompt."""
    n_front: int = 0
    """How many tokens are the front's alone; they are the same before other prompts."""
    corrupted: tuple[int, ...] = ()
    """Positions whose embeddings are corrupted."""
    treatment: Treatment = PLAIN

    @property
    def is_words(self) -> bool:
        """Whether the token ids say all: nothing is corrupted, and no reply is given instead."""
        return not self.corrupted and self.treatment.reply is None


def encode(
    tokenizer: Any, texts: Sequence[tuple[str, str]], context_length: int | None
) -> Iterator[Encoding]:
    """One encoding for each pair of prompt and completion.

    Raises:
        TextError: a completion that yields no token, or a text longer than ``context_length``.
            The message counts tokens and shows no text, which may be personal.
    """
    for reading in read(tokenizer, texts, context_length, [PLAIN] * len(texts)):
        yield reading.encoding


def read(
    tokenizer: Any,
    texts: Sequence[tuple[str, str]],
    context_length: int | None,
    treatments: Sequence[Treatment],
    n_new: int = 0,
) -> Iterator[Reading]:
    """One reading for each pair of prompt and completion, ``n_new`` more tokens to come.

    What a treatment puts around a prompt counts as the prompt's. Of its fronts the first is taken
    that leaves room for ``n_new`` tokens in the context, or else the last.

    Raises:
        TextError: as ``encode``.
    """
    whole = [_whole(text, t, t.fronts[0]) for text, t in zip(texts, treatments, strict=True)]
    for text, treatment, tokens in zip(texts, treatments, tokenise(tokenizer, whole), strict=True):
        front = treatment.fronts[0]
        for shorter in treatment.fronts[1:]:
            if context_length is None or len(tokens.ids) + n_new <= context_length:
                break
            front = shorter
            (tokens,) = tokenise(tokenizer, [_whole(text, treatment, front)])
        yield _reading(text, treatment, front, tokens, context_length)


def _whole(text: tuple[str, str], treatment: Treatment, front: str) -> str:
    prompt, completion = text
    return front + prompt + treatment.behind + completion


def _reading(
    text: tuple[str, str],
    treatment: Treatment,
    front: str,
    tokens: Tokenised,
    context_length: int | None,
) -> Reading:
    (prompt, completion), (ids, spans, _) = text, tokens
    asked = len(front) + len(prompt) + len(treatment.behind)
    start = boundary(spans, asked) if completion else len(ids)
    if completion and start == len(ids):
        raise TextError(
            f"a completion of {len(completion)} characters yields no token of its own; "
            "give an answer that holds more than what the tokenizer strips",
            TextError.digest_of(prompt, completion),
        )
    if context_length is not None and len(ids) > context_length:
        raise TextError(
            f"a text of {len(ids)} tokens is longer than the model's context of "
            f"{context_length}; shorten the prompt or the answer",
            TextError.digest_of(prompt, completion),
        )
    n_front = boundary(spans, len(front)) if front else 0
    corrupted = {
        position
        for begin, end in treatment.corrupted
        for position in covering(spans, len(front) + begin, len(front) + end)
    }
    # The prediction of a completion is made at the token before it, so one token has to be left.
    shared = n_front if n_front < start else 0
    return Reading(Encoding(ids, start), prompt, front, shared, tuple(sorted(corrupted)), treatment)


def covering(spans: Sequence[tuple[int, int]], begin: int, end: int) -> list[int]:
    """The positions of the tokens that hold one of the characters from ``begin`` to ``end``."""
    return [i for i, (a, b) in enumerate(spans) if a < end and b > begin and b > a]


def named(encodings: Iterator[Told], names: Iterable[str]) -> Iterator[Told]:
    """The same encodings or readings; an error says the name of the text it is about."""
    for name in names:
        try:
            yield next(encodings)
        except TextError as error:
            raise TextError(error.reason, error.digest, name) from error


def subject_span(
    tokenizer: Any,
    prompt: str,
    subject: str,
    occurrence: Literal["first", "last"] = "last",
    before: str = "",
) -> range:
    """The positions of the tokens that cover the subject in the prompt, added BOS counted.

    A token that holds one character of the subject is in, so the blank in front that many
    vocabularies join to a word comes with it.

    Raises:
        ForgetSetError: the subject does not occur in the prompt.
    """
    spans = subject_spans(tokenizer, prompt, subject, before=before)
    return spans[0 if occurrence == "first" else -1]


def subject_spans(
    tokenizer: Any, prompt: str, subject: str, completion: str = "", before: str = ""
) -> tuple[range, ...]:
    """``subject_span`` of every occurrence in the prompt, in order, at least one.

    Positions are those in the tokens of ``before``, prompt and completion together.

    Raises:
        ForgetSetError: the subject does not occur in the prompt.
    """
    begins = [at for at in range(len(prompt)) if subject and prompt.startswith(subject, at)]
    if not begins:
        raise ForgetSetError(
            f"a subject of {len(subject)} characters does not occur in its prompt of "
            f"{len(prompt)}; a subject must stand in the prompt letter for letter"
        )
    (tokens,) = tokenise(tokenizer, [before + prompt + completion])
    found = []
    for begin in (len(before) + at for at in begins):
        end = begin + len(subject)
        inside = covering(tokens.spans, begin, end)
        if not inside:
            raise ForgetSetError(
                f"a subject of {len(subject)} characters yields no token; the tokenizer strips it"
            )
        found.append(range(inside[0], inside[-1] + 1))
    return tuple(found)
