"""Scores of a completion from given probabilities, so that figures have closed forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from unlearn.model.scoring import TokenScores


def token_scores(probabilities: Sequence[float], greedy: Sequence[bool]) -> TokenScores:
    logprobs = np.log(np.asarray(probabilities)).astype(np.float32)
    n = len(logprobs)
    blank = np.zeros(n, dtype=np.float32)
    return TokenScores(np.arange(n), logprobs, np.asarray(greedy, dtype=bool), blank, blank)


@pytest.fixture
def scores() -> Callable[..., TokenScores]:
    return token_scores
