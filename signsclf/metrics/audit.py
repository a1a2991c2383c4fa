"""Labels that are probably wrong, from predictions of images that the network was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from signsclf.errors import require_extra


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is suspected.

    Attributes:
        position: of the image, from 0.
        suggested: index of the class that the model takes it for.
        score: the probability of the given label: the lower, the more suspect.
    """

    position: int
    suggested: int
    score: float


@dataclass(frozen=True)
class Duplicate:
    """An image judged that is pixel for pixel, at the network's size, one that the network was trained on."""

    name: str
    label: str
    training_name: str
    training_label: str


@dataclass(frozen=True)
class Audit:
    """What is suspect in the labels of some images.

    Attributes:
        n: images looked at, none of which the network was trained on.
        n_seen: images left out, because it was.
        issues: suspected label errors, the most suspect first; positions are those of the judgement.
        duplicates: images that stand in the training too.
    """

    n: int
    n_seen: int
    issues: tuple[LabelIssue, ...]
    duplicates: tuple[Duplicate, ...]


def label_issues(probabilities: np.ndarray, targets: np.ndarray) -> list[LabelIssue]:
    """Suspected label errors by confident learning (Northcutt et al. 2021, arXiv:1911.00068), with cleanlab.

    Args:
        probabilities: (N, C) of images that the model was not trained on; their own would only repeat the labels.
        targets: the labels given, int (N,).

    Returns:
        The most suspect first. None where fewer than two classes are present.

    Raises:
        MissingExtraError: the extra ``audit`` is not installed.
    """
    require_extra("audit", "the search for wrong labels")
    from cleanlab.filter import find_label_issues

    # Confident learning counts each class's images: one without any has no say.
    present = np.unique(targets)
    if len(present) < 2:
        return []
    kept = np.clip(probabilities[:, present].astype(np.float64), 1e-12, None)
    kept /= kept.sum(axis=1, keepdims=True)
    flagged = find_label_issues(np.searchsorted(present, targets), kept, n_jobs=1)
    predicted = probabilities.argmax(axis=1)
    scores = probabilities[np.arange(len(targets)), targets]
    suspects = np.flatnonzero(flagged & (predicted != targets))
    return [
        LabelIssue(int(i), int(predicted[i]), float(scores[i]))
        for i in suspects[np.argsort(scores[suspects], kind="stable")]
    ]
