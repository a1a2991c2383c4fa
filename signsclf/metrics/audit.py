"""Find labels that are probably wrong, from predictions for images that the network was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from signsclf.errors import require_extra


@dataclass(frozen=True, kw_only=True)
class LabelIssue:
    """An image whose label is suspected.

    Attributes:
        position: the image's row, from 0.
        suggested: index of the class that the model predicts.
        score: probability of the given label, 0 to 1; the lower, the more suspect.
    """

    position: int
    suggested: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An evaluated image whose pixels, at the network's input size, equal those of a training image."""

    name: str
    label: str
    training_name: str
    training_label: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Suspect labels among a set of images.

    Attributes:
        n: images checked, none of which the network was trained on.
        n_seen: images left out because the network was trained on them.
        issues: suspected label errors, the most suspect first; positions are rows of the evaluation.
        duplicates: images that are in the training set too.
    """

    n: int
    n_seen: int
    issues: tuple[LabelIssue, ...]
    duplicates: tuple[Duplicate, ...]


def label_issues(probabilities: np.ndarray, targets: np.ndarray) -> list[LabelIssue]:
    """Find suspected label errors by confident learning (Northcutt et al. 2021, arXiv:1911.00068), with cleanlab.

    Args:
        probabilities: (N, C) for images that the model was not trained on; on its training images it only repeats the
            labels.
        targets: class indices of the given labels, int (N,).

    Returns:
        The suspected errors, the most suspect first; an empty list where fewer than two classes are present.

    Raises:
        MissingExtraError: the extra ``audit`` is not installed.
    """
    require_extra("audit", "the search for wrong labels")
    from cleanlab.filter import find_label_issues

    # Confident learning estimates a threshold from each class's images, so classes without images are left out.
    present = np.unique(targets)
    if len(present) < 2:
        return []
    probabilities_present = np.clip(probabilities[:, present].astype(np.float64), 1e-12, None)
    probabilities_present /= probabilities_present.sum(axis=1, keepdims=True)
    flagged = find_label_issues(np.searchsorted(present, targets), probabilities_present, n_jobs=1)
    predicted = probabilities.argmax(axis=1)
    scores = probabilities[np.arange(len(targets)), targets]
    suspects = np.flatnonzero(flagged & (predicted != targets))
    return [
        LabelIssue(position=int(i), suggested=int(predicted[i]), score=float(scores[i]))
        for i in suspects[np.argsort(scores[suspects], kind="stable")]
    ]
