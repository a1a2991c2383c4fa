"""Confidence intervals over groups of images, and the comparison of two models on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from signsclf.metrics.classification import Z_95, Report, confusion, grouped_interval

RESAMPLES = 1000
PERMUTATIONS = 99_999
_RESAMPLED = 100_000_000
"""Images that a bootstrap counts at most over all its resamples, of which there are 100 at least."""
Interval = tuple[float, float]


def group_numbers(groups: Sequence[str | None]) -> np.ndarray:
    """Number the groups from 0, int (N,); an image without a group is a group of its own."""
    numbers: dict[object, int] = {}
    return np.array(
        [numbers.setdefault(i if group is None else group, len(numbers)) for i, group in enumerate(groups)], np.int64
    )


def bootstrap_intervals(
    report: Report, targets: np.ndarray, predicted: np.ndarray, in_top5: np.ndarray, groups: np.ndarray, seed: int = 0
) -> dict[str, Interval | None]:
    """Compute 95 % intervals of a report's figures over groups: n frames of one track tell less than n other images.

    Those of accuracy and top-5 are of `grouped_interval`. Those of macro-F1 and balanced accuracy, which are no plain
    shares, are the percentiles of a cluster bootstrap: whole groups are resampled with replacement, `RESAMPLES` times,
    and less often where there are more than 100,000 images.

    Args:
        targets, predicted: class indices, int (N,).
        in_top5: whether the true class is among the five most probable, bool (N,).
        groups: the number of each image's group, int (N,); see `group_numbers`.

    Returns:
        accuracy, top5, macro_f1 and balanced_accuracy to (low, high); for the latter two None where the figure is 1 or
        there is only one group: then all resamples are equal, and an interval of width 0 would claim a certainty that
        is not there.
    """
    n_classes, n_groups = len(report.per_class), int(groups.max()) + 1
    random = np.random.default_rng([seed, 0xB007])
    n_resamples = min(RESAMPLES, max(100, _RESAMPLED // len(targets)))
    resamples = {name: np.empty(n_resamples) for name in ("macro_f1", "balanced_accuracy")}
    right = predicted == targets
    for i in range(n_resamples):
        weights = np.bincount(random.integers(0, n_groups, n_groups), minlength=n_groups)[groups].astype(np.float64)
        # Counts per class only: a confusion matrix of thousands of classes would not fit in memory.
        n_true = np.bincount(targets, weights, n_classes)
        n_predicted = np.bincount(predicted, weights, n_classes)
        hits = np.bincount(targets[right], weights[right], n_classes)
        present = n_true > 0
        resamples["macro_f1"][i] = (2 * hits / np.maximum(n_true + n_predicted, 1))[present].mean()
        resamples["balanced_accuracy"][i] = (hits[present] / n_true[present]).mean()
    return {
        "accuracy": grouped_interval(right, groups),
        "top5": grouped_interval(in_top5, groups),
        **{
            name: None
            if n_groups < 2 or getattr(report, name) == 1
            else tuple(np.quantile(values, (0.025, 0.975)).tolist())
            for name, values in resamples.items()
        },
    }


def bootstrap_mean(values: np.ndarray, groups: np.ndarray, seed: int = 0) -> Interval | None:
    """Compute the 95 % cluster bootstrap interval of the mean of ``values`` (N,); None with a single group."""
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    n_groups = len(counts)
    if n_groups < 2:
        return None
    random = np.random.default_rng([seed, 0xB007])
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        sampled = random.integers(0, n_groups, n_groups)
        means[i] = sums[sampled].sum() / counts[sampled].sum()
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return low, high


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two models, A and B, on the same images.

    Attributes:
        n: images.
        n_both, n_only_a, n_only_b, n_neither: images that both models, only A, only B, or neither has right.
        accuracy_a, accuracy_b: share of images each has right, 0 to 1.
        difference: accuracy of B minus that of A, -1 to 1.
        difference_low, difference_high: its 95 % interval, images taken as independent (Bonett and Price 2012,
            adjusted Wald).
        by_groups: its 95 % cluster bootstrap interval, see `bootstrap_mean`; None where no images are grouped.
        p_value: McNemar's exact test of whether the two are wrong equally often, images taken as independent.
        p_value_by_groups: the same question to whole groups, see `permutation_test`; None where no images are grouped.
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
    by_groups: Interval | None
    p_value: float
    p_value_by_groups: float | None


def compare_pairs(right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray) -> Paired:
    """Compare two models by the images that each has right.

    Args:
        right_a, right_b: bool (N,), N ≥ 1.
        groups: the number of each image's group, int (N,); see `group_numbers`.
    """
    counts = confusion(right_a.astype(np.int64), right_b.astype(np.int64), 2).among(np.arange(2))
    (neither, only_b), (only_a, both) = counts.tolist()
    n = len(right_a)
    low, high = paired_interval(only_a, only_b, n)
    grouped = int(groups.max()) + 1 < n
    gained = right_b.astype(np.int64) - right_a
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
        by_groups=bootstrap_mean(gained, groups) if grouped else None,
        p_value=mcnemar_exact(only_a, only_b),
        p_value_by_groups=permutation_test(gained, groups) if grouped else None,
    )


def permutation_test(gained: np.ndarray, groups: np.ndarray, seed: int = 0) -> float:
    """Compute the p-value of a two-sided paired permutation test over groups (Fisher 1935, The Design of Experiments).

    Were two models equally good, they could be exchanged in any group: the sign of what it gains would be chance.
    `PERMUTATIONS` random choices of all signs are compared with the signs as they are.

    Args:
        gained: 1 for an image that only model B has right, -1 for one that only A has right, else 0; int (N,).
        groups: the number of each image's group, int (N,).
    """
    sums = np.rint(np.bincount(groups, gained)).astype(np.int64)
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    random, totals = np.random.default_rng([seed, 0x9E57]), np.zeros(PERMUTATIONS, np.int64)
    for size, n in zip(sizes.tolist(), counts.tolist(), strict=True):
        # Of n groups that gain or lose as much, a binomial number gain.
        totals += size * (2 * random.binomial(n, 0.5, PERMUTATIONS) - n)
    as_far = int((np.abs(totals) >= abs(int(sums.sum()))).sum())
    return (as_far + 1) / (PERMUTATIONS + 1)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Compute the p-value of the exact two-sided McNemar test from how many images only A and only B have right."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    # In logarithms: the binomial coefficients of many images exceed the range of floats.
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, log_terms)))


def paired_interval(only_a: int, only_b: int, n: int) -> Interval:
    """Compute the 95 % interval of the difference of two paired shares, B minus A.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data": one image is added to each of the two counts of disagreement.
    """
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = share_b - share_a
    half = Z_95 * math.sqrt((share_a + share_b - centre**2) / (n + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)
