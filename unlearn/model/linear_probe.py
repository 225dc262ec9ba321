"""Linear probes: a ridge classifier on hidden states, for several labellings at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]

PENALTY = 100.0
"""Of the ridge probe, on standardised features: there are about as many of them as of examples."""


class _Coded(NamedTuple):
    """Labellings as targets of one regression."""

    classes: list[Labels]
    targets: Floats

    def said(self, predicted: Floats) -> list[Labels]:
        """The label of each labelling that gets the largest prediction."""
        edges = np.cumsum([len(known) for known in self.classes])[:-1]
        parts = np.split(predicted, edges, axis=1)
        return [known[part.argmax(1)] for known, part in zip(self.classes, parts, strict=True)]


def cross_validated(
    states: npt.NDArray[np.float32], labellings: Sequence[Labels], groups: Labels, folds: int
) -> Floats:
    """Whether a probe gives each label of each labelling, (labelling, example, depth): 1 or 0.

    A ridge classifier on standardised features, trained on the groups of other folds: of the
    ridge regressions to 1 for the label and -1 for every other, the largest. All labellings share
    the features, so they are fitted as targets of one regression. ``states`` are (example, depth,
    width).
    """
    coded = _code(labellings)
    right = np.zeros((len(labellings), *states.shape[:2]))
    for depth in range(states.shape[1]):
        predicted = cross_val_predict(
            _ridge(), states[:, depth], coded.targets, groups=groups, cv=GroupKFold(folds)
        )
        for index, said in enumerate(coded.said(predicted)):
            right[index, :, depth] = said == labellings[index]
    return right


def predict(
    train: npt.NDArray[np.float32],
    labellings: Sequence[Labels],
    test: npt.NDArray[np.float32],
) -> list[Labels]:
    """What a probe trained on all of ``train`` (example, width) says of ``test``, by labelling."""
    coded = _code(labellings)
    return coded.said(_ridge().fit(train, coded.targets).predict(test))


def _ridge() -> Any:
    return make_pipeline(StandardScaler(), Ridge(alpha=PENALTY))


def _code(labellings: Sequence[Labels]) -> _Coded:
    classes = [np.unique(labels) for labels in labellings]
    targets = [
        np.where(labels[:, None] == known, 1.0, -1.0)
        for labels, known in zip(labellings, classes, strict=True)
    ]
    return _Coded(classes, np.hstack(targets))
