"""The calibration of a model that holds nothing out: from other trainings of the same recipe that do.

A temperature cannot be fitted on images that a network was trained on: it answers those with more confidence than new
ones. So after a training on all images a second network is trained from the same start on four fifths of them, and its
answers to the others give temperature and reject threshold. Networks of one recipe are over- or underconfident alike:
by label smoothing, above all. Trained half as long they are not: then their temperature is a third too high.

A few dozen answers that are all right do not tell 98 % from 99.9 %. So where a fifth of the images is that few, and the
training short, further networks hold out further folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from signsclf.errors import SourceError
from signsclf.metrics.calibrate import Calibration, cross_fit, fit_temperature, reject_threshold, softmax
from signsclf.metrics.intervals import group_numbers
from signsclf.observer import BatchDone, Observer
from signsclf.runs.prepare import Prepared, hold_out_again, training_rows

FOLDS = 5
"""A network of a rehearsal holds out one of so many folds."""
_ENOUGH_IMAGES = 250
"""Held out in all; fewer where a single training is long."""
_SHORT_SAMPLES = 20_000
"""Images sampled by all networks of a rehearsal together, if there are several."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Answers of networks of the same recipe to images that they were not trained on.

    Attributes:
        logits: (N, C).
        targets: int (N,).
        groups: the number of each image's group, int (N,).
        n_networks: that were trained for it.
        n_seen_by_teacher: images that a teacher of all networks was trained on; None where that is not known.
    """

    logits: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    n_networks: int = 1
    n_seen_by_teacher: int | None = 0

    @property
    def note(self) -> str:
        """Where the figures come from, for config.json and the card."""
        others, those = "another training", "that network"
        if self.n_networks > 1:
            others, those = f"{self.n_networks} other trainings", "those networks"
        seen = "an unknown number" if self.n_seen_by_teacher is None else f"{self.n_seen_by_teacher:,}"
        return (
            f"held out of {others} of the same recipe: figures of {those}, and not of this one, which was trained on "
            "all images"
        ) + (f"; they flatter, as {seen} of them trained its teacher" if self.n_seen_by_teacher != 0 else "")

    def calibrate(self, max_accepted_error: float, seed: int) -> tuple[float, float, Calibration | None]:
        """Fit a temperature and a reject threshold, and measure both, each on the other half of the groups."""
        temperature = fit_temperature(self.logits, self.targets)
        threshold = reject_threshold(softmax(self.logits / temperature), self.targets, max_accepted_error)
        return temperature, threshold, cross_fit(self.logits, self.targets, self.groups, max_accepted_error, seed)


def networks(prepared: Prepared) -> int:
    """Count the networks that rehearse a training; none where it holds images out itself."""
    if len(prepared.split.rows("valid")):
        return 0
    recipe, n = prepared.recipe, len(prepared.split.rows("train"))
    samples = (recipe.freeze_epochs + recipe.epochs) * (recipe.epoch_images or len(training_rows(prepared)[1]))
    return max(1, min(FOLDS, math.ceil(_ENOUGH_IMAGES * FOLDS / n), _SHORT_SAMPLES // samples))


def seconds(prepared: Prepared, training: float) -> float:
    """Estimate the seconds of a rehearsal from those of the training."""
    return networks(prepared) * (training if prepared.recipe.epoch_images else (1 - 1 / FOLDS) * training)


def held_out(prepared: Prepared, lr: float | None) -> list[Prepared]:
    """Prepare the trainings that rehearse one that held nothing out; none where no class has two groups of images.

    Args:
        lr: the learning rate that the training used.
    """
    # One process does it, whatever the number that trained.
    recipe = prepared.recipe.replace(patience=0, shards=1)
    if lr is not None:
        recipe = recipe.replace(lr=lr)
    found = []
    for k in range(1, networks(prepared) + 1):
        of_fold = recipe.replace(fold=f"{k}/{FOLDS}", valid_fraction=1 / FOLDS)
        try:
            held = hold_out_again(replace(prepared, plan=replace(prepared.plan, recipe=of_fold)))
        except SourceError:  # there are fewer groups than folds
            break
        n_left = len(training_rows(held)[1])
        if n_left >= 2:
            of_fold = of_fold.replace(batch_size=min(recipe.batch_size, n_left))
            found.append(replace(held, plan=replace(held.plan, recipe=of_fold)))
    return found


def answers(held: Sequence[Prepared], logits: Sequence[np.ndarray]) -> Rehearsal:
    """Put the logits (N, C) of each network's validation images together with what is known of these."""
    rows = [prepared.split.rows("valid") for prepared in held]
    groups = [prepared.split.table["group"][of_one] for prepared, of_one in zip(held, rows, strict=True)]
    seen = [prepared.n_seen_by_teacher for prepared in held]
    return Rehearsal(
        logits=np.concatenate(logits).astype(np.float64),
        targets=held[0].targets[np.concatenate(rows)],
        groups=group_numbers(np.concatenate(groups)),
        n_networks=len(held),
        n_seen_by_teacher=None if None in seen else sum(seen),
    )


class Steps(Observer):
    """Shows a network's part of a rehearsal as one task of so many steps, and passes nothing else on."""

    def __init__(self, observer: Observer, number: int, n_networks: int) -> None:
        self.observer = observer
        self.task = "rehearsing, for the calibration"
        if n_networks > 1:
            self.task += f" ({number} of {n_networks})"

    def batch_done(self, event: BatchDone) -> None:
        """Pass on how far it is."""
        done = (event.epoch - 1) * event.n_batches + event.batch
        self.observer.progress(self.task, done, event.n_epochs * event.n_batches)
