"""The log-probabilities of a text that a server echoes, and which tokens are the answer's."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

from unlearn.errors import EndpointError, InputError, TextError
from unlearn.model.scoring import TokenScores

MARKS = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": "\n"})
"""How vocabularies spell a blank and a new line; some servers pass that on."""

PARTIAL = re.compile(r"�+|(?:\\x[0-9a-f]{2})+")
"""How servers spell bytes that are no whole character: replacements, or behind ``bytes:``."""


class Logprobs(BaseModel):
    """The ``logprobs`` of one choice, one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """``None`` for the first token, which nothing stands in front of."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """At which character of the text each token begins."""


class Token(NamedTuple):
    """One echoed token and the characters of the asked text that it covers."""

    text: str
    begin: int
    end: int
    logprob: float | None
    top: dict[str, float]


def read_logprobs(given: Any, where: str) -> Logprobs:
    """The log-probabilities of a choice.

    Raises:
        EndpointError: there are none, or they do not fit together.
    """
    try:
        found = Logprobs.model_validate(given)
    except ValidationError:
        raise EndpointError(f"{where} sent no log-probabilities in OpenAI's format") from None
    lengths = {len(getattr(found, field)) for field in Logprobs.model_fields}
    if len(lengths) > 1 or lengths == {0}:
        raise EndpointError(f"{where} sent log-probabilities of which some are missing")
    return found


def echoed(found: Logprobs, text: str, n_generated: int, where: str) -> list[Token]:
    """The tokens of ``text``, without the last ``n_generated``, each checked against it.

    Servers that count the special token in front as characters shift all offsets by its length;
    since nothing stands behind the text, its end tells by how much.

    Raises:
        EndpointError: the tokens do not spell the text, so nobody can tell which are the answer's.
    """
    kept = max(0, len(found.tokens) - n_generated)
    begins = found.text_offset[:kept]
    ends = [at + _width(token) for at, token in zip(begins, found.tokens, strict=False)]
    shift = ends[-1] - len(text) if ends else 0
    # Parts of one character, and special tokens of some servers, share the offset of what follows.
    ends = [*map(min, ends, begins[1:]), *ends[-1:]]
    rows = zip(found.tokens, begins, ends, found.token_logprobs, found.top_logprobs, strict=False)
    tokens = [Token(t, at - shift, end - shift, p, top or {}) for t, at, end, p, top in rows]
    spelt = all(_spells(token, text) for token in tokens)
    reached = [0, *(max(0, token.end) for token in tokens)]
    gaps = (text[end : max(0, token.begin)] for end, token in zip(reached, tokens, strict=False))
    if not tokens or not spelt or any(gap.strip() for gap in gaps):
        raise EndpointError(
            f"{where} echoed tokens whose text_offset does not fit the text that was sent, so the "
            "answer's tokens cannot be told; audit it with text alone"
        )
    return tokens


def completion_scores(
    tokens: list[Token], prompt: str, completion: str, name: str, where: str
) -> TokenScores:
    """What the server gives to the tokens of the completion.

    The boundary is that of ``unlearn.model.encoding``: the first token that ends beyond the prompt.
    ``ids`` are numbers made of the tokens' texts, since the server names no ids. ``mean_logprob``
    and ``std_logprob`` need the whole distribution and are NaN.

    Raises:
        TextError: a completion without tokens of its own.
        InputError: no token stands in front of the completion.
        EndpointError: a log-probability is missing or no finite number.
    """
    n = len(prompt)
    start = next((i for i, t in enumerate(tokens) if t.end > n or t.begin >= n), len(tokens))
    own = tokens[start:]
    if not own:
        reason = (
            f"a completion of {len(completion)} characters yields no token of its own; "
            "give an answer that holds more than what the tokenizer strips"
        )
        raise TextError(reason, TextError.digest_of(prompt, completion), name)
    if start == 0:
        raise InputError(
            f"{name}: no token stands in front of the completion, so the model cannot be asked "
            "for it; give a longer prompt"
        )
    logprobs = [math.nan if token.logprob is None else token.logprob for token in own]
    if not all(math.isfinite(p) for p in logprobs) or not all(token.top for token in own):
        raise EndpointError(f"{where} sent no finite log-probability for a token of {name}")
    greedy = [p >= max(token.top.values()) for p, token in zip(logprobs, own, strict=True)]
    unknown = np.full(len(own), np.nan, dtype=np.float32)
    return TokenScores(
        np.array([_number(token.text) for token in own], dtype=np.int64),
        np.array(logprobs, dtype=np.float32),
        np.array(greedy, dtype=np.bool_),
        unknown,
        unknown.copy(),
    )


def _width(token: str) -> int:
    """How many characters a token covers; bytes that are no whole character count as one."""
    return len(PARTIAL.sub("�", token.removeprefix("bytes:") if _is_bytes(token) else token))


def _is_bytes(token: str) -> bool:
    return token.startswith("bytes:") and "\\x" in token


def _spells(token: Token, text: str) -> bool:
    """Whether the token is what the text says where it is said to stand."""
    if token.end <= max(0, token.begin) or "�" in token.text or _is_bytes(token.text):
        return token.end <= len(text)
    written = token.text.translate(MARKS)
    if token.begin < 0:
        # Some vocabularies put a blank in front of every text, which the text itself has not.
        return written.lstrip(" ") == text[: token.end].translate(MARKS)
    return written == text[token.begin : token.end].translate(MARKS)


def _number(token: str) -> int:
    """A number that is always the same for the same token."""
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
