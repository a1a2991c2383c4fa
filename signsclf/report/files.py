"""Write a Report and its predictions to files: figures for programs, tables and pictures for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from signsclf.errors import has_extra
from signsclf.files import csv_bytes, json_bytes, make_folder, write_atomic
from signsclf.metrics.classification import Report, check_predictions, confusion, wilson
from signsclf.report import plots
from signsclf.text import count

MISTAKES_SHOWN = 24


def write_report(
    folder: str | Path,
    report: Report,
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    paths: Sequence[str],
    load_image: Callable[[str], np.ndarray] | None,
    *,
    figures: tuple[str, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write an evaluation into a folder, which is created if needed; existing files of these names are replaced.

    - metrics.json: `Report.to_dict`.
    - per_class.csv: label, n, precision, recall, f1, and the recall's 95 % Wilson interval recall_low and recall_high,
      in class order; empty where undefined.
    - predictions.csv: path, label, predicted, probability (of the predicted label), in the order given.
    - confusion.png and mistakes.png, see `signsclf.report.plots`, where matplotlib is installed.

    Each file is written atomically. Text is UTF-8; bytes of file names that are not UTF-8 are escaped.

    Args:
        report: the figures of these probabilities.
        probabilities, targets, classes: as for `Report.from_probabilities`.
        paths: the N images' names, written unchanged.
        load_image: returns the uint8 array (height, width, 3) of one of `paths`; called for the worst mistakes
            only, before anything is written. None leaves mistakes.png out.
        figures: name and content of a JSON file to write instead of metrics.json.

    Returns:
        The files written.

    Raises:
        ValueError: the arguments do not match each other.
        SignsclfError: the folder or a file cannot be written; what `load_image` raises passes through.
    """
    probabilities, targets, classes = check_predictions(probabilities, targets, classes)
    predicted = probabilities.argmax(axis=1)
    confused = confusion(targets, predicted, len(classes))
    if len(paths) != len(targets):
        raise ValueError(f"{len(targets)} images, but {len(paths)} paths")
    if [(c.label, c.n) for c in report.per_class] != list(zip(classes, confused.n_true.tolist(), strict=True)):
        raise ValueError("the report does not match these targets and classes")

    confidence = np.minimum(probabilities.max(axis=1).astype(np.float64), 1)
    wrong = np.flatnonzero(predicted != targets)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")[:MISTAKES_SHOWN]]
    images = [load_image(paths[i]) for i in worst] if load_image else []

    folder = make_folder(folder)
    written = []

    def new(name: str) -> Path:
        written.append(folder / name)
        return written[-1]

    name, content = figures or ("metrics.json", report.to_dict())
    write_atomic(new(name), json_bytes(content))
    rows = (
        (c.label, c.n, *map(cell, (c.precision, c.recall, c.f1)), *map(cell, wilson(hit, c.n) if c.n else (None, None)))
        for c, hit in zip(report.per_class, confused.n_right.tolist(), strict=True)
    )
    heads = ("label", "n", "precision", "recall", "f1", "recall_low", "recall_high")
    write_atomic(new("per_class.csv"), csv_bytes([heads, *rows]))
    guesses = zip(paths, targets, predicted, confidence, strict=True)
    rows = ((path, classes[true], classes[guess], cell(probability)) for path, true, guess, probability in guesses)
    write_atomic(new("predictions.csv"), csv_bytes([("path", "label", "predicted", "probability"), *rows]))
    if not has_extra("plots"):
        return written
    plots.confusion_matrix(confused, classes, new("confusion.png"))
    if load_image is None:
        return written
    n_images = f"in {count(len(targets), 'image')}"
    of = f"The {len(worst)} most confident of " if len(worst) < len(wrong) else ""
    title = f"{of}{count(len(wrong), 'mistake')} {n_images}" if len(wrong) else n_images
    mistakes = [
        plots.Mistake(
            image=image,
            true=classes[targets[i]],
            predicted=classes[predicted[i]],
            confidence=float(confidence[i]),
            name="/".join(PurePosixPath(paths[i].replace("\\", "/")).parts[-2:]),
        )
        for image, i in zip(images, worst, strict=True)
    ]
    plots.worst_mistakes(mistakes, new("mistakes.png"), MISTAKES_SHOWN, classes=classes, title=title)
    return written


def cell(share: float | None) -> str:
    """Format a share as a CSV cell; empty for None."""
    return "" if share is None else f"{share:.6f}"
