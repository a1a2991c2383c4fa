"""How long work reports progress: events as plain data, and the class that is told of them. It never controls the work.

To stop a training, give it a `threading.Event` and set that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What is about to be trained.

    Attributes:
        arch: the architecture's name.
        size: side of the images in pixels.
        device: the device in words, such as its GPU's name.
        precision: "fp32", "bf16" or "fp16".
        freeze_epochs: epochs in which the head alone trains.
        epochs: epochs of all layers.
        n_train: training images.
        epoch_images: training images that an epoch samples; 0: each of them once.
        samples: training images sampled over all epochs, or None where epochs were asked for.
        n_synthetic: synthetic signs that each epoch adds.
        chosen: name, value and reason of each field of the recipe that was chosen from the data.
        seconds: that training is estimated to take, with its rehearsal; None where it is not estimated.
        rehearsals: further trainings that calibrate a model that holds nothing out, see `signsclf.runs.rehearsal`.
    """

    arch: str
    size: int
    device: str
    precision: str
    freeze_epochs: int
    epochs: int
    n_train: int
    epoch_images: int
    samples: int | None
    n_synthetic: int
    chosen: tuple[tuple[str, Any, str], ...]
    seconds: float | None
    rehearsals: int = 0


@dataclass(frozen=True, kw_only=True)
class BatchDone:
    """Progress within an epoch.

    Attributes:
        epoch, n_epochs, batch, n_batches: counted from 1.
        loss: mean training loss of the epoch so far.
        images_per_second: speed of training.
        seconds_left: of the whole training.
        losses: of each batch since the last event, this one's last; empty where batches have none.
        rates: the learning rate of each of them, the highest of its parameter groups.
    """

    epoch: int
    n_epochs: int
    batch: int
    n_batches: int
    loss: float
    images_per_second: float
    seconds_left: float
    losses: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """A finished epoch.

    Attributes:
        row: the epoch's row of history.csv.
        n_epochs: epochs of the whole training.
        seconds_left: of the whole training.
    """

    row: dict[str, Any]
    n_epochs: int
    seconds_left: float


class Observer:
    """Override what is of interest; every method may be called often and should return at once."""

    def say(self, line: str) -> None:
        """Take one line of news for a person."""

    def progress(self, task: str, done: int, total: int) -> None:
        """Take how far a task of known length is."""

    def source_read(self, describe: Callable[[], list[str]]) -> None:
        """Hear that a source was read; ``describe()`` gives lines about it, which may take a second."""

    def planned(self, plan: PlanSummary) -> None:
        """Hear what is about to be trained."""

    def training_began(self) -> None:
        """Hear that training began: from now on a request to stop ends it after the current batch."""

    def batch_done(self, event: BatchDone) -> None:
        """Hear of a finished batch; not of every one."""

    def epoch_done(self, event: EpochDone) -> None:
        """Hear of a finished epoch."""

    def training_ended(self) -> None:
        """Hear that training is over, finished or stopped."""


class Observers(Observer):
    """Tells several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def say(self, line: str) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.say(line)

    def progress(self, task: str, done: int, total: int) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.progress(task, done, total)

    def source_read(self, describe: Callable[[], list[str]]) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.source_read(describe)

    def planned(self, plan: PlanSummary) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.planned(plan)

    def training_began(self) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.training_began()

    def batch_done(self, event: BatchDone) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.batch_done(event)

    def epoch_done(self, event: EpochDone) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.epoch_done(event)

    def training_ended(self) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.training_ended()
