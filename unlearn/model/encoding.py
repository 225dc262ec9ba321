"""Text to tokens: where the completion starts, and which tokens a subject occupies.

A prompt and its completion are tokenised as one string, because tokenising them apart gives other
tokens than the model meets in running text. Everything here is read off the tokenizer's character
offsets; nothing depends on how a vocabulary spells a space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from unlearn.errors import ForgetSetError, TextError

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


def nothing(prompt: str) -> str:
    """What stands before a prompt where nothing does."""
    return ""


def encode(
    tokenizer: Any,
    texts: Sequence[tuple[str, str]],
    context_length: int | None,
    before: Callable[[str], str] = nothing,
) -> Iterator[Encoding]:
    """One encoding for each pair of prompt and completion.

    ``before`` is what stands before a prompt; its tokens count as the prompt's.

    Raises:
        TextError: a completion that yields no token, or a text longer than ``context_length``.
            The message counts tokens and shows no text, which may be personal.
    """
    asked = [before(prompt) + prompt for prompt, _ in texts]
    whole = [prompt + completion for prompt, (_, completion) in zip(asked, texts, strict=True)]
    for (prompt, completion), full, (ids, spans, _) in zip(
        texts, asked, tokenise(tokenizer, whole), strict=True
    ):
        start = boundary(spans, len(full)) if completion else len(ids)
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
        yield Encoding(ids, start)


def named(encodings: Iterator[Encoding], names: Iterable[str]) -> Iterator[Encoding]:
    """The same encodings; an error says the name of the text it is about."""
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
        inside = [i for i, (a, b) in enumerate(tokens.spans) if a < end and b > begin and b > a]
        if not inside:
            raise ForgetSetError(
                f"a subject of {len(subject)} characters yields no token; the tokenizer strips it"
            )
        found.append(range(inside[0], inside[-1] + 1))
    return tuple(found)
