"""What models trained on parts of a source say of the same recipe trained on all of it, where nothing is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from signsclf import images
from signsclf.choices import Part
from signsclf.data.table import Source, apply_crop
from signsclf.errors import ModelError
from signsclf.evaluate import evaluate
from signsclf.export import PARITY_IMAGES
from signsclf.judging.calibrate import Calibration, cross_fit, fit_temperature, reject_threshold, softmax
from signsclf.modelconfig import Config
from signsclf.modelfolder import read_config
from signsclf.observer import Observer

_OF_THE_SPLIT = {"seed", "valid_fraction", "split_by", "patience", "ema_decay", "precision", "device"}
"""Fields of the recipe in which a fold may differ: how it was split, what follows from the number of images, and where
it ran."""


@dataclass(frozen=True)
class CrossValidation:
    """Calibration and figures from images that the models judging them had not been trained on.

    Attributes:
        temperature: fitted on all of them.
        reject_threshold: likewise.
        calibration: what both do, each judged on the other half of the groups.
        figures: ``n`` images over ``folds`` models, and the mean, lowest and highest accuracy and macro-F1 of a model.
    """

    temperature: float
    reject_threshold: float
    calibration: Calibration | None
    figures: dict[str, Any]


def judge_folds(
    folds: Sequence[str | Path],
    config: Config,
    source: str | Path,
    accept_error: float,
    cache: str | Path,
    observer: Observer,
) -> CrossValidation:
    """Runs each fold's exported file on the images that it held out.

    Args:
        folds: model folders, each trained with validation images held out.
        config: of the model that was trained on all of the source.
        accept_error: see `signsclf.judging.calibrate.reject_threshold`.
        cache: see `signsclf.train.train`.

    Raises:
        ModelError: a fold is of another recipe, other data or other classes, or has held nothing out.
        SourceError: ``source`` is not what the folds were trained on.
    """
    logits, targets, groups, reports = [], [], [], []
    for folder in folds:
        fold = read_config(Path(folder))
        _refuse_other(Path(folder), fold, config)
        judged = evaluate(folder, source, part=Part.VALID, cache=cache, observer=observer)
        # A temperature of the fold's own is in its probabilities: it comes out again.
        logits.append(fold.temperature * np.log(np.maximum(judged.probabilities, np.finfo(np.float64).tiny)))
        targets.append(judged.targets)
        groups += [name if group is None else group for name, group in zip(judged.names, judged.groups, strict=True)]
        reports.append(judged.report)
    pooled, truth = np.concatenate(logits), np.concatenate(targets)
    temperature = fit_temperature(pooled, truth)
    figures: dict[str, Any] = {"n": len(truth), "folds": len(reports)}
    for name in ("accuracy", "macro_f1"):
        values = [float(getattr(report, name)) for report in reports]
        figures |= {name: float(np.mean(values)), f"{name}_lowest": min(values), f"{name}_highest": max(values)}
    return CrossValidation(
        temperature,
        reject_threshold(softmax(pooled / temperature), truth, accept_error),
        cross_fit(pooled, truth, np.array(groups), accept_error),
        figures,
    )


def sample_pixels(source: Source, size: tuple[int, int], crop: bool) -> np.ndarray:
    """Up to `PARITY_IMAGES` training images of the source, evenly spread, as a network sees them: uint8 (N, H, W, 3).

    Raises:
        BadImageError: one cannot be read.
    """
    table = apply_crop(source, crop).table
    table = table[table["split"].ne("test")]
    rows = np.linspace(0, len(table) - 1, min(PARITY_IMAGES, len(table))).astype(int)
    return np.stack([images.load(table["path"].iloc[i], size, table["roi"].iloc[i] or None) for i in rows])


def _refuse_other(folder: Path, fold: Config, config: Config) -> None:
    if fold.fingerprint != config.fingerprint or fold.classes != config.classes:
        raise ModelError(f"--fold {folder}: trained on other data; give models of the very same source")
    differing = {
        name
        for name in {*fold.recipe, *config.recipe} - _OF_THE_SPLIT
        if fold.recipe.get(name) != config.recipe.get(name)
    }
    # What follows from the number of images: the epochs from the samples, or the samples from the epochs; drawn signs.
    if "samples" not in differing:
        differing -= {"epochs", "epoch_images"}
    elif "epochs" not in differing:
        differing -= {"samples"}
    if fold.recipe.get("add_synthetic") and config.recipe.get("add_synthetic"):
        differing -= {"add_synthetic"}
    if differing:
        name = min(differing)
        raise ModelError(
            f"--fold {folder}: of another recipe ({name} is {fold.recipe.get(name)}, not {config.recipe.get(name)}); "
            "give models that differ in the seed and in what was held out alone"
        )
    if not fold.figures.get("valid"):
        raise ModelError(f"--fold {folder}: held no validation images out, so it has judged none")
