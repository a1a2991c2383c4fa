"""Analyse one classifier on one set of images, from its probabilities alone: all that the HTML report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from signsclf.metrics.audit import Audit
from signsclf.metrics.breakdown import Proportion, Tracks, by_class, by_group, by_rarity, by_size, by_track
from signsclf.metrics.calibrate import Calibration, acceptance_curve, cross_fits, softmax
from signsclf.metrics.classification import Confusion, Report, confusion, in_top_k, reliability, row_blocks, score
from signsclf.metrics.intervals import Interval, bootstrap_intervals
from signsclf.metrics.robustness import Robustness
from signsclf.metrics.unknown import Unknown

MAX_ACCEPTED_ERRORS = (0.001, 0.005, 0.01, 0.02)
"""Selective risks (shares of the accepted images that are wrong) for which the report states the coverage."""
_TINY = 1e-300


@dataclass(frozen=True, kw_only=True)
class FoldedCalibration:
    """The calibration that an exported model has built in.

    Attributes:
        temperature: the one folded into the probabilities.
        fitted_here: whether temperature and threshold were fitted on some of these same images.
        threshold: the confidence from which an answer is accepted; None where the model has none.
    """

    temperature: float
    fitted_here: bool
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How well the probabilities are calibrated.

    Attributes:
        temperature: the one folded into the exported model.
        cross_fitted: whether the temperature was fitted on these same images; then ``after`` uses, for each half of the
            groups, a temperature fitted on the other half.
        before, after: the figures without and with a temperature.
        bins_before, bins_after: see `signsclf.metrics.classification.reliability`.
        curve: see `signsclf.metrics.calibrate.acceptance_curve`.
        threshold: the model's reject threshold; None where it has none.
        accepted, accepted_right: images whose confidence reaches it, and how many of those are right.
        aims: for each of `MAX_ACCEPTED_ERRORS`, the effect of its threshold on the half that did not choose it.
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
        """Return the figures as JSON values, without bins and curve."""
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


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of `analyze`; what was not asked for, or cannot be known, is None or empty.

    Attributes:
        report: the figures of the exported model.
        intervals: see `signsclf.metrics.intervals.bootstrap_intervals`.
        n_groups: tracks, or images where there are no tracks.
        grouped: whether there are tracks.
        confused: which class was predicted as which.
        classes: class index and proportion right of each class, the lowest F1 first.
        train_counts: training images of each class; empty where unknown.
        rarity, class_groups, sizes, tracks: see `signsclf.metrics.breakdown`.
        confidence: see `Confidence`.
        worst_groups: see `signsclf.metrics.breakdown.worst_groups`.
        without_training_frames: on the official test set, the images that are not frames of a training track.
        n_near_training: images with a near-duplicate among the training images; None where not known.
        without_near_training: the other images, where there are any of both.
    """

    report: Report
    intervals: Mapping[str, Interval | None]
    n_groups: int
    grouped: bool
    confused: Confusion
    classes: tuple[tuple[int, Proportion], ...]
    train_counts: tuple[int, ...]
    rarity: tuple[Proportion, ...]
    class_groups: tuple[Proportion, ...]
    sizes: tuple[Proportion, ...]
    tracks: Tracks | None
    confidence: Confidence
    worst_groups: tuple[Proportion, ...] = ()
    without_training_frames: Proportion | None = None
    n_near_training: int | None = None
    without_near_training: Proportion | None = None
    robustness: Robustness | None = None
    unknown: Unknown | None = None
    audit: Audit | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that `Report.to_dict` lacks, as JSON values."""

        def rows(shares: Sequence[Proportion]) -> list[dict[str, Any]]:
            return [share.to_dict() for share in shares]

        audit, unseen, far = self.audit, self.without_training_frames, self.without_near_training
        return {
            "intervals": {name: None if v is None else list(v) for name, v in self.intervals.items()},
            "clusters": {"n": self.n_groups, "tracks": self.grouped},
            "without_training_frames": None if unseen is None else unseen.to_dict(),
            "n_near_training": self.n_near_training,
            "without_near_training": None if far is None else far.to_dict(),
            "rarity": rows(self.rarity),
            "groups": rows(self.class_groups),
            "sizes": rows(self.sizes),
            "tracks": None if self.tracks is None else asdict(self.tracks),
            "worst_groups": rows(self.worst_groups),
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


def analyze(
    report: Report,
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    groups: np.ndarray,
    short_sides: np.ndarray,
    calibration: FoldedCalibration,
    train_counts: Sequence[int] = (),
    class_groups: Mapping[str, Sequence[int]] | None = None,
) -> Findings:
    """Analyse the probabilities of one inference pass.

    Args:
        report: the figures of these probabilities.
        probabilities: (N, C), calibrated.
        targets: int (N,).
        groups: the track of each image, int (N,) from 0; see `signsclf.metrics.intervals.group_numbers`.
        short_sides: shorter side of each image in pixels, int (N,).
        calibration: what the model applies to its logits.
        train_counts: training images of each of the C classes; empty where unknown.
        class_groups: name of a group of classes to their indices.
    """
    predicted = probabilities.argmax(axis=1)
    right = predicted == targets
    confused = confusion(targets, predicted, probabilities.shape[1])
    n_groups = int(groups.max()) + 1
    grouped = n_groups < len(targets)
    return Findings(
        report=report,
        intervals=bootstrap_intervals(report, targets, predicted, in_top_k(probabilities, targets), groups),
        n_groups=n_groups,
        grouped=grouped,
        confused=confused,
        classes=tuple(by_class(report, confused)),
        train_counts=tuple(train_counts),
        rarity=tuple(by_rarity(confused, train_counts)) if len(train_counts) else (),
        class_groups=tuple(by_group(confused, class_groups or {})),
        sizes=tuple(by_size(right, short_sides)),
        tracks=by_track(right, groups) if grouped else None,
        confidence=_confidence(report, probabilities, targets, groups, calibration),
    )


def _confidence(
    report: Report,
    probabilities: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    calibration: FoldedCalibration,
) -> Confidence:
    logits = _Logits(probabilities, calibration.temperature)
    threshold = calibration.threshold
    classes = [figures.label for figures in report.per_class]
    crossed = cross_fits(logits, targets, groups, MAX_ACCEPTED_ERRORS)
    right = probabilities.argmax(axis=1) == targets
    confidence = probabilities.max(axis=1)
    before = (
        score((softmax(logits[rows]) for rows in row_blocks(*logits.shape)), targets)
        if crossed is None
        else crossed.before
    )
    after = crossed.after if crossed is not None and calibration.fitted_here else None
    accepted = np.zeros(len(targets), bool) if threshold is None else confidence >= threshold
    return Confidence(
        temperature=calibration.temperature,
        cross_fitted=after is not None,
        before=Report.from_scores(before, targets, classes),
        after=report if after is None else Report.from_scores(after, targets, classes),
        bins_before=reliability(before.confidence, right),
        bins_after=reliability(confidence if after is None else after.confidence, right),
        curve=acceptance_curve(confidence, right),
        threshold=threshold,
        accepted=int(accepted.sum()),
        accepted_right=int((accepted & right).sum()),
        aims=() if crossed is None else crossed.calibrations,
    )


class _Logits:
    """Logits (N, C) recovered from probabilities, computed for the requested rows only.

    They equal the model's up to a constant in each row, which softmax ignores.
    """

    def __init__(self, probabilities: np.ndarray, temperature: float) -> None:
        self.probabilities, self.temperature = probabilities, temperature
        self.shape = probabilities.shape

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return np.log(np.maximum(self.probabilities[rows].astype(np.float64), _TINY)) * self.temperature
