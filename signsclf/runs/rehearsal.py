"""The calibration of a model that holds nothing out: from another training of the same recipe that does.

A temperature cannot be fitted on images that a network was trained on: it answers those with more confidence than new
ones. So after a training on all images a second network is trained from the same start on four fifths of them, and its
answers to the others give temperature and reject threshold. Networks of one recipe are over- or underconfident alike:
by label smoothing, above all. Trained half as long they are not: then their temperature is a third too high.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from signsclf.metrics.calibrate import Calibration, cross_fit, fit_temperature, reject_threshold, softmax
from signsclf.metrics.intervals import group_numbers
from signsclf.observer import BatchDone, Observer
from signsclf.runs.prepare import Prepared, hold_out_again, training_rows

HELD_OUT = 0.2
"""Share of the images that a rehearsal holds out."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Answers of a network of the same recipe to images that it was not trained on.

    Attributes:
        logits: (N, C).
        targets: int (N,).
        groups: the number of each image's group, int (N,).
        n_seen_by_teacher: images that a teacher of both networks was trained on; None where that is not known.
    """

    logits: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    n_seen_by_teacher: int | None = 0

    @property
    def note(self) -> str:
        """Where the figures come from, for config.json and the card."""
        seen = "an unknown number" if self.n_seen_by_teacher is None else f"{self.n_seen_by_teacher:,}"
        return (
            "held out of another training of the same recipe: figures of that network, and not of this one, which was "
            "trained on all images"
        ) + (f"; they flatter, as {seen} of them trained its teacher" if self.n_seen_by_teacher != 0 else "")

    def calibrate(self, max_accepted_error: float, seed: int) -> tuple[float, float, Calibration | None]:
        """Fit a temperature and a reject threshold, and measure both, each on the other half of the groups."""
        temperature = fit_temperature(self.logits, self.targets)
        threshold = reject_threshold(softmax(self.logits / temperature), self.targets, max_accepted_error)
        return temperature, threshold, cross_fit(self.logits, self.targets, self.groups, max_accepted_error, seed)


def rehearses(prepared: Prepared) -> bool:
    """Say whether a training needs a rehearsal: it holds nothing out."""
    return not len(prepared.split.rows("valid"))


def seconds(prepared: Prepared, training: float) -> float:
    """Estimate the seconds of a rehearsal from those of the training."""
    return training if prepared.recipe.epoch_images else (1 - HELD_OUT) * training


def held_out(prepared: Prepared, lr: float | None) -> Prepared | None:
    """Prepare the rehearsal of a training that held nothing out; None where no class has two groups of images.

    Args:
        lr: the learning rate that the training used.
    """
    # One process does it, whatever the number that trained.
    recipe = prepared.recipe.replace(valid_fraction=HELD_OUT, fold=None, patience=0, shards=1)
    if lr is not None:
        recipe = recipe.replace(lr=lr)
    held = hold_out_again(replace(prepared, plan=replace(prepared.plan, recipe=recipe)))
    n_left = len(training_rows(held)[1])
    if not len(held.split.rows("valid")) or n_left < 2:
        return None
    return replace(held, plan=replace(held.plan, recipe=recipe.replace(batch_size=min(recipe.batch_size, n_left))))


def answers(prepared: Prepared, logits: np.ndarray) -> Rehearsal:
    """Put the logits (N, C) of a rehearsal's validation images together with what is known of these."""
    rows = prepared.split.rows("valid")
    return Rehearsal(
        logits=logits.astype(np.float64),
        targets=prepared.targets[rows],
        groups=group_numbers(prepared.split.table["group"][rows]),
        n_seen_by_teacher=prepared.n_seen_by_teacher,
    )


class Steps(Observer):
    """Shows a rehearsal as one task of so many steps, and passes nothing else on."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def batch_done(self, event: BatchDone) -> None:
        """Pass on how far it is."""
        done = (event.epoch - 1) * event.n_batches + event.batch
        self.observer.progress("rehearsing, for the calibration", done, event.n_epochs * event.n_batches)
