"""The end of a run: export, calibrate, evaluate the exported file, write the folder. What is reported is what ships."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from signsclf import images
from signsclf.choices import Int8Policy
from signsclf.data.pixels import Pixels
from signsclf.errors import BadImageError, ModelError, ParityError, SignsclfError
from signsclf.export.golden import REPLAY
from signsclf.export.int8 import CALIBRATION_IMAGES, write_int8
from signsclf.export.onnx import PARITY_IMAGES, PARITY_TOLERANCE, ExportedNetwork, fold_temperature, write_network
from signsclf.files import csv_bytes, write_atomic
from signsclf.inference.classifier import Classifier
from signsclf.metrics.breakdown import by_track
from signsclf.metrics.calibrate import Calibration, cross_fit, fit_temperature, reject_threshold, softmax
from signsclf.metrics.classification import Report
from signsclf.metrics.intervals import group_numbers
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.report import plots
from signsclf.report.files import write_report
from signsclf.runs.folder import RunRequest
from signsclf.runs.holdouts import Holdouts
from signsclf.runs.prepare import Prepared, spread
from signsclf.runs.rehearsal import Rehearsal
from signsclf.runs.writer import ModelFolderWriter, new_config, versions
from signsclf.text import file_text
from signsclf.training import architectures
from signsclf.training.architectures import restore_model
from signsclf.training.fit import FitResult

_INT8_IMAGES = 2_000
_CHUNK = 1_024
FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "top5", "macro_f1", "n_classes_present", "balanced_accuracy")
"""Fields of a `Report` that config.json keeps."""


def finish(
    prepared: Prepared,
    request: RunRequest,
    result: FitResult,
    planned: np.ndarray,
    folder: Path,
    observer: Observer,
    rehearsed: Rehearsal | None = None,
) -> dict[str, Any] | None:
    """Fill ``folder`` with all files of a model folder, from what was decoded: the source may be gone by now.

    Args:
        planned: samples of each class that an epoch was to have, float (C,).
        rehearsed: calibrates a model that has no validation images.

    Returns:
        The `Report` of the validation images as a dictionary, from the exported file; None where there are none.

    Raises:
        ParityError: the exported file does not answer as the network does.
        ModelError: a file cannot be written.
    """
    observer.say("exporting")
    recipe, arch, classes = prepared.recipe, prepared.arch, prepared.classes
    pixels, targets = prepared.decoded.pixels, prepared.targets
    train_rows, valid_rows = prepared.split.rows("train"), prepared.split.rows("valid")
    run = folder / modelfolder.RUN
    _write_training(prepared, result, planned, run)

    model = architectures.create(arch, len(classes), recipe.size)
    model.load_state_dict(result.state)
    decoded_train = np.intersect1d(train_rows, prepared.decoded_rows)
    parity_pixels = pixels[_parity_rows(valid_rows, decoded_train)]
    temperature, threshold, calibration, probabilities = 1.0, None, None, None
    with ExportedNetwork(folder, model, arch, classes, recipe.size, parity_pixels) as network:
        if len(valid_rows):
            observer.say(f"evaluating model.onnx on the {len(valid_rows):,} validation images")
            # The one pass over them: the temperature divides the logits, here and in the file alike.
            logits = _by_chunks(network.logits, pixels, valid_rows).astype(np.float64)
            temperature = fit_temperature(logits, targets[valid_rows])
            probabilities = softmax(logits / temperature)
            threshold = reject_threshold(probabilities, targets[valid_rows], request.max_accepted_error)
            calibration = _cross_fit(prepared, logits, request.max_accepted_error)
        elif rehearsed is not None:
            max_error, seed = request.max_accepted_error, prepared.recipe.seed
            temperature, threshold, calibration = rehearsed.calibrate(max_error, seed)
        if temperature != 1:
            network.fold(temperature)
        parity = network.write(learner=request.learner)
        config = new_config(prepared.plan, network.model, parity, network.classifier_weight, parity_pixels)
    config = replace(config, temperature=temperature, reject_threshold=threshold, fingerprint=prepared.fingerprint)
    writer = ModelFolderWriter(folder, config, pictures=request.pictures, bare=request.bare)
    writer.write_golden(parity_pixels)
    report = None
    if probabilities is not None:
        clusters = group_numbers(prepared.split.table["group"][valid_rows])
        report = Report.from_probabilities(probabilities, targets[valid_rows], classes, clusters)
        hits = probabilities.argmax(axis=1) == targets[valid_rows]
        _say_if_useless(report, targets[valid_rows], classes, observer)
        _write_figures(prepared, report, probabilities, run, observer, request.pictures)
    # Early stopping keeps the best epoch of these same images; without it nothing is chosen on them.
    chosen_on = "valid" if recipe.patience and len(valid_rows) else None
    figures = {
        "training": {
            "n": len(train_rows),
            "classes": len(classes),
            "epochs": len(result.history),
            "best_epoch": result.best_epoch if chosen_on else None,
            "lr": result.lr,
            "seconds": round(result.seconds, 1),
            # The last part of the path alone: the rest is private.
            "source": file_text(Path(request.source).name),
            "skipped": len(prepared.skipped),
        },
        "valid": None
        if report is None
        else {
            "n": report.n,
            "n_groups": report.n_groups,
            "n_groups_lost": None if report.n_groups is None else by_track(hits, clusters).all_wrong,
            "chosen_on": chosen_on,
            **({"n_seen_by_teacher": prepared.n_seen_by_teacher} if recipe.teacher else {}),
            "n_distinct": len({prepared.decoded.digests[row] for row in valid_rows}),
            **{name: getattr(report, name) for name in FIGURES},
        },
        "calibration": None
        if calibration is None
        else {**calibration.to_dict(), **({"note": rehearsed.note} if rehearsed else {})},
    }
    if request.int8 is not Int8Policy.NONE:
        observer.say("quantizing to 8 bits")
        rows = valid_rows if len(valid_rows) else spread(decoded_train, _INT8_IMAGES)
        for_ranges = pixels[spread(decoded_train, CALIBRATION_IMAGES)]
        force = request.int8 is Int8Policy.FORCE
        int8 = write_int8(folder, config, for_ranges, prepared.decoded.take(rows).pixels, targets[rows], force)
        observer.say(str(int8))
        figures["int8"] = {**int8.to_dict(), "evaluated_on": "valid" if len(valid_rows) else "train"}
    writer.close(figures)
    return None if report is None else report.to_dict()


def reexport(
    run: Path,
    folder: Path,
    observer: Observer,
    *,
    evaluated: Holdouts | None = None,
    pixels: np.ndarray | None = None,
    request: RunRequest,
) -> modelfolder.Config:
    """Fill ``folder`` from a finished model folder, whose network the installed packages export again.

    Args:
        evaluated: gives temperature, reject threshold and figures to a model that had no validation images.
        pixels: uint8 (N, H, W, 3) at the model's size, to compare on; None takes the stored images.
        request: of it, ``learner``, ``pictures`` and ``bare`` are heeded.

    Returns:
        What config.json says now.

    Raises:
        ModelError: the model folder is damaged, or a file cannot be written.
        SignsclfError: it has validation images of its own, and ``evaluated`` is given.
        ParityError: the exported file does not answer as the network does, or as the old one did.
    """
    modelfolder.verify_sums(run)
    model, old = restore_model(run)
    config, figures = replace(old, versions=versions()), old.figures
    if evaluated is not None:
        if old.figures.get("valid"):
            raise SignsclfError(f"--holdout: {run} has validation images of its own; give one of --valid-fraction 0")
        config = replace(config, temperature=evaluated.temperature, reject_threshold=evaluated.reject_threshold)
        calibration = evaluated.calibration and evaluated.calibration.to_dict()
        holdouts = {**evaluated.figures}
        if request.bare:
            del holdouts["worst_groups"]
        figures = {**figures, "holdouts": holdouts, "calibration": calibration}
    observer.say("exporting")
    if pixels is None:
        stored = sorted((run / modelfolder.RUN / REPLAY).glob("*.png"))
        if not stored:
            raise ModelError(f"{run}: ships without stored images to compare on, so it cannot be exported again")
        pixels = np.stack([images.load(path, config.input_size) for path in stored])
    change = config.temperature / old.temperature
    fold_temperature(model, len(config.classes), change)
    arch = architectures.find_architecture(config.architecture)
    parity, _ = write_network(
        folder, model, arch, config.classes, config.input_size[0], pixels, learner=request.learner
    )
    shutil.copytree(run / modelfolder.RUN, folder / modelfolder.RUN, dirs_exist_ok=True)
    config = replace(config, parity=parity.to_dict())
    writer = ModelFolderWriter(folder, config, pictures=request.pictures, bare=request.bare)
    expected = softmax(Classifier(run).logits(pixels) / change)
    difference = float(np.abs(writer.classifier.probabilities(pixels) - expected).max())
    if not difference <= PARITY_TOLERANCE:
        raise ParityError(
            f"{run}: exported again, its probabilities differ by {difference:.2g} (allowed: {PARITY_TOLERANCE:g}) from "
            "those of its first export; nothing was written; use the versions in its config.json"
        )
    writer.write_golden(pixels)
    writer.close(figures)
    return writer.config


def _parity_rows(valid_rows: np.ndarray, train_rows: np.ndarray) -> np.ndarray:
    """Choose `PARITY_IMAGES` rows where there are as many, spread evenly: validation first, then training."""
    chosen = spread(valid_rows, PARITY_IMAGES)
    return np.concatenate([chosen, spread(train_rows, PARITY_IMAGES - len(chosen))])


def _by_chunks(predict: Callable[[np.ndarray], np.ndarray], pixels: Pixels, rows: np.ndarray) -> np.ndarray:
    """Predict these rows, which are taken a chunk at a time."""
    return np.concatenate([predict(pixels[rows[i : i + _CHUNK]]) for i in range(0, len(rows), _CHUNK)])


def _cross_fit(prepared: Prepared, logits: np.ndarray, max_accepted_error: float) -> Calibration | None:
    rows = prepared.split.rows("valid")
    groups = prepared.split.table["group"][rows]
    named = [f"image {i}" if group is None else group for i, group in zip(rows, groups, strict=True)]
    return cross_fit(logits, prepared.targets[rows], np.array(named), max_accepted_error, prepared.recipe.seed)


def _say_if_useless(report: Report, targets: np.ndarray, classes: tuple[str, ...], observer: Observer) -> None:
    commonest = np.bincount(targets).argmax()
    if report.accuracy <= np.mean(targets == commonest):
        observer.say(
            f"warning: {100 * report.accuracy:.1f} % is no better than always answering {classes[commonest]!r}: "
            "the model has learned nothing; try a lower --lr, more --epochs, or look at the labels"
        )


def _write_training(prepared: Prepared, result: FitResult, planned: np.ndarray, run: Path) -> None:
    history, classes = result.history, prepared.classes
    rows = [list(history[0]), *([_cell(value) for value in row.values()] for row in history)] if history else [[]]
    write_atomic(run / "history.csv", csv_bytes(rows))
    counts = np.bincount(prepared.targets[prepared.split.rows("train")], minlength=len(classes))
    samples = [["label", "images", "planned_an_epoch", "made"]]
    samples += [
        [label, int(n), f"{expected:.1f}", int(made)]
        for label, n, expected, made in zip(classes, counts, planned, result.samples, strict=True)
    ]
    write_atomic(run / "samples.csv", csv_bytes(samples))
    if prepared.skipped:
        write_atomic(run / "skipped.csv", csv_bytes([["path", "reason"], *map(list, prepared.skipped)]))
    (run / "plots").mkdir(exist_ok=True)
    if history:
        plots.training_curves(history, run / "plots" / "curves.png")


def _write_figures(
    prepared: Prepared, report: Report, probabilities: np.ndarray, run: Path, observer: Observer, pictures: bool
) -> None:
    rows = prepared.split.rows("valid")
    names = [prepared.names[i] for i in rows]
    row_of = dict(zip(names, rows, strict=True))
    gone = []

    def show(name: str) -> np.ndarray:
        row = row_of[name]
        try:
            return images.thumbnail(prepared.split.table["path"][row])
        except BadImageError:
            gone.append(name)
            return np.asarray(prepared.decoded.pixels[row])

    write_report(
        run, report, probabilities, prepared.targets[rows], prepared.classes, names, show if pictures else None
    )
    if gone:
        observer.say(
            f"mistakes.png: {len(gone)} of its images can no longer be read ({gone[0]}); shown as the network sees them"
        )
    for picture in ("confusion.png", *(["mistakes.png"] if pictures else [])):
        (run / picture).replace(run / "plots" / picture)


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
