"""Extraction likelihood against a model asked again for every token of every prefix."""

import numpy as np
import pytest
import torch

from unlearn.model.encoding import Encoding
from unlearn.model.extraction import extraction_likelihood, overlap
from unlearn.model.language_model import LanguageModel


@pytest.mark.parametrize(
    ("written", "rest", "n", "share"),
    [
        ("abcdef", "abcdef", 3, 1.0),
        ("abcxef", "abcdef", 3, 1 / 4),  # abc, bcx, cxe, xef
        ("abcxef", "abcdef", 2, 3 / 5),  # ab, bc, cx, xe, ef
        ("bcdefa", "abcdef", 3, 3 / 4),  # found wherever they stand
        ("abxxxx", "ab", 3, 1.0),  # as many words as are left, and no longer n-grams than that
        ("ab", "abcdef", 3, 0.0),
        ("", "a", 3, 0.0),
        ("a", "", 3, 0.0),
    ],
)
def test_overlap_is_the_share_of_what_was_written(
    written: str, rest: str, n: int, share: float
) -> None:
    assert overlap(written, rest, n) == pytest.approx(share)


def continued(lm: LanguageModel, ids: list[int], count: int) -> list[int]:
    """Greedy decoding of one text without a cache or padding; EOS ends it."""
    new: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            best = int(lm.model(input_ids=torch.tensor([[*ids, *new]])).logits[0, -1].argmax())
        if best in lm.eos_ids:
            break
        new.append(best)
    return new


@pytest.mark.parametrize("n", [1, 3, 10])
def test_extraction_likelihood_is_the_mean_over_prefixes(language_model, n: int) -> None:
    lm = language_model("llama")
    encodings = []
    for prompt, length in (("Ada Quill was born in", 7), ("Ben", 4), ("Zoë serves", 1)):
        ids = lm.encode(prompt).ids
        answer = continued(lm, ids, length)
        if length > 1:
            answer[2] = (answer[2] + 1) % lm.vocabulary_size  # right before it, and not behind
        encodings.append(Encoding([*ids, *answer], len(ids)))
    wanted = []
    for ids, start in encodings:
        rests = [(ids[:end], ids[end:]) for end in range(start, len(ids))]
        wanted.append(
            np.mean([overlap(continued(lm, before, len(r)), r, n) for before, r in rests])
        )
    found = extraction_likelihood(lm, encodings, n)
    assert found == pytest.approx(wanted)
    assert found[2] == 1.0 and 0 <= min(found) < 1
