"""How far figures may lie from the truth: whole tracks resampled, and two models compared on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from signsclf.metrics.classification import Report, confusion

RESAMPLES = 1000
Interval = tuple[float, float]
_Z = 1.959963984540054


def group_numbers(groups: Sequence[str | None]) -> np.ndarray:
    """A number for each image's group, int (N,); an image without a group is a group of its own."""
    numbers: dict[object, int] = {}
    return np.array(
        [numbers.setdefault(i if group is None else group, len(numbers)) for i, group in enumerate(groups)], np.int64
    )


def resampled(
    report: Report, targets: np.ndarray, predicted: np.ndarray, in_top5: np.ndarray, units: np.ndarray, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % bootstrap intervals (percentiles of `RESAMPLES` draws with replacement) of a report's figures.

    Whole units are drawn: frames of one track resemble each other, and count for less than as many tracks.

    Args:
        targets, predicted: class indices, int (N,).
        in_top5: whether the true class is among the five most probable, bool (N,).
        units: int (N,) from 0, see `unit_numbers`.

    Returns:
        accuracy, top5, macro_f1 and balanced_accuracy to (low, high); None where the figure is 1 or there is one
        unit: then the draws are all alike, and an interval from them would claim a certainty that is not there.
    """
    n_classes, n_units = len(report.per_class), int(units.max()) + 1
    random = np.random.default_rng([seed, 0xB007])
    draws = {name: np.empty(RESAMPLES) for name in ("accuracy", "top5", "macro_f1", "balanced_accuracy")}
    right = predicted == targets
    for i in range(RESAMPLES):
        weights = np.bincount(random.integers(0, n_units, n_units), minlength=n_units)[units].astype(np.float64)
        # Per class alone: a matrix of all pairs of classes would not fit into memory where there are thousands.
        n_true = np.bincount(targets, weights, n_classes)
        n_predicted = np.bincount(predicted, weights, n_classes)
        hits = np.bincount(targets[right], weights[right], n_classes)
        present, total = n_true > 0, weights.sum()
        draws["accuracy"][i] = hits.sum() / total
        draws["top5"][i] = weights[in_top5].sum() / total
        draws["macro_f1"][i] = (2 * hits / np.maximum(n_true + n_predicted, 1))[present].mean()
        draws["balanced_accuracy"][i] = (hits[present] / n_true[present]).mean()
    return {
        name: None if n_units < 2 or getattr(report, name) == 1 else tuple(np.quantile(values, (0.025, 0.975)).tolist())
        for name, values in draws.items()
    }


def resampled_mean(values: np.ndarray, units: np.ndarray, seed: int = 0) -> Interval | None:
    """95 % bootstrap interval of the mean of ``values`` (N,), whole ``units`` drawn; None with one unit."""
    sums, counts = np.bincount(units, values), np.bincount(units)
    n_units = len(counts)
    if n_units < 2:
        return None
    random = np.random.default_rng([seed, 0xB007])
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = random.integers(0, n_units, n_units)
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return low, high


@dataclass(frozen=True)
class Paired:
    """Two models, A and B, on the same images.

    Attributes:
        n: images.
        n_both, n_only_a, n_only_b, n_neither: how many of them which model has right.
        accuracy_a, accuracy_b: shares right, 0 to 1.
        difference: accuracy of B less that of A, -1 to 1.
        difference_low, difference_high: its 95 % interval by images (Bonett and Price 2012, adjusted Wald).
        by_units: the same with whole groups resampled, see `resampled_mean`; None where nothing is grouped.
        p_value: McNemar's exact test of whether the two are wrong equally often.
    """

    n: int
    n_both: int
    n_only_a: int
    n_only_b: int
    n_neither: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    difference_low: float
    difference_high: float
    by_units: Interval | None
    p_value: float


def compare_pairs(right_a: np.ndarray, right_b: np.ndarray, units: np.ndarray) -> Paired:
    """Compares which images two models have right.

    Args:
        right_a, right_b: bool (N,), N ≥ 1.
        units: int (N,) from 0, see `unit_numbers`.
    """
    counts = confusion(right_a.astype(np.int64), right_b.astype(np.int64), 2).among(np.arange(2))
    (neither, only_b), (only_a, both) = counts.tolist()
    n = len(right_a)
    low, high = paired_interval(only_a, only_b, n)
    grouped = int(units.max()) + 1 < n
    return Paired(
        n=n,
        n_both=both,
        n_only_a=only_a,
        n_only_b=only_b,
        n_neither=neither,
        accuracy_a=(both + only_a) / n,
        accuracy_b=(both + only_b) / n,
        difference=(only_b - only_a) / n,
        difference_low=low,
        difference_high=high,
        by_units=resampled_mean(right_b.astype(float) - right_a, units) if grouped else None,
        p_value=mcnemar_exact(only_a, only_b),
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar test: the p-value of a fair coin for the images that just one model has right."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    # By logarithms: the binomial coefficients of many images leave the range of floats.
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, log_terms)))


def paired_interval(only_a: int, only_b: int, n: int) -> Interval:
    """95 % interval of the difference of two paired shares, B less A.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data": one image is added to each of the two counts of disagreement.
    """
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = share_b - share_a
    half = _Z * math.sqrt((share_a + share_b - centre**2) / (n + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)
