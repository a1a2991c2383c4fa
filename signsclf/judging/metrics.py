"""From (probabilities, targets, classes) to figures. Pure NumPy, knowing no trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from signsclf.errors import ModelError, SourceError

ECE_BINS = 15
"""Equal-width bins of confidence for the expected calibration error, as in Guo et al. 2017."""
TOP_K = 5

# Rounding in float16 leaves a row of probabilities within 5e-4 of one; logits and raw scores are far off.
_SUM_TOLERANCE = 1e-3
# A float32 softmax rounds anything smaller to zero, whose logarithm would make the whole mean infinite.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


def wilson(k: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a share: ``k`` hits of ``n``; the default ``z`` gives 95 %.

    Returns:
        (low, high) within [0, 1]; (0.0, 1.0) for n = 0, where nothing is known.

    Raises:
        ValueError: not 0 ≤ k ≤ n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson: k must lie in 0..n, got k={k}, n={n}")
    if n == 0:
        return 0.0, 1.0
    share = k / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the interval touches 0 or 1 exactly; rounding would leave it a hair inside or outside.
    low = 0.0 if k == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if k == n else min(1.0, (centre + half) / scale)
    return low, high


def confusion(targets: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (n_classes, n_classes), int64: rows are the true class, columns the predicted one.

    Args:
        targets: true class indices (N,), integers in 0..n_classes-1.
        predicted: predicted class indices (N,), likewise.

    Raises:
        ValueError: the shapes differ, or an index is no integer or out of range.
    """
    targets, predicted = _indices("targets", targets, n_classes), _indices("predicted", predicted, n_classes)
    if targets.shape != predicted.shape:
        raise ValueError(f"confusion: {len(targets)} targets, but {len(predicted)} predictions")
    pairs = np.bincount(targets * n_classes + predicted, minlength=n_classes * n_classes)
    return pairs.reshape(n_classes, n_classes).astype(np.int64)


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal-width bins of confidence: images, mean confidence and accuracy of each, three arrays (bins,).

    Args:
        confidence: probability of the predicted class (N,), in [0, 1].
        correct: whether the prediction was right (N,), bool.
        bins: number of bins; bin m holds confidences in (m/bins, (m+1)/bins].

    Returns:
        counts (int), mean confidence and accuracy; the latter two are NaN where a bin is empty.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled = np.where(counts, counts, np.nan)
    hits = np.bincount(which, weights=np.asarray(correct, dtype=np.float64), minlength=bins)
    return counts, np.bincount(which, weights=confidence, minlength=bins) / filled, hits / filled


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over `reliability` bins, weighted by images; N ≥ 1."""
    counts, mean, accuracy = reliability(confidence, correct, bins)
    return float(min(1.0, np.nansum(counts * np.abs(mean - accuracy)) / counts.sum()))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a positive scores higher than a negative, ties counting half.

    The Mann-Whitney statistic, from ranks (Hanley and McNeil 1982).

    Args:
        scores: finite floats (N,), the higher the more positive.
        positive: bool (N,).

    Returns:
        0 to 1, 0.5 for scores that tell nothing; None where there are no positives or no negatives.

    Raises:
        ValueError: the shapes differ, or a score is not finite.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if scores.ndim != 1 or scores.shape != positive.shape or not np.isfinite(scores).all():
        raise ValueError(f"auroc: needs finite scores (N,) and as many truths, got {scores.shape}, {positive.shape}")
    n_positive = int(positive.sum())
    n_negative = len(scores) - n_positive
    if not n_positive or not n_negative:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


@dataclass(frozen=True)
class ClassFigures:
    """How one class fared.

    Attributes:
        label: the class's name.
        n: images of this class.
        precision: share of the images given this label that are of this class; None if it was never given.
        recall: share of this class's images that were given its label; None if there were no such images.
        f1: harmonic mean of the two, 0 if none was hit; None if there were no such images.
    """

    label: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"class {self.label!r}: n must be 0 or more, got {self.n}")
        for name in ("precision", "recall", "f1"):
            if (value := getattr(self, name)) is not None:
                _check_range(f"class {self.label!r}: {name}", value, 0, 1)
        if (self.recall is None) != (self.n == 0) or (self.f1 is None) != (self.n == 0):
            raise ValueError(f"class {self.label!r}: recall and f1 are None exactly where n is 0")


@dataclass(frozen=True)
class Report:
    """The figures of one classifier on one set of images. All shares lie in [0, 1].

    Attributes:
        n: images judged, at least 1.
        accuracy: share of images whose most probable class is the true one.
        accuracy_low, accuracy_high: its 95 % Wilson interval.
        top5: share of images whose true class is among the 5 most probable; 1 with at most 5 classes.
        macro_f1: mean F1 over the classes present in the targets, each class counting the same.
        n_classes_present: how many classes those are.
        balanced_accuracy: mean recall over the classes present.
        nll: mean negative log-likelihood of the true class, in nats.
        ece: expected calibration error, see `expected_calibration_error`.
        brier: mean squared distance of the probabilities from the truth, summed over classes: in [0, 2].
        majority_accuracy: what always naming the commonest class of these targets would score.
        per_class: one entry a class, in class order, absent classes included.
    """

    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    top5: float
    macro_f1: float
    n_classes_present: int
    balanced_accuracy: float
    nll: float
    ece: float
    brier: float
    majority_accuracy: float
    per_class: tuple[ClassFigures, ...]

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be 1 or more, got {self.n}")
        shares = ("accuracy_low", "accuracy_high", "top5", "macro_f1", "balanced_accuracy", "ece")
        for name in (*shares, "majority_accuracy"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("accuracy", self.accuracy, self.accuracy_low, self.accuracy_high)
        _check_range("brier", self.brier, 0, 2)
        _check_range("nll", self.nll, 0, math.inf)
        if self.top5 < self.accuracy:
            raise ValueError(f"top5 ({self.top5}) cannot be below accuracy ({self.accuracy})")
        if sum(figures.n for figures in self.per_class) != self.n:
            raise ValueError(f"per_class must account for all {self.n} images")
        if sum(figures.n > 0 for figures in self.per_class) != self.n_classes_present:
            raise ValueError(f"n_classes_present ({self.n_classes_present}) does not agree with per_class")

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> Report:
        """Judge probabilities against the truth.

        The prediction is the most probable class; of equally probable ones, the first in class order.

        Args:
            probabilities: (N, C) floats in [0, 1], each row adding up to 1; N ≥ 1.
            targets: true class indices (N,), integers in 0..C-1.
            classes: the C class names, in the order of the columns.

        Raises:
            SourceError: N = 0: there is nothing to judge.
            ModelError: a probability is NaN or infinite.
            ValueError: a shape, range or sum is not as said above.
        """
        probabilities, targets, classes = check_predictions(probabilities, targets, classes)
        n, n_classes = probabilities.shape
        predicted = probabilities.argmax(axis=1)
        matrix = confusion(targets, predicted, n_classes)
        per_class = _per_class(matrix, classes)
        present = [figures for figures in per_class if figures.n]

        p_true = probabilities[np.arange(n), targets].astype(np.float64)
        squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64)
        n_correct = int(np.trace(matrix))
        low, high = wilson(n_correct, n)
        return cls(
            n=n,
            accuracy=n_correct / n,
            accuracy_low=low,
            accuracy_high=high,
            top5=float(np.mean(in_top_k(probabilities, targets))),
            macro_f1=math.fsum(figures.f1 for figures in present) / len(present),
            n_classes_present=len(present),
            balanced_accuracy=math.fsum(figures.recall for figures in present) / len(present),
            nll=float(np.mean(-np.log(np.maximum(p_true, _SMALLEST_PROBABILITY)))),
            ece=expected_calibration_error(probabilities.max(axis=1), predicted == targets),
            brier=float(np.clip(np.mean(squares - 2 * p_true + 1), 0, 2)),
            majority_accuracy=int(matrix.sum(axis=1).max()) / n,
            per_class=per_class,
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain JSON types: None where undefined, never NaN; `per_class` a list of dicts."""
        return {**asdict(self), "per_class": [asdict(figures) for figures in self.per_class]}


def check_predictions(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Sound probabilities (N, C), rounding clipped to [0, 1], targets (N,) as int64, and classes as a tuple.

    Raises:
        SourceError, ModelError, ValueError: as `Report.from_probabilities`.
    """
    probabilities = np.asarray(probabilities)
    classes = tuple(classes)
    if len(set(classes)) != len(classes):
        raise ValueError("classes must differ from one another")
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes) or not classes:
        shape = probabilities.shape
        raise ValueError(f"probabilities must have shape (N, {len(classes)}), one column a class, got {shape}")
    if not np.issubdtype(probabilities.dtype, np.floating):
        raise ValueError(f"probabilities must be floats, got {probabilities.dtype}")
    if len(probabilities) == 0:
        raise SourceError("no images to judge: the set is empty; choose another --split or source")
    targets = _indices("targets", targets, len(classes))
    if len(targets) != len(probabilities):
        raise ValueError(f"{len(probabilities)} rows of probabilities, but {len(targets)} targets")
    unsound = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if unsound:
        raise ModelError(
            f"the model gives no finite probabilities for {unsound:,} of {len(probabilities):,} images: "
            "its training diverged or its file is damaged; train again with a lower learning rate"
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > _SUM_TOLERANCE:
        raise ValueError("each row of probabilities must lie in [0, 1] and add up to 1; are these logits?")
    return np.clip(probabilities, 0, 1), targets, classes


def _per_class(matrix: np.ndarray, classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    n_true, n_predicted, n_hit = (
        matrix.sum(axis=1).tolist(),
        matrix.sum(axis=0).tolist(),
        matrix.diagonal().tolist(),
    )
    return tuple(
        ClassFigures(
            label=label,
            n=n,
            precision=hit / named if named else None,
            recall=hit / n if n else None,
            f1=2 * hit / (n + named) if n else None,
        )
        for label, n, named, hit in zip(classes, n_true, n_predicted, n_hit, strict=True)
    )


def in_top_k(probabilities: np.ndarray, targets: np.ndarray, k: int = TOP_K) -> np.ndarray:
    """Whether fewer than k classes stand before the true one, bool (N,): more probable, or equally so and of lower
    index."""
    p_true = probabilities[np.arange(len(targets)), targets][:, None]
    before = np.arange(probabilities.shape[1])[None, :] < targets[:, None]
    return ((probabilities > p_true) | ((probabilities == p_true) & before)).sum(axis=1) < k


def _indices(name: str, values: np.ndarray, n_classes: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or values.size == 0):
        raise ValueError(f"{name} must be integers of shape (N,), got {values.dtype} of shape {values.shape}")
    if values.size and (values.min() < 0 or values.max() >= n_classes):
        raise ValueError(f"{name} must lie in 0..{n_classes - 1}, got {values.min()}..{values.max()}")
    return values.astype(np.int64)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails too.
    if not (low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and lie in [{low}, {high}], got {value}")


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 over the classes present, of a confusion matrix (C, C) as `confusion` counts it."""
    present = [f.f1 for f in _per_class(matrix, tuple(map(str, range(len(matrix))))) if f.n]
    return math.fsum(present) / len(present)


def headline(figures: dict[str, Any]) -> str:
    """Accuracy with interval and n, top-5 and macro-F1 of a `Report.to_dict`, in one line.

    An entry ``n_distinct`` is told too where it is not n.
    """
    n = stated_n(figures)
    low, high = 100 * figures["accuracy_low"], 100 * figures["accuracy_high"]
    return (
        f"accuracy {100 * figures['accuracy']:.2f} % (95 % interval {low:.2f} to {high:.2f}, {n}), "
        f"top-5 {100 * figures['top5']:.2f} %, macro-F1 {100 * figures['macro_f1']:.2f} % "
        f"({figures['n_classes_present']} classes)"
    )


def stated_n(figures: dict[str, Any]) -> str:
    """Such as "n = 1,000", or "n = 1,000, 980 distinct" where images repeat others pixel for pixel."""
    n, distinct = figures["n"], figures.get("n_distinct", figures["n"])
    return f"n = {n:,}" + (f", {distinct:,} distinct" if distinct != n else "")
