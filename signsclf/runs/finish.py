"""The end of a run: calibrate, export, judge the exported file, write the card. What is reported is what ships."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from signsclf import images
from signsclf.choices import Int8Policy
from signsclf.data.cache import Decoded
from signsclf.data.split import Split
from signsclf.errors import BadImageError, ModelError, ParityError, SignsclfError
from signsclf.export.golden import REPLAY, noise_images, store_golden
from signsclf.export.int8 import CALIBRATION_IMAGES, write_int8
from signsclf.export.onnx import PARITY_IMAGES, PARITY_TOLERANCE, fold_temperature, readers, torch_logits, write_network
from signsclf.files import csv_bytes, write_atomic
from signsclf.inference.classifier import Classifier
from signsclf.metrics.calibrate import cross_fit, fit_temperature, reject_threshold, softmax
from signsclf.metrics.classification import Report
from signsclf.model import folder as modelfolder
from signsclf.model.card import write_card
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.report import plots
from signsclf.report.files import write_report
from signsclf.runs.folder import ERROR_LOG
from signsclf.runs.holdouts import Holdouts
from signsclf.text import visible
from signsclf.training import architectures
from signsclf.training.fit import FitResult
from signsclf.training.learner import restore_model

_PACKAGES = ("signsclf", "torch", "torchvision", "timm", "fastai", "onnx", "onnxruntime", "numpy", "pillow")
_MODULES = {"pillow": "PIL"}
_N_GOLDEN = 8
_INT8_JUDGED = 2_000
_PART = 1_024
# What a bare folder leaves out, below run/.
_NAMES_IMAGES = ("split.csv", "predictions.csv", "skipped.csv")
_SHOWS_IMAGES = ("plots/batch.png", "plots/mistakes.png")
FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "top5", "macro_f1", "n_classes_present", "balanced_accuracy")
"""Fields of a `Report` that config.json keeps."""


@dataclass(frozen=True)
class Trained:
    """A finished training and the data behind it.

    Attributes:
        source_name: the last part of the source's path; the rest is nobody's business.
        names: relative path of each row of the split's table.
        planned_samples: expected samples of each class in an epoch, float (C,).
        bare: ship no pickle, and nothing that shows or names the images trained on.
    """

    recipe: Recipe
    arch: architectures.Architecture
    classes: tuple[str, ...]
    is_gtsrb: bool
    source_name: str
    fingerprint: str
    split: Split
    names: tuple[str, ...]
    decoded: Decoded
    skipped: tuple[tuple[str, str], ...]
    result: FitResult
    planned_samples: np.ndarray
    max_accepted_error: float
    int8: Int8Policy
    bare: bool = False


def finish(trained: Trained, folder: Path, observer: Observer) -> dict[str, Any] | None:
    """Fills ``folder`` with all files of a model folder, from what was decoded: the source may be gone by now.

    Returns:
        The `Report` of the validation images as a dictionary, from the exported file; None where there are none.

    Raises:
        ParityError: the exported file does not answer as the network does.
        ModelError: a file cannot be written.
    """
    observer.say("exporting")
    recipe, arch, classes = trained.recipe, trained.arch, trained.classes
    train_rows, valid_rows = trained.split.rows("train"), trained.split.rows("valid")
    index = {name: i for i, name in enumerate(classes)}
    targets = np.array([index[label] for label in trained.split.table["label"]], np.int64)
    run = folder / modelfolder.RUN
    _write_run(trained, run, targets[train_rows])

    model = architectures.create(arch, len(classes), recipe.size)
    model.load_state_dict(trained.result.state)
    model = model.cpu().float().eval()
    temperature, threshold, calibration = 1.0, None, None
    if len(valid_rows):
        logits = _in_parts(lambda pixels: torch_logits(model, arch, pixels), trained.decoded.pixels, valid_rows)
        temperature = fit_temperature(logits, targets[valid_rows])
        threshold = reject_threshold(softmax(logits / temperature), targets[valid_rows], trained.max_accepted_error)
        groups = trained.split.table["group"][valid_rows]
        own = [f"image {i}" if g is None else g for i, g in zip(valid_rows, groups, strict=True)]
        calibration = cross_fit(logits, targets[valid_rows], np.array(own), trained.max_accepted_error, recipe.seed)
        fold_temperature(model, len(classes), temperature)

    gate_rows = _parity_rows(valid_rows, train_rows)
    gate_pixels = trained.decoded.pixels[gate_rows]
    config, exported = write_model(
        folder,
        model,
        arch,
        classes,
        recipe,
        gate_pixels,
        temperature=temperature,
        threshold=threshold,
        fingerprint=trained.fingerprint,
        is_gtsrb=trained.is_gtsrb,
        bare=trained.bare,
    )
    replayed = noise_images(_N_GOLDEN, config.input_size) if trained.bare else gate_pixels[:_N_GOLDEN]
    store_golden(folder, replayed, exported.probabilities(replayed))
    report = None
    if len(valid_rows):
        observer.say(f"judging model.onnx on the {len(valid_rows):,} validation images")
        probabilities = _in_parts(exported.probabilities, trained.decoded.pixels, valid_rows)
        report = Report.from_probabilities(probabilities, targets[valid_rows], classes)
        commonest = np.bincount(targets[valid_rows]).argmax()
        if report.accuracy <= np.mean(targets[valid_rows] == commonest):
            observer.say(
                f"warning: {100 * report.accuracy:.1f} % is no better than always answering {classes[commonest]!r}: "
                "the model has learned nothing; try a lower --lr, more --epochs, or look at the labels"
            )
        _write_figures(trained, report, probabilities, targets, valid_rows, run, observer)
    figures = {
        "training": {
            "n": len(train_rows),
            "classes": len(classes),
            "epochs": len(trained.result.history),
            "best_epoch": trained.result.best_epoch if len(valid_rows) else None,
            "lr": trained.result.lr,
            "seconds": round(trained.result.seconds, 1),
            "source": trained.source_name,
            "skipped": len(trained.skipped),
        },
        "valid": None
        if report is None
        else {
            "n": report.n,
            "n_distinct": len({trained.decoded.digests[row] for row in valid_rows}),
            **{name: getattr(report, name) for name in FIGURES},
        },
        "calibration": None if calibration is None else calibration.to_dict(),
    }
    if trained.int8 is not Int8Policy.NONE:
        observer.say("quantizing to 8 bits")
        judged = valid_rows if len(valid_rows) else _spread(train_rows, _INT8_JUDGED)
        calibration_pixels = trained.decoded.pixels[_spread(train_rows, CALIBRATION_IMAGES)]
        force = trained.int8 is Int8Policy.FORCE
        int8 = write_int8(folder, calibration_pixels, trained.decoded.pixels[judged], targets[judged], force)
        observer.say(str(int8))
        figures["int8"] = {**int8.to_dict(), "judged_on": "valid" if len(valid_rows) else "train"}
    config = dataclasses.replace(config, figures=figures)
    modelfolder.write_config(folder, config)
    write_card(folder, config, report)
    # It names places of this machine, and what it tells of is mended.
    (run / ERROR_LOG).unlink(missing_ok=True)
    if trained.bare:
        for name in (*_NAMES_IMAGES, *_SHOWS_IMAGES):
            (run / name).unlink(missing_ok=True)
    modelfolder.write_sums(folder)
    return None if report is None else report.to_dict()


def write_model(
    folder: Path,
    model: nn.Module,
    arch: architectures.Architecture,
    classes: tuple[str, ...],
    recipe: Recipe,
    pixels: np.ndarray,
    *,
    temperature: float = 1.0,
    threshold: float | None = None,
    fingerprint: str = "0" * 64,
    is_gtsrb: bool = False,
    bare: bool = False,
) -> tuple[modelfolder.Config, Classifier]:
    """Writes the network's files, config.json without figures, and SHA256SUMS; opens the exported model.

    Args:
        model: on the CPU, in eval mode, with the temperature folded in.
        pixels: uint8 (N, size, size, 3), N >= 1, for the parity check.
        bare: without learner.pkl.

    Raises:
        ParityError, ModelError: see `signsclf.export.onnx.write_network`.
    """
    parity, classifier_weight = write_network(folder, model, arch, classes, recipe.size, pixels)
    config = modelfolder.Config(
        architecture=arch.name,
        classes=classes,
        input_size=(recipe.size, recipe.size),
        mean=arch.mean,
        std=arch.std,
        recipe=recipe.replace(weights=Path(recipe.weights).name).to_dict(),
        temperature=temperature,
        reject_threshold=threshold,
        figures={},
        fingerprint=fingerprint,
        versions=_versions(),
        is_gtsrb=is_gtsrb,
        crop=recipe.crop.value,
        parity=parity.to_dict(),
        licence=_licence(_initial_weights(recipe, arch)),
        initial_weights=_initial_weights(recipe, arch),
        readers=readers(model, arch, len(classes), pixels[:2]),
        classifier=classifier_weight,
        fixed_input_size=arch.fixed_size or arch.one_size,
    )
    if bare:
        config = _without_learner(folder, config)
    modelfolder.write_config(folder, config)
    modelfolder.write_sums(folder)
    return config, Classifier(folder)


def reexport(
    run: Path,
    folder: Path,
    observer: Observer,
    *,
    evaluated: Holdouts | None = None,
    pixels: np.ndarray | None = None,
    bare: bool = False,
) -> modelfolder.Config:
    """Fills ``folder`` from a finished model folder: its network written anew by the packages that are here now.

    Args:
        evaluated: gives temperature, reject threshold and figures to a model that had no validation images.
        pixels: uint8 (N, H, W, 3) at the model's size, to compare on; None takes the stored images.
        bare: leaves out learner.pkl, which is a pickle, and all that shows or names the images trained on.

    Returns:
        What config.json says now.

    Raises:
        ModelError: the model folder is damaged, or a file cannot be written.
        SignsclfError: it has validation images of its own, and ``evaluated`` is given.
        ParityError: the exported file does not answer as the network does, or as the old one did.
    """
    modelfolder.verify_sums(run)
    model, old = restore_model(run)
    config = dataclasses.replace(old, versions=_versions())
    if evaluated is not None:
        if old.figures.get("valid"):
            raise SignsclfError(f"--holdout: {run} has validation images of its own; give one of --valid-fraction 0")
        figures = {
            "holdouts": evaluated.figures,
            "calibration": evaluated.calibration and evaluated.calibration.to_dict(),
        }
        config = dataclasses.replace(
            config,
            temperature=evaluated.temperature,
            reject_threshold=evaluated.reject_threshold,
            figures={**old.figures, **figures},
        )
    observer.say("exporting")
    if pixels is None:
        stored = sorted((run / modelfolder.RUN / REPLAY).glob("*.png"))
        if not stored:
            raise ModelError(f"{run}: ships without stored images to compare on, so it cannot be exported anew")
        pixels = np.stack([images.load(path, config.input_size) for path in stored])
    arch = architectures.find(config.architecture)
    change = config.temperature / old.temperature
    fold_temperature(model, len(config.classes), change)
    parity, _ = write_network(folder, model, arch, config.classes, config.input_size[0], pixels)
    config = dataclasses.replace(config, parity=parity.to_dict())
    if bare:
        config = _without_learner(folder, config)
        for name in ("recipe.json", "history.csv"):
            shutil.copy2(run / modelfolder.RUN / name, folder / modelfolder.RUN / name)
    else:
        shutil.copytree(run / modelfolder.RUN, folder / modelfolder.RUN, dirs_exist_ok=True)
    modelfolder.write_config(folder, config)
    modelfolder.write_sums(folder)
    exported = Classifier(folder)
    expected = softmax(Classifier(run).logits(pixels) / change)
    difference = float(np.abs(exported.probabilities(pixels) - expected).max())
    if not difference <= PARITY_TOLERANCE:
        raise ParityError(
            f"{run}: exported anew, its probabilities differ by {difference:.2g} (allowed: {PARITY_TOLERANCE:g}) from "
            "those of its first export; nothing was written; use the versions in its config.json"
        )
    replayed = noise_images(_N_GOLDEN, config.input_size) if bare else pixels[:_N_GOLDEN]
    store_golden(folder, replayed, exported.probabilities(replayed))
    if evaluated is None and not bare:
        shutil.copy2(run / modelfolder.CARD, folder)
    else:
        write_card(folder, config, None)
    modelfolder.write_sums(folder)
    return config


def _without_learner(folder: Path, config: modelfolder.Config) -> modelfolder.Config:
    (folder / modelfolder.LEARNER).unlink(missing_ok=True)
    return dataclasses.replace(config, readers=tuple(name for name in config.readers if name != "fastai"))


def _parity_rows(valid_rows: np.ndarray, train_rows: np.ndarray) -> np.ndarray:
    """At least `PARITY_IMAGES` rows where there are as many, spread evenly: validation first, then training."""
    chosen = _spread(valid_rows, PARITY_IMAGES)
    return np.concatenate([chosen, _spread(train_rows, PARITY_IMAGES - len(chosen))])


def _spread(rows: np.ndarray, n: int) -> np.ndarray:
    """At most ``n`` of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)] if len(rows) else rows


def _in_parts(answer: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What a network answers for these rows, which are copied out of a mapped array a part at a time."""
    return np.concatenate([answer(pixels[rows[i : i + _PART]]) for i in range(0, len(rows), _PART)])


def _write_run(trained: Trained, run: Path, train_targets: np.ndarray) -> None:
    history = trained.result.history
    rows = [list(history[0]), *([_cell(value) for value in row.values()] for row in history)] if history else [[]]
    write_atomic(run / "history.csv", csv_bytes(rows))
    counts = np.bincount(train_targets, minlength=len(trained.classes))
    draws = [["label", "images", "planned_an_epoch", "made"]]
    draws += [
        [label, int(n), f"{planned:.1f}", int(made)]
        for label, n, planned, made in zip(
            trained.classes, counts, trained.planned_samples, trained.result.samples, strict=True
        )
    ]
    write_atomic(run / "draws.csv", csv_bytes(draws))
    if trained.skipped:
        write_atomic(run / "skipped.csv", csv_bytes([["path", "reason"], *map(list, trained.skipped)]))
    (run / "plots").mkdir(exist_ok=True)
    if history:
        plots.training_curves(history, run / "plots" / "curves.png")


def _write_figures(
    trained: Trained,
    report: Report,
    probabilities: np.ndarray,
    targets: np.ndarray,
    rows: np.ndarray,
    run: Path,
    observer: Observer,
) -> None:
    names = [trained.names[i] for i in rows]
    places = dict(zip(names, rows, strict=True))
    gone = []

    def show(name: str) -> np.ndarray:
        row = places[name]
        try:
            return images.thumbnail(trained.split.table["path"][row])
        except BadImageError:
            gone.append(name)
            return np.asarray(trained.decoded.pixels[row])

    write_report(run, report, probabilities, targets[rows], trained.classes, names, show)
    if gone:
        observer.say(
            f"mistakes.png: {len(gone)} of its images can no longer be read ({gone[0]}); shown as the network sees them"
        )
    for picture in ("confusion.png", "mistakes.png"):
        (run / picture).replace(run / "plots" / picture)


def _versions() -> dict[str, str]:
    # By the modules: onnxruntime-gpu, pillow-simd and a plain checkout lack the distributions of these names.
    found = {name: import_module(_MODULES.get(name, name)).__version__ for name in _PACKAGES}
    return {"python": platform.python_version(), **{name: str(v).partition("+")[0] for name, v in found.items()}}


def _initial_weights(recipe: Recipe, arch: architectures.Architecture) -> str:
    """What training started from, by a name that later releases of the libraries understand; "" for random weights."""
    if recipe.weights == "none":
        return ""
    return (
        architectures.weights_source(arch, recipe.weights) or f"local {visible(Path(recipe.weights).absolute().name)}"
    )


def _licence(initial_weights: str) -> str:
    if not initial_weights:
        return "Trained from random weights; the rights to the training images are their owners'."
    return (
        f"Trained from other weights ({initial_weights}), whose licence applies as well (ImageNet's are for research "
        "in many cases); the rights to the training images are their owners'."
    )


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
