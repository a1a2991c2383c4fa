"""All that a report tells of one classifier on one set of images, computed from its probabilities alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from signsclf.metrics.audit import Audit
from signsclf.metrics.breakdown import Proportion, Tracks, by_class, by_group, by_rarity, by_size, by_track
from signsclf.metrics.calibrate import Calibration, acceptance_curve, cross_fits, softmax
from signsclf.metrics.classification import Confusion, Report, confusion, in_top_k, reliability, row_blocks, score
from signsclf.metrics.intervals import Interval, resampled
from signsclf.metrics.robustness import Robustness
from signsclf.metrics.unknown import Unknown

MAX_ACCEPTED_ERRORS = (0.001, 0.005, 0.01, 0.02)
"""Shares of accepted-but-wrong that the report gives the share accepted for."""
_TINY = 1e-300


@dataclass(frozen=True)
class Confidence:
    """How far the probabilities can be believed.

    Attributes:
        temperature: that the exported model has folded in.
        cross_fitted: whether these very images had fitted it, so that ``after`` takes, for each half of the groups,
            a temperature that the other half fitted.
        before, after: figures without and with a temperature.
        bins_before, bins_after: see `signsclf.metrics.classification.reliability`.
        curve: see `signsclf.metrics.calibrate.acceptance_curve`.
        threshold: the model's reject threshold; None where it has none.
        accepted, accepted_right: images that reach it, and how many of those are right.
        aims: for each of `MAX_ACCEPTED_ERRORS`, what a threshold for it does on the half that did not choose it.
    """

    temperature: float
    cross_fitted: bool
    before: Report
    after: Report
    bins_before: tuple[np.ndarray, ...]
    bins_after: tuple[np.ndarray, ...]
    curve: tuple[np.ndarray, np.ndarray]
    threshold: float | None
    accepted: int
    accepted_right: int
    aims: tuple[Calibration, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values, without bins and curve."""
        names = ("ece", "brier", "nll")
        return {
            "temperature": self.temperature,
            "cross_fitted": self.cross_fitted,
            "before": {name: getattr(self.before, name) for name in names},
            "after": {name: getattr(self.after, name) for name in names},
            "threshold": self.threshold,
            "accepted": self.accepted,
            "accepted_right": self.accepted_right,
            "aims": [aim.to_dict() for aim in self.aims],
        }


@dataclass(frozen=True)
class Findings:
    """Everything measured; what was not asked for, or cannot be known, is None or empty.

    Attributes:
        report: the figures of the exported model.
        intervals: see `signsclf.metrics.intervals.resampled`.
        n_units: tracks, or images where there are no tracks.
        grouped: whether there are tracks.
        confused: which class was predicted as which.
        classes: class index and share right of each class, the weakest first.
        train_counts: training images of each class; empty where not known.
        rarity, groups, sizes, tracks: see `signsclf.metrics.breakdown`.
        confidence: see `Confidence`.
        without_known: on the official test set, the images that are not frames of a training track.
    """

    report: Report
    intervals: Mapping[str, Interval | None]
    n_units: int
    grouped: bool
    confused: Confusion
    classes: tuple[tuple[int, Proportion], ...]
    train_counts: tuple[int, ...]
    rarity: tuple[Proportion, ...]
    groups: tuple[Proportion, ...]
    sizes: tuple[Proportion, ...]
    tracks: Tracks | None
    confidence: Confidence
    without_known: Proportion | None = None
    robustness: Robustness | None = None
    unknown: Unknown | None = None
    audit: Audit | None = None

    def to_dict(self) -> dict[str, Any]:
        """What `Report.to_dict` does not hold, as JSON values."""

        def rows(shares: Sequence[Proportion]) -> list[dict[str, Any]]:
            return [share.to_dict() for share in shares]

        audit = self.audit
        return {
            "intervals": {name: None if v is None else list(v) for name, v in self.intervals.items()},
            "units": {"n": self.n_units, "tracks": self.grouped},
            "without_training_frames": None if self.without_known is None else self.without_known.to_dict(),
            "rarity": rows(self.rarity),
            "groups": rows(self.groups),
            "sizes": rows(self.sizes),
            "tracks": None if self.tracks is None else asdict(self.tracks),
            "calibration": self.confidence.to_dict(),
            "robustness": None if self.robustness is None else self.robustness.to_dict(),
            "unknown": None if self.unknown is None else self.unknown.to_dict(),
            "audit": None
            if audit is None
            else {
                "n": audit.n,
                "n_seen_in_training": audit.n_seen,
                "label_issues": len(audit.issues),
                "duplicates": len(audit.duplicates),
            },
        }


def find(
    report: Report,
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    units: np.ndarray,
    sides: np.ndarray,
    temperature: float,
    fitted_here: bool,
    threshold: float | None,
    train_counts: Sequence[int] = (),
    groups: Mapping[str, Sequence[int]] | None = None,
) -> Findings:
    """Looks at one inference pass from all sides.

    Args:
        report: of these very probabilities.
        probabilities: (N, C), calibrated.
        targets: int (N,).
        units: the track of each image, int (N,) from 0; see `signsclf.metrics.intervals.unit_numbers`.
        sides: shorter side of each image in pixels, int (N,).
        temperature: that is folded into the probabilities.
        fitted_here: whether images of these fitted the temperature and the threshold.
        threshold: confidence from which an answer is accepted.
        train_counts: C numbers of training images, or none.
        groups: name to class indices.
    """
    predicted = probabilities.argmax(axis=1)
    right = predicted == targets
    confused = confusion(targets, predicted, probabilities.shape[1])
    n_units = int(units.max()) + 1
    grouped = n_units < len(targets)
    return Findings(
        report=report,
        intervals=resampled(report, targets, predicted, in_top_k(probabilities, targets), units),
        n_units=n_units,
        grouped=grouped,
        confused=confused,
        classes=tuple(by_class(report, confused)),
        train_counts=tuple(train_counts),
        rarity=tuple(by_rarity(confused, train_counts)) if len(train_counts) else (),
        groups=tuple(by_group(confused, groups or {})),
        sizes=tuple(by_size(right, sides)),
        tracks=by_track(right, units) if grouped else None,
        confidence=_confidence(report, probabilities, targets, units, temperature, fitted_here, threshold),
    )


def _confidence(
    report: Report,
    probabilities: np.ndarray,
    targets: np.ndarray,
    units: np.ndarray,
    temperature: float,
    fitted_here: bool,
    threshold: float | None,
) -> Confidence:
    logits = _Logits(probabilities, temperature)
    classes = [figures.label for figures in report.per_class]
    crossed = cross_fits(logits, targets, units, MAX_ACCEPTED_ERRORS)
    right = probabilities.argmax(axis=1) == targets
    sure = probabilities.max(axis=1)
    before = (
        score((softmax(logits[rows]) for rows in row_blocks(*logits.shape)), targets)
        if crossed is None
        else crossed.before
    )
    after = crossed.after if crossed is not None and fitted_here else None
    accepted = np.zeros(len(targets), bool) if threshold is None else sure >= threshold
    return Confidence(
        temperature=temperature,
        cross_fitted=after is not None,
        before=Report.from_scores(before, targets, classes),
        after=report if after is None else Report.from_scores(after, targets, classes),
        bins_before=reliability(before.confidence, right),
        bins_after=reliability(sure if after is None else after.confidence, right),
        curve=acceptance_curve(sure, right),
        threshold=threshold,
        accepted=int(accepted.sum()),
        accepted_right=int((accepted & right).sum()),
        aims=() if crossed is None else crossed.calibrations,
    )


class _Logits:
    """Logits (N, C), up to a constant in each row, which no softmax sees: computed for the rows that are asked for."""

    def __init__(self, probabilities: np.ndarray, temperature: float) -> None:
        self.probabilities, self.temperature = probabilities, temperature
        self.shape = probabilities.shape

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return np.log(np.maximum(self.probabilities[rows].astype(np.float64), _TINY)) * self.temperature
