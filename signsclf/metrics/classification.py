"""Metrics from (probabilities, targets, classes): pure NumPy, independent of how the model was trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from signsclf.errors import ModelError, SourceError
from signsclf.text import count

ECE_BINS = 15
"""Equal-width bins of confidence for the expected calibration error, as in Guo et al. 2017."""
TOP_K = 5
Z_95 = 1.959963984540054
"""Quantile of the normal distribution for two-sided intervals of 95 %."""

# Rounding in float16 leaves a row of probabilities within 5e-4 of one; logits and raw scores are far off.
_SUM_TOLERANCE = 1e-3
_BLOCK = 2**22
# A float32 softmax rounds anything smaller to zero, whose logarithm would make the whole mean infinite.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


def wilson(k: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Compute the Wilson score interval of a share: ``k`` hits of ``n``; the default ``z`` gives 95 %.

    Neither need be a whole number: see `grouped_interval`.

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


def grouped_interval(right: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % interval of the mean of ``right`` where images of one group resemble each other.

    It is the Wilson interval of as many independent images as tell equally much (Korn and Graubard 1998; Dean and
    Pagano 2015): their number follows from how much the groups differ. That is estimated with one more group, of which
    every image is wrong (right, where most are wrong). So an interval is never of width 0, and where every group is
    right it is that of as many images as there are groups. A percentile bootstrap of the groups, in contrast, has no
    width there, and is far too narrow where few groups are wrong.

    Args:
        right: whether each image is right, bool (N,), or a share, float (N,) in [0, 1]; N ≥ 1.
        groups: the number of each image's group, int (N,) from 0; see `signsclf.metrics.intervals.group_numbers`.
    """
    n = len(right)
    sums, counts = np.bincount(groups, np.asarray(right, np.float64)), np.bincount(groups).astype(np.float64)
    n_right = float(sums.sum())
    if len(counts) == n:
        return wilson(n_right, n)
    size = float((counts**2).sum()) / n
    other = 0.0 if 2 * n_right >= n else size
    share = (n_right + other) / (n + size)
    squares = float(((sums - share * counts) ** 2).sum()) + (other - share * size) ** 2
    effective = min(float(n), share * (1 - share) * (n + size) ** 2 / squares)
    # Few groups tell little of how much groups differ: Student's quantile, expanded, in place of the normal one.
    z, freedom = Z_95, max(1, len(counts) - 1)
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    effective *= (z / student) ** 2
    return wilson(min(1.0, n_right / n) * effective, effective)


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A sparse confusion matrix: only the pairs (true class, predicted class) that occur are stored.

    Attributes:
        n_classes: C.
        true, predicted: the two class indices of each pair, int64 (P,), in ascending order.
        n: images of each pair, int64 (P,), 1 or more.
    """

    n_classes: int
    true: np.ndarray
    predicted: np.ndarray
    n: np.ndarray

    @property
    def n_true(self) -> np.ndarray:
        """Images of each class, int64 (C,)."""
        return self._count(self.true, self.n)

    @property
    def n_predicted(self) -> np.ndarray:
        """Images predicted as each class, int64 (C,)."""
        return self._count(self.predicted, self.n)

    @property
    def n_right(self) -> np.ndarray:
        """Images of each class that were predicted as that class, int64 (C,)."""
        right = self.true == self.predicted
        return self._count(self.true[right], self.n[right])

    def among(self, classes: np.ndarray) -> np.ndarray:
        """Return the dense matrix (k, k), int64, of k classes: rows are the true class, columns the predicted one."""
        place = np.full(self.n_classes, -1)
        place[classes] = np.arange(len(classes))
        rows, columns = place[self.true], place[self.predicted]
        inside = (rows >= 0) & (columns >= 0)
        counts = np.zeros((len(classes), len(classes)), np.int64)
        counts[rows[inside], columns[inside]] = self.n[inside]
        return counts

    def mistakes(self) -> list[tuple[int, int, int]]:
        """Return (true class, predicted class, images) for each pair that differs, the commonest first."""
        wrong = np.flatnonzero(self.true != self.predicted)
        wrong = wrong[np.argsort(-self.n[wrong], kind="stable")]
        return list(zip(self.true[wrong].tolist(), self.predicted[wrong].tolist(), self.n[wrong].tolist(), strict=True))

    def _count(self, classes: np.ndarray, n: np.ndarray) -> np.ndarray:
        counts = np.zeros(self.n_classes, np.int64)
        np.add.at(counts, classes, n)
        return counts


def confusion(targets: np.ndarray, predicted: np.ndarray, n_classes: int) -> Confusion:
    """Count how often each class was predicted as each class.

    Args:
        targets: true class indices (N,), integers in 0..n_classes-1.
        predicted: predicted class indices (N,), likewise.

    Raises:
        ValueError: the shapes differ, or an index is no integer or out of range.
    """
    targets, predicted = _indices("targets", targets, n_classes), _indices("predicted", predicted, n_classes)
    if targets.shape != predicted.shape:
        raise ValueError(f"confusion: {len(targets)} targets, but {len(predicted)} predictions")
    pairs, n = np.unique(targets * n_classes + predicted, return_counts=True)
    return Confusion(n_classes=n_classes, true=pairs // n_classes, predicted=pairs % n_classes, n=n.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All that a report needs from the probabilities (N, C) of N images.

    Attributes:
        predicted: the most probable class, int64 (N,); of equally probable ones, the first in class order.
        confidence: its probability, float64 (N,).
        true: probability of the true class, float64 (N,).
        squares: sum of the squared probabilities, float64 (N,).
        in_top_k: see `in_top_k`, bool (N,).
    """

    predicted: np.ndarray
    confidence: np.ndarray
    true: np.ndarray
    squares: np.ndarray
    in_top_k: np.ndarray


def evenly_spaced(n: int, most: int) -> np.ndarray:
    """Choose at most ``most`` of ``n`` positions, evenly spaced from the first to the last: int64, ascending."""
    return np.linspace(0, max(n - 1, 0), max(min(n, most), 0)).astype(np.int64)


def row_blocks(n: int, n_classes: int) -> Iterator[slice]:
    """Split the rows of an array (n, n_classes) into consecutive slices, so that temporary arrays stay small."""
    step = max(1, _BLOCK // max(1, n_classes))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def score(blocks: Iterable[np.ndarray], targets: np.ndarray) -> Scores:
    """Score probabilities given in blocks of consecutive rows, each (n, C); see `row_blocks`.

    Args:
        targets: true class indices of all rows, int (N,).
    """
    columns: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(Scores)}
    start = 0
    for block in blocks:
        wanted = targets[start : start + len(block)]
        start += len(block)
        columns["predicted"].append(block.argmax(axis=1))
        columns["confidence"].append(block.max(axis=1).astype(np.float64))
        columns["true"].append(block[np.arange(len(block)), wanted].astype(np.float64))
        columns["squares"].append(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        columns["in_top_k"].append(in_top_k(block, wanted))
    return Scores(**{name: np.concatenate(parts) for name, parts in columns.items()})


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute a reliability diagram: images, mean confidence and accuracy in equal-width bins of confidence.

    Args:
        confidence: probability of the predicted class (N,), in [0, 1].
        correct: whether the prediction was right (N,), bool.
        bins: number of bins; bin m holds confidences in (m/bins, (m+1)/bins].

    Returns:
        Three arrays (bins,): counts (int), mean confidence, accuracy; the latter two are NaN where a bin is empty.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    filled = np.where(counts, counts, np.nan)
    hits = np.bincount(bin_of, weights=np.asarray(correct, dtype=np.float64), minlength=bins)
    return counts, np.bincount(bin_of, weights=confidence, minlength=bins) / filled, hits / filled


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Compute the mean gap between confidence and accuracy over `reliability` bins, weighted by images; N ≥ 1."""
    counts, mean, accuracy = reliability(confidence, correct, bins)
    return float(min(1.0, np.nansum(counts * np.abs(mean - accuracy)) / counts.sum()))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Compute the area under the ROC curve: how often a positive scores higher than a negative, ties counting half.

    It is the Mann-Whitney statistic, computed from ranks (Hanley and McNeil 1982).

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
    _, rank_of, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[rank_of]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """The figures of one class.

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


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one classifier on one set of images. All shares lie in [0, 1].

    Attributes:
        n: images evaluated, at least 1.
        accuracy: share of images whose most probable class is the true one.
        n_groups: of how many groups (physical objects) the images are; None where each is taken as independent.
        accuracy_low, accuracy_high: its 95 % interval: over groups, see `grouped_interval`, where there are any.
        top5: share of images whose true class is among the 5 most probable; 1 with at most 5 classes.
        macro_f1: mean F1 over the classes present in the targets, each class counting the same.
        n_classes_present: how many classes those are.
        balanced_accuracy: mean recall over the classes present.
        nll: mean negative log-likelihood of the true class, in nats.
        ece: expected calibration error, see `expected_calibration_error`.
        brier: mean squared distance of the probabilities from the truth, summed over classes: in [0, 2].
        majority_accuracy: accuracy of always predicting the commonest class of these targets.
        per_class: one entry a class, in class order, absent classes included.
    """

    n: int
    n_groups: int | None = None
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
    def from_probabilities(
        cls,
        probabilities: np.ndarray,
        targets: np.ndarray,
        classes: Sequence[str],
        groups: np.ndarray | None = None,
    ) -> Report:
        """Evaluate probabilities against the true classes.

        The prediction is the most probable class; of equally probable ones, the first in class order.

        Args:
            probabilities: (N, C) floats in [0, 1], each row adding up to 1; N ≥ 1.
            targets: true class indices (N,), integers in 0..C-1.
            classes: the C class names, in the order of the columns.
            groups: the number of each image's group, int (N,) from 0; None where images are independent.

        Raises:
            SourceError: N = 0: there is nothing to evaluate.
            ModelError: a probability is NaN or infinite.
            ValueError: a shape, range or sum is not as said above.
        """
        probabilities, targets, classes = check_predictions(probabilities, targets, classes)
        blocks = row_blocks(*probabilities.shape)
        scores = score((np.clip(probabilities[b], 0, 1) for b in blocks), targets)
        return cls.from_scores(scores, targets, classes, groups)

    @classmethod
    def from_scores(
        cls, scores: Scores, targets: np.ndarray, classes: Sequence[str], groups: np.ndarray | None = None
    ) -> Report:
        """Compute the figures from what `score` returned for valid probabilities.

        Args:
            targets: true class indices (N,), integers in 0..C-1; N ≥ 1.
            classes: the C class names.
            groups: see `from_probabilities`.
        """
        n = len(targets)
        counts = confusion(targets, scores.predicted, len(classes))
        per_class = _per_class(counts, tuple(classes))
        present = [figures for figures in per_class if figures.n]
        n_correct = int(counts.n_right.sum())
        n_groups = None if groups is None or (found := int(groups.max()) + 1) == n else found
        low, high = wilson(n_correct, n) if n_groups is None else grouped_interval(scores.predicted == targets, groups)
        return cls(
            n=n,
            n_groups=n_groups,
            accuracy=n_correct / n,
            accuracy_low=low,
            accuracy_high=high,
            top5=float(np.mean(scores.in_top_k)),
            macro_f1=math.fsum(figures.f1 for figures in present) / len(present),
            n_classes_present=len(present),
            balanced_accuracy=math.fsum(figures.recall for figures in present) / len(present),
            nll=float(np.mean(-np.log(np.maximum(scores.true, _SMALLEST_PROBABILITY)))),
            ece=expected_calibration_error(scores.confidence, scores.predicted == targets),
            brier=float(np.clip(np.mean(scores.squares - 2 * scores.true + 1), 0, 2)),
            majority_accuracy=int(counts.n_true.max()) / n,
            per_class=per_class,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain JSON types: None where undefined, never NaN; `per_class` as a list of dicts."""
        return {**asdict(self), "per_class": [asdict(figures) for figures in self.per_class]}


def check_predictions(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Check the arguments of `Report.from_probabilities`.

    Returns:
        probabilities (N, C), which may exceed 1 by rounding; targets (N,) as int64; classes as a tuple.

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
        raise SourceError("no images to evaluate: the set is empty; choose another --split or source")
    targets = _indices("targets", targets, len(classes))
    if len(targets) != len(probabilities):
        raise ValueError(f"{len(probabilities)} rows of probabilities, but {len(targets)} targets")
    blocks = list(row_blocks(*probabilities.shape))
    not_finite = sum(int((~np.isfinite(probabilities[block]).all(axis=1)).sum()) for block in blocks)
    if not_finite:
        raise ModelError(
            f"the model gives no finite probabilities for {not_finite:,} of {len(probabilities):,} images: "
            "its training diverged or its file is damaged; train again with a lower learning rate"
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > _SUM_TOLERANCE:
        raise ValueError("each row of probabilities must lie in [0, 1] and add up to 1; are these logits?")
    return probabilities, targets, classes


def _per_class(counts: Confusion, classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    n_true, n_predicted, n_hit = counts.n_true.tolist(), counts.n_predicted.tolist(), counts.n_right.tolist()
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
    """Tell whether the true class is among the k most probable, bool (N,); of equally probable classes the first in
    class order counts as the more probable."""
    hits = np.empty(len(targets), bool)
    for block in row_blocks(*probabilities.shape):
        part, wanted = probabilities[block], targets[block]
        p_true = part[np.arange(len(part)), wanted][:, None]
        before = np.arange(part.shape[1])[None, :] < wanted[:, None]
        hits[block] = ((part > p_true) | ((part == p_true) & before)).sum(axis=1) < k
    return hits


def _indices(name: str, values: np.ndarray, n_classes: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or values.size == 0):
        raise ValueError(f"{name} must be integers of shape (N,), got {values.dtype} of shape {values.shape}")
    if values.size and (values.min() < 0 or values.max() >= n_classes):
        raise ValueError(f"{name} must lie in 0..{n_classes - 1}, got {values.min()}..{values.max()}")
    return values.astype(np.int64)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    # A comparison with NaN is false, so NaN is refused too.
    if not (low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and lie in [{low}, {high}], got {value}")


def macro_f1(counts: Confusion) -> float:
    """Compute the mean F1 over the classes present."""
    n_true = counts.n_true
    present = n_true > 0
    f1 = 2 * counts.n_right[present] / (n_true[present] + counts.n_predicted[present])
    return math.fsum(f1.tolist()) / len(f1)


def headline(figures: dict[str, Any]) -> str:
    """Format accuracy with interval and n, top-5 and macro-F1 of a `Report.to_dict` in one line.

    An entry ``n_distinct`` is stated too where it differs from n.
    """
    n = format_n(figures)
    low, high = 100 * figures["accuracy_low"], 100 * figures["accuracy_high"]
    return (
        f"accuracy {100 * figures['accuracy']:.2f} % (95 % interval {low:.2f} to {high:.2f}, {n}), "
        f"top-5 {100 * figures['top5']:.2f} %, macro-F1 {100 * figures['macro_f1']:.2f} % "
        f"({figures['n_classes_present']} classes)"
    )


def format_n(figures: dict[str, Any]) -> str:
    """Format the number of images: "n = 1,000", "n = 1,000 in 40 groups", "n = 1,000, 980 distinct" (by pixels)."""
    n, distinct = figures["n"], figures.get("n_distinct", figures["n"])
    groups = f" in {count(figures['n_groups'], 'group')}" if figures.get("n_groups") else ""
    return f"n = {n:,}{groups}" + (f", {distinct:,} distinct" if distinct != n else "")
