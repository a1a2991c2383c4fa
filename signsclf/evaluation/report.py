"""The report of an evaluation: what one inference pass tells, what was asked for besides, and the files of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from signsclf import __version__, images
from signsclf.data.gtsrb import CLASS_NAMES, GROUPS, N_TEST, PUBLISHED, TRAINING_FRAMES_IN_TEST
from signsclf.errors import ModelError, SourceError
from signsclf.evaluation.evaluate import Evaluation, near_training
from signsclf.files import csv_bytes, write_atomic
from signsclf.inference.classifier import Classifier, Prediction, open_image, stream
from signsclf.inference.explain import heat_map
from signsclf.inference.listing import expand
from signsclf.metrics import robustness
from signsclf.metrics.audit import Audit, Duplicate, label_issues
from signsclf.metrics.breakdown import Proportion, worst_groups
from signsclf.metrics.findings import Findings, FoldedCalibration, analyze
from signsclf.metrics.intervals import group_numbers
from signsclf.metrics.unknown import evaluate_unknown
from signsclf.observer import Observer
from signsclf.report.files import cell, write_report
from signsclf.report.html import Reference, ReportContext, render
from signsclf.text import count

UNKNOWN_SHOWN = 12
_PARTS = {"train": "training images", "valid": "validation images", "test": "test images", "all": "all images"}


@dataclass(frozen=True, kw_only=True)
class Examined:
    """An evaluation with everything that its report tells.

    Attributes:
        evaluation: the inference pass.
        found: what it tells.
        unknown: predictions for the out-of-distribution images, in the order of their files; none where not asked for.
    """

    evaluation: Evaluation
    found: Findings
    unknown: tuple[Prediction, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All figures as one JSON object."""
        return {**self.evaluation.to_dict(), **self.found.to_dict()}


def examine(
    evaluation: Evaluation,
    *,
    robust: bool = False,
    unknown: str | Path | None = None,
    audit: bool = False,
    seed: int = 0,
    observer: Observer | None = None,
) -> Examined:
    """Computes all that the report tells; the images are not predicted again, but for corrupted ones.

    Args:
        evaluation: of `signsclf.evaluation.evaluate.evaluate`.
        robust: also corrupts the images, see `signsclf.metrics.robustness`.
        unknown: also predicts the pictures below this folder (or in this archive), which show none of the classes.
        audit: also looks for wrong labels and for images that the training holds too.
        seed: of the corruptions.

    Raises:
        SignsclfError: ``audit`` without the extra of that name.
        ModelError: ``audit`` without a record of what the model was trained on.
        BadImageError: an image that could be read cannot be read any more.
        SourceError: ``audit`` where it was trained on every image, or no picture of ``unknown`` can be read.
    """
    observer = observer or Observer()
    classifier = evaluation.classifier
    config = classifier.config
    groups = group_numbers(evaluation.groups)
    suspects = _audit(evaluation) if audit else None
    found = analyze(
        evaluation.report,
        evaluation.probabilities,
        evaluation.targets,
        groups=groups,
        short_sides=np.array(
            [min(said or images.image_wh(path)) for said, path in zip(evaluation.sizes, evaluation.paths, strict=True)]
        ),
        calibration=FoldedCalibration(
            temperature=config.temperature,
            fitted_here=evaluation.n_calibrated > 0,
            threshold=config.reject_threshold,
        ),
        train_counts=evaluation.train_counts,
        class_groups=_sign_groups(classifier) if config.is_gtsrb else None,
    )
    right = evaluation.probabilities.argmax(axis=1) == evaluation.targets
    found = replace(
        found,
        worst_groups=worst_groups(right, evaluation.groups) if found.grouped else (),
        without_training_frames=_without_training_images(evaluation),
        audit=suspects,
    )
    if (near := near_training(evaluation, observer)) is not None:
        found = replace(found, n_near_training=int(near.sum()), without_near_training=_without(evaluation, near))
    others: tuple[Prediction, ...] = ()
    if unknown is not None:
        others = tuple(_predict_unknown(classifier, unknown, observer))
        sure = np.array([p.probability for p in others if p.error is None])
        if not len(sure):
            raise SourceError(f"{unknown}: no picture there can be read; name a folder or archive of pictures")
        known = evaluation.probabilities.max(axis=1)
        found = replace(found, unknown=evaluate_unknown(known, sure, config.reject_threshold))
    if robust:
        rows = robustness.sample(len(groups), seed)
        measured = robustness.measure(
            evaluation.pixels[rows],
            evaluation.targets[rows],
            np.unique(groups[rows], return_inverse=True)[1],
            classifier.logits,
            seed,
            observer,
        )
        found = replace(found, robustness=measured)
    return Examined(evaluation=evaluation, found=found, unknown=others)


def write_evaluation(examined: Examined, folder: Path) -> list[Path]:
    """Writes report.html, report.json, CSV tables and two pictures into a folder; those that are there are replaced.

    Returns:
        The files written.

    Raises:
        SignsclfError: a file cannot be written.
        BadImageError: an image that could be read cannot be read any more.
    """
    evaluation, found = examined.evaluation, examined.found
    paths = dict(zip(evaluation.names, evaluation.paths, strict=True))
    written = write_report(
        folder,
        evaluation.report,
        evaluation.probabilities,
        evaluation.targets,
        examined.evaluation.classifier.labels,
        evaluation.names,
        lambda name: images.thumbnail(paths[name]),
        figures=("report.json", examined.to_dict()),
    )
    page = render(found, _subject(examined))
    for name, data in (("report.html", page.encode()), *_tables(examined)):
        write_atomic(folder / name, data)
        written.append(folder / name)
    return written


def _audit(evaluation: Evaluation) -> Audit:
    classifier = evaluation.classifier
    if not evaluation.has_record:
        raise ModelError(
            f"{classifier.folder}: has no run/split.csv, so it is not known which images it was trained on; --audit "
            "needs images that it was not"
        )
    unseen = np.array([name not in evaluation.twins for name in evaluation.names])
    if not unseen.any():
        raise SourceError(
            "--audit: the model was trained on every one of these images, and would only repeat their labels; give "
            "--split valid or test"
        )
    places = np.flatnonzero(unseen)
    issues = label_issues(evaluation.probabilities[places], evaluation.targets[places])
    labels = [classifier.labels[target] for target in evaluation.targets]
    return Audit(
        n=len(places),
        n_seen=len(unseen) - len(places),
        issues=tuple(replace(issue, position=int(places[issue.position])) for issue in issues),
        duplicates=tuple(
            Duplicate(name=name, label=label, training_name=twin[0], training_label=twin[1])
            for name, label in zip(evaluation.names, labels, strict=True)
            if (twin := evaluation.twins.get(name)) is not None and evaluation.split != "train"
        ),
    )


def _predict_unknown(classifier: Classifier, place: str | Path, observer: Observer) -> Iterator[Prediction]:
    paths = list(expand([str(place)], recursive=True))
    for number, prediction in enumerate(stream(classifier, paths, top_k=1), 1):
        observer.progress("predicting out-of-distribution images", number, len(paths))
        yield prediction


def _sign_groups(classifier: Classifier) -> dict[str, list[int]]:
    place = {label: i for i, label in enumerate(classifier.labels)}
    return {
        name: [place[CLASS_NAMES[i]] for i in members if CLASS_NAMES[i] in place] for name, members in GROUPS.items()
    }


def _is_official_test(evaluation: Evaluation) -> bool:
    return evaluation.classifier.config.is_gtsrb and evaluation.split == "test" and len(evaluation.names) == N_TEST


def _without_training_images(evaluation: Evaluation) -> Proportion | None:
    if not _is_official_test(evaluation):
        return None
    known = {f"{number:05}" for number in TRAINING_FRAMES_IN_TEST}
    kept = np.array([PurePosixPath(name).stem not in known for name in evaluation.names])
    right = evaluation.probabilities.argmax(axis=1) == evaluation.targets
    note = f"leaving out {count(int((~kept).sum()), 'test image')} that are frames of a training track"
    return Proportion(label="without training frames", n=int(kept.sum()), right=int((right & kept).sum()), note=note)


def _without(evaluation: Evaluation, near: np.ndarray) -> Proportion | None:
    """The images that have no near-duplicate in training, where some have one and some have none."""
    if near.all() or not near.any():
        return None
    right = (evaluation.probabilities.argmax(axis=1) == evaluation.targets)[~near]
    note = f"leaving out {count(int(near.sum()), 'image')} with a near-duplicate in training"
    return Proportion(label="without near-duplicates", n=len(right), right=int(right.sum()), note=note)


def _subject(examined: Examined) -> ReportContext:
    evaluation, classifier = examined.evaluation, examined.evaluation.classifier
    config = classifier.config
    height, width = classifier.size
    official = _is_official_test(evaluation)
    note = "People and published figures are for the official test set"
    note += "." if official else ", and not for these images."
    part = _PARTS[evaluation.split]
    answers = [p for p in examined.unknown if p.error is None]
    answers = sorted(answers, key=lambda p: -p.probability)[:UNKNOWN_SHOWN]

    def heat(i: int) -> np.ndarray:
        return np.asarray(heat_map(classifier, images.crop(open_image(evaluation.paths[i]), evaluation.rois[i])))

    return ReportContext(
        title=f"{classifier.folder.name}: {part} of {evaluation.source_name}",
        about=f"{config.architecture}, {count(len(classifier.labels), 'class', 'classes')}, images squashed to "
        f"{width}×{height} pixels; evaluated with the exported model.onnx on {count(evaluation.report.n, 'image')}.",
        cautions=list(_cautions(evaluation)),
        references=[Reference(label=name, value=value) for name, value in PUBLISHED] if config.is_gtsrb else [],
        references_note=note,
        classes=classifier.labels,
        names=evaluation.names,
        probabilities=evaluation.probabilities,
        targets=evaluation.targets,
        groups=group_numbers(evaluation.groups),
        pixels=evaluation.pixels,
        image=lambda i: images.thumbnail(evaluation.paths[i], evaluation.rois[i]),
        heat=heat if _explains(evaluation) else None,
        unknown_accepted=[(p.label, p.probability, images.thumbnail(p.path)) for p in answers],
        footer=f"Written by signsclf {__version__} from one inference pass. The figures are in report.json, the tables "
        "in the CSV files beside this page.",
    )


def _explains(evaluation: Evaluation) -> bool:
    """Whether the model has a feature map to explain by."""
    try:
        heat_map(evaluation.classifier, evaluation.pixels[0])
    except ModelError:
        return False
    return True


def _cautions(evaluation: Evaluation) -> Iterator[str]:
    n, config = evaluation.report.n, evaluation.classifier.config
    if evaluation.source_name == "synthetic":
        yield (
            "These are rendered signs: their figures say nothing of photographs. Some labelled photographs do: "
            "signsclf evaluate MODEL FOLDER."
        )
    if not evaluation.has_record:
        yield "The model folder has no run/split.csv: whether it was trained on some of these images is not known."
    elif seen := len(evaluation.seen_in_training):
        yield f"The model was trained on {seen:,} of these {n:,} images: their figures flatter."
    if repeated := n - evaluation.n_distinct:
        yield (
            f"{count(repeated, 'image')} of these {n:,} are, pixel for pixel, others of them: the figures "
            "count them again, the intervals take them together."
        )
    if evaluation.n_calibrated:
        which = "These images" if evaluation.n_calibrated == n else f"{evaluation.n_calibrated:,} of these {n:,} images"
        fitted = "They fitted temperature and threshold, which decide no label; nothing else was chosen on them."
        if (config.figures.get("valid") or {}).get("chosen_on", "valid") is not None:
            fitted = (
                "They then chose the best epoch, and fitted temperature and threshold: the figures lean a little to "
                "the good side. A test set is what to quote."
            )
        yield f"{which} were held out in training. {fitted}"
    if evaluation.unreadable:
        yield f"{count(len(evaluation.unreadable), 'image')} could not be read and are left out; see report.json."


def _tables(examined: Examined) -> Iterator[tuple[str, bytes]]:
    """Name and content of each CSV file that `write_report` does not write."""
    evaluation, found = examined.evaluation, examined.found
    labels = evaluation.classifier.labels
    groups: list[tuple[str, Sequence[Proportion]]] = [
        ("rarity", found.rarity),
        ("group", found.class_groups),
        ("shorter side", found.sizes),
        ("worst groups", found.worst_groups),
    ]
    rows = [
        (by, share.label, share.n, share.right, cell(share.value), *map(cell, share.interval))
        for by, shares in groups
        for share in shares
    ]
    yield "breakdown.csv", csv_bytes([("by", "part", "n", "right", "share", "low", "high"), *rows])
    rows = [(labels[true], labels[called], n) for true, called, n in found.confused.mistakes()]
    yield "confusions.csv", csv_bytes([("label", "predicted", "n"), *rows])
    if (measured := found.robustness) is not None:
        rows = [
            (name, strength, measured.n, cell(value))
            for name, values in measured.accuracy.items()
            for strength, value in enumerate((measured.clean, *values))
        ]
        yield "robustness.csv", csv_bytes([("corruption", "strength", "n", "accuracy"), *rows])
    if examined.unknown:
        rows = [
            (p.path, p.label or "", cell(p.probability), "" if p.accepted is None else int(p.accepted), p.error or "")
            for p in examined.unknown
        ]
        yield "unknown.csv", csv_bytes([("path", "predicted", "probability", "accepted", "error"), *rows])
    if (audit := found.audit) is not None:
        rows = [
            (evaluation.names[i.position], labels[evaluation.targets[i.position]], labels[i.suggested], cell(i.score))
            for i in audit.issues
        ]
        yield "label_issues.csv", csv_bytes([("path", "label", "suggested", "probability_of_label"), *rows])
        rows = [(d.name, d.label, d.training_name, d.training_label) for d in audit.duplicates]
        yield "duplicates.csv", csv_bytes([("path", "label", "training_path", "training_label"), *rows])
