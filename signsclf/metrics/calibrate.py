"""Calibration: a temperature, and the confidence below which an answer is rejected. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from signsclf.metrics.classification import Scores, evenly_spaced, expected_calibration_error, row_blocks, score

MAX_LOGITS = 2**24
"""How many logits a temperature is fitted to at most: 16,777 images of a thousand classes, 390,167 of GTSRB's 43."""

_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0
_MIN_REJECTED = 0.01


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The effect of temperature and threshold on images that did not fit them: cross-fitted by halves of the groups.

    Attributes:
        n: images evaluated.
        ece_before, ece_after: expected calibration error without and with the temperature, 0 to 1.
        accepted: share of the images that are accepted (coverage), 0 to 1.
        accepted_error: share of the accepted images that are wrong (selective risk); None where none is accepted.
        max_accepted_error: the selective risk that the threshold was chosen for.
    """

    n: int
    ece_before: float
    ece_after: float
    accepted: float
    accepted_error: float | None
    max_accepted_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the probabilities (N, C), float64, of logits (N, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    return shifted / shifted.sum(axis=1, keepdims=True)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Fit the temperature T, 0.05 to 20, that minimises the mean negative log-likelihood of softmax(logits / T).

    Guo et al. 2017, arXiv:1706.04599. The likelihood has one optimum in 1/T; it is found by golden-section search. So
    that images which are all right do not make for certainty, 1 / (N + 2) of each target is spread over all classes
    (Platt 1999).

    Of more than `MAX_LOGITS` logits an evenly spaced sample of the images is used.

    Args:
        logits: (N, C), N ≥ 1.
        targets: int (N,).
    """
    sample = _even(np.arange(len(targets)), logits.shape[1])
    logits, targets = logits[sample], targets[sample]
    rows = np.arange(len(targets))
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    spread = 1 / (len(targets) + 2)
    aimed = float(np.mean((1 - spread) * centred[rows, targets] + spread * centred.mean(axis=1)))

    def loss(log_t: float) -> float:
        return float(np.mean(np.log(np.exp(centred / np.exp(log_t)).sum(axis=1)))) - aimed / math.exp(log_t)

    low, high = np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE)
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-4:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def reject_threshold(probabilities: np.ndarray, targets: np.ndarray, max_accepted_error: float) -> float:
    """Choose the lowest confidence at which at most ``max_accepted_error`` of the accepted images are wrong.

    A network that is hardly ever wrong would then accept everything, out-of-distribution images too. So up to one
    hundredth of the images, those of the lowest confidence, is rejected in any case; with ``max_accepted_error`` 1 all
    are accepted.

    Args:
        probabilities: (N, C).
        targets: int (N,).
        max_accepted_error: the largest selective risk (share of the accepted images that are wrong), 0 to 1.

    Returns:
        0 to 1; 1 where no confidence is high enough.
    """
    return _threshold(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets, max_accepted_error)


def _threshold(confidence: np.ndarray, right: np.ndarray, max_accepted_error: float) -> float:
    if max_accepted_error == 1:
        return float(confidence.min())
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    within = np.flatnonzero(wrong <= max_accepted_error * np.arange(1, len(order) + 1))
    # Equal confidences are accepted or refused together, so a cut may only fall where the confidence changes.
    sorted_confidence = confidence[order]
    next_confidence = np.append(sorted_confidence[1:], -np.inf)
    ends = within[next_confidence[within] < sorted_confidence[within]]
    if not len(ends):
        return 1.0
    enough = ends[ends >= len(order) - 1 - int(_MIN_REJECTED * len(order))]
    return float(sorted_confidence[enough[0] if len(enough) else ends[-1]])


class Logits(Protocol):
    """Logits (N, C) that can be indexed by rows: an array, or an object that computes them."""

    shape: tuple[int, ...]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Images evaluated with a temperature and a threshold that the other half of the groups fitted.

    Attributes:
        before, after: the images' scores without and with the temperature.
        calibrations: one for each selective risk that was asked for.
    """

    before: Scores
    after: Scores
    calibrations: tuple[Calibration, ...]


def cross_fit(
    logits: Logits, targets: np.ndarray, groups: np.ndarray, max_accepted_error: float, seed: int = 0
) -> Calibration | None:
    """Fit on one half of the groups and evaluate the other, both ways round; None with fewer than two groups.

    Args:
        logits: (N, C), before any temperature.
        targets: int (N,).
        groups: the group of each image, hashable values (N,); images of one group stay in one half.
        max_accepted_error: see `reject_threshold`.
    """
    fit = cross_fits(logits, targets, groups, (max_accepted_error,), seed)
    return None if fit is None else fit.calibrations[0]


def cross_fits(
    logits: Logits, targets: np.ndarray, groups: np.ndarray, max_accepted_errors: Sequence[float], seed: int = 0
) -> CrossFit | None:
    """Do the same as `cross_fit`, for several values of ``max_accepted_error``."""
    halves = _halves(groups, seed)
    if halves is None:
        return None
    # Each image's temperature as fitted by the other half, and by its own half, which chooses the thresholds.
    other_half, own_half = np.empty(len(targets)), np.empty(len(targets))
    for fit, evaluated in halves:
        rows = _even(np.flatnonzero(fit), logits.shape[1])
        other_half[evaluated] = own_half[fit] = fit_temperature(logits[rows], targets[rows])
    blocks = list(row_blocks(*logits.shape))
    before = score((softmax(logits[rows]) for rows in blocks), targets)
    after = score((softmax(logits[rows] / other_half[rows, None]) for rows in blocks), targets)
    fitted = np.concatenate([softmax(logits[rows] / own_half[rows, None]).max(axis=1) for rows in blocks])
    right = after.predicted == targets
    calibrations = []
    for max_accepted_error in max_accepted_errors:
        accepted = np.zeros(len(targets), bool)
        for fit, evaluated in halves:
            accepted[evaluated] = after.confidence[evaluated] >= _threshold(fitted[fit], right[fit], max_accepted_error)
        calibrations.append(
            Calibration(
                n=len(targets),
                ece_before=expected_calibration_error(before.confidence, right),
                ece_after=expected_calibration_error(after.confidence, right),
                accepted=float(accepted.mean()),
                accepted_error=float((~right[accepted]).mean()) if accepted.any() else None,
                max_accepted_error=max_accepted_error,
            )
        )
    return CrossFit(before=before, after=after, calibrations=tuple(calibrations))


def acceptance_curve(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute coverage and selective risk at every threshold, the strictest first.

    Coverage is the share of images accepted, selective risk the share of the accepted that are wrong. Images of equal
    confidence are accepted together. The curve describes these images only; how a threshold does on other images is
    estimated by `cross_fit`.

    Args:
        confidence: (N,).
        correct: bool (N,), N ≥ 1.

    Returns:
        Coverage and selective risk, float arrays with one value for each distinct confidence; coverage rises to 1.
    """
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    wrong = np.cumsum(~np.asarray(correct, bool)[order])[ends]
    return (ends + 1) / len(order), wrong / (ends + 1)


def _even(rows: np.ndarray, n_classes: int) -> np.ndarray:
    """Choose evenly spaced rows that have at most `MAX_LOGITS` logits together."""
    return rows[evenly_spaced(len(rows), max(1, MAX_LOGITS // n_classes))]


def _halves(groups: np.ndarray, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...] | None:
    """Split the groups into random halves; two (fit, evaluate) pairs of masks (N,), None with fewer than two groups."""
    names = sorted({str(group) for group in groups})
    if len(names) < 2:
        return None
    shuffled = np.random.default_rng([seed, 0xCA11]).permutation(len(names))
    first = {names[i] for i in shuffled[: len(names) // 2]}
    in_first = np.array([str(group) in first for group in groups])
    return (in_first, ~in_first), (~in_first, in_first)
