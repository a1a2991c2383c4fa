"""What models that held parts of a source out say of the same recipe trained on all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from signsclf import images
from signsclf.choices import SplitName
from signsclf.data.table import Source, apply_crop
from signsclf.errors import ModelError
from signsclf.evaluation.evaluate import evaluate
from signsclf.export.onnx import PARITY_IMAGES
from signsclf.files import user_path
from signsclf.metrics.breakdown import by_track, worst_groups
from signsclf.metrics.calibrate import Calibration, cross_fit, fit_temperature, reject_threshold, softmax
from signsclf.metrics.classification import evenly_spaced, grouped_interval
from signsclf.metrics.intervals import group_numbers
from signsclf.model.config import Config
from signsclf.model.folder import read_config
from signsclf.observer import Observer

_OF_THE_SPLIT = {"seed", "valid_fraction", "fold", "split_by", "patience", "ema_decay", "precision", "device", "shards"}
"""Fields of the recipe in which the models may differ: how they were split, what follows from the number of images, and
where they ran."""


@dataclass(frozen=True, kw_only=True)
class Holdouts:
    """Calibration and figures from images that the models evaluated on them had not been trained on.

    An image that several models held out counts once: with the mean of their logits in the calibration.

    Attributes:
        temperature: fitted on all of them.
        reject_threshold: likewise.
        calibration: what both do, each evaluated on the other half of the groups.
        figures: ``n`` distinct images of ``n_groups`` groups (None where none are known), ``n_repeated`` of them held
            out by several of the ``models``; the mean, lowest and highest accuracy and macro-F1 of a model;
            ``accuracy_low`` and ``accuracy_high``, the 95 % interval of the accuracy over the groups of the distinct
            images; ``n_groups_lost``, how many groups have no image right, and ``worst_groups`` by name; and
            ``chosen_on``, "valid" where a model is the best epoch on images that it held out, else None.
    """

    temperature: float
    reject_threshold: float
    calibration: Calibration | None
    figures: dict[str, Any]


def evaluate_holdouts(
    models: Sequence[str | Path],
    config: Config,
    source: str | Path,
    max_accepted_error: float,
    cache: str | Path,
    observer: Observer,
) -> Holdouts:
    """Run each model's exported file on the images that it held out.

    Args:
        models: model folders, each trained with validation images held out.
        config: of the model that was trained on all of the source.
        max_accepted_error: see `signsclf.metrics.calibrate.reject_threshold`.
        cache: see `signsclf.runs.train.train`.

    Raises:
        ModelError: a model is given twice, is of another recipe, other data or other classes, or held nothing out.
        SourceError: ``source`` is not what the models were trained on.
    """
    places: dict[str, int] = {}
    groups: list[str | None] = []
    rows, logits, targets, reports = [], [], [], []
    chosen_on = None
    folders = [user_path(model, ModelError) for model in models]
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise ModelError(f"--holdout {folder}: given twice; give each model once")
        own = read_config(folder)
        _refuse_other(folder, own, config)
        found = evaluate(folder, source, split=SplitName.VALID, cache=cache, observer=observer)
        # A temperature of the model's own is in its probabilities: it comes out again.
        logits.append(own.temperature * np.log(np.maximum(found.probabilities, np.finfo(np.float64).tiny)))
        targets.append(found.targets)
        reports.append(found.report)
        chosen_on = chosen_on or own.figures["valid"].get("chosen_on", "valid")
        for name, group in zip(found.names, found.groups, strict=True):
            if places.setdefault(name, len(places)) == len(groups):
                groups.append(group)
        rows.append([places[name] for name in found.names])
    row, answers, named = np.concatenate(rows), np.concatenate(logits), np.concatenate(targets)
    times = np.bincount(row)
    pooled = np.zeros((len(times), answers.shape[1]))
    np.add.at(pooled, row, answers)
    pooled /= times[:, None]
    truth = np.empty(len(times), np.int64)
    truth[row] = named
    right = np.bincount(row, answers.argmax(axis=1) == named) / times
    clusters = group_numbers(groups)
    low, high = grouped_interval(right, clusters)
    figures: dict[str, Any] = {"n": len(times), "n_repeated": int((times > 1).sum()), "models": len(reports)}
    n_groups = int(clusters.max()) + 1
    grouped = n_groups < len(times)
    figures["n_groups"] = n_groups if grouped else None
    figures["n_groups_lost"] = by_track(right, clusters).all_wrong if grouped else None
    figures["worst_groups"] = (
        [{"group": group.label, "n": group.n, "right": group.right} for group in worst_groups(right, groups)]
        if grouped
        else []
    )
    for name in ("accuracy", "macro_f1"):
        values = [float(getattr(report, name)) for report in reports]
        figures |= {name: float(np.mean(values)), f"{name}_lowest": min(values), f"{name}_highest": max(values)}
    temperature = fit_temperature(pooled, truth)
    return Holdouts(
        temperature=temperature,
        reject_threshold=reject_threshold(softmax(pooled / temperature), truth, max_accepted_error),
        calibration=cross_fit(pooled, truth, clusters, max_accepted_error),
        figures={**figures, "chosen_on": chosen_on, "accuracy_low": low, "accuracy_high": high},
    )


def sample_pixels(source: Source, size: tuple[int, int], crop: bool) -> np.ndarray:
    """Up to `PARITY_IMAGES` training images of the source, evenly spread, as a network sees them: uint8 (N, H, W, 3).

    Raises:
        BadImageError: one cannot be read.
    """
    table = apply_crop(source, crop).table
    table = table[table["split"] != "test"]
    rows = evenly_spaced(len(table), PARITY_IMAGES)
    return np.stack([images.load(table["path"][i], size, table["roi"][i]) for i in rows])


def _refuse_other(folder: Path, own: Config, config: Config) -> None:
    if own.fingerprint != config.fingerprint or own.classes != config.classes:
        raise ModelError(f"--holdout {folder}: trained on other data; give models of the very same source")
    differing = {
        name
        for name in {*own.recipe, *config.recipe} - _OF_THE_SPLIT
        if own.recipe.get(name) != config.recipe.get(name)
    }
    # What follows from the number of images: epochs from the samples, or samples from the epochs; synthetic signs.
    if "samples" not in differing:
        differing -= {"epochs", "epoch_images"}
    elif "epochs" not in differing:
        differing -= {"samples"}
    # And teachers that held the same images out, which are others for each model.
    for name in ("add_synthetic", "teacher"):
        if own.recipe.get(name) and config.recipe.get(name):
            differing -= {name}
    if differing:
        name = min(differing)
        raise ModelError(
            f"--holdout {folder}: of another recipe ({name} is {own.recipe.get(name)}, not {config.recipe.get(name)}); "
            "give models that differ in the seed and in what was held out alone"
        )
    if not own.figures.get("valid"):
        raise ModelError(f"--holdout {folder}: held no validation images out, so there is nothing to evaluate it on")
    if own.figures["valid"].get("n_seen_by_teacher", 0) != 0:
        raise ModelError(
            f"--holdout {folder}: images that it held out trained its teacher, or may have, and would flatter; give "
            "models whose teachers held the same images out"
        )
