"""Measure how this machine runs a network fastest: runs at a time, threads of each, images in a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from signsclf.errors import ModelError
from signsclf.serve.engine import now
from signsclf.serve.models import ServedModel, batch_sizes, load_model
from signsclf.serve.settings import MAX_BATCH, ServeSettings
from signsclf.text import count

SECONDS = 1.0
"""That a calibration takes, but for opening a network once more."""
_USEFUL = 0.95  # of the best images/s: what is that fast, and answers sooner, is better
_LONGEST_RUN = 0.04  # seconds: those who come during a run wait for its end


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A model that runs as was found best.

    Attributes:
        model: with its threads and largest batch.
        runners: of its runs at a time.
        rate: images/s of all runs together, decoded already.
        milliseconds: of one image alone.
    """

    model: ServedModel
    runners: int
    rate: float
    milliseconds: float

    def __str__(self) -> str:
        model = self.model
        return (
            f"{model.name}: {count(self.runners, 'runner')} of {count(model.classifier.threads, 'thread')}, up to "
            f"{count(model.max_batch, 'image')} a run: {self.rate:,.0f} images/s, {self.milliseconds:.2f} ms alone"
        )


def calibrate(model: ServedModel, settings: ServeSettings) -> Calibration:
    """Measure a model for about `SECONDS`; what ``settings`` fixes stays.

    Of the layouts that reach 95 % of the best images/s, the one that answers a single image soonest is taken, and
    then the largest batch that reaches 95 % of the best in a run of at most 40 ms. A batch is of what waits, so an idle
    server answers no later for it; under load it spares work around each run, which these figures do not show.

    Raises:
        ModelError: the model's folder was replaced or damaged meanwhile.
    """
    sizes = _sizes(model, settings)
    slice_seconds = SECONDS / (len(settings.layouts) + len(sizes))
    measured = []
    for runners, threads in settings.layouts:
        opened = model if threads == model.classifier.threads else _opened_again(model, threads)
        measured.append((opened, runners, *_measure(opened, runners, 1, slice_seconds)))
    best = max(rate for _, _, rate, _ in measured)
    chosen, runners, rate, alone = min((m for m in measured if m[2] >= _USEFUL * best), key=lambda m: m[3])
    rates = {1: rate}
    for size in sizes:
        rate, seconds = _measure(chosen, runners, size, slice_seconds)
        if seconds > _LONGEST_RUN and settings.max_batch is None:
            break
        rates[size] = rate
    if settings.max_batch is not None:
        most = max(rates)
    else:
        most = max(size for size in rates if rates[size] >= _USEFUL * max(rates.values()))
    # Opened anew: ONNX Runtime keeps the memory of the largest measured batch for as long as a network is open.
    model = _opened_again(model, chosen.classifier.threads, most)
    return Calibration(model=model, runners=runners, rate=rates[most], milliseconds=1000 * alone)


def _sizes(model: ServedModel, settings: ServeSettings) -> list[int]:
    """Return the sizes of batches over 1 to measure, the smallest first."""
    sizes = batch_sizes(min(settings.max_batch or MAX_BATCH, model.classifier.batch_size))
    return sizes[-1:] if settings.max_batch is not None and len(sizes) > 1 else sizes[1:]


def _opened_again(model: ServedModel, threads: int, max_batch: int = 1) -> ServedModel:
    opened = load_model(model.classifier.folder, model.name, threads=threads, max_batch=max_batch)
    if opened.digest != model.digest:
        raise ModelError(f"{model.classifier.folder}: replaced while it was measured")
    return opened


def _measure(model: ServedModel, runners: int, size: int, seconds: float) -> tuple[float, float]:
    """Run batches in so many threads at a time; return images/s of all together and the mean seconds of a run.

    Requests are answered meanwhile. What they take is not counted where a run has one thread, whose own time is known.
    """
    clock = time.thread_time if model.classifier.threads == 1 else now
    batch = np.zeros((size, *model.classifier.size, 3), np.uint8)
    model.classifier.logits(batch)
    means: list[float] = []

    def run() -> None:
        until, began, n = now() + seconds, clock(), 0
        while not n or now() < until:
            model.classifier.logits(batch)
            n += 1
        means.append((clock() - began) / n)

    _at_once(run, runners)
    # A clock as coarse as that of Windows may not have moved.
    mean = max(sum(means) / runners, 1e-9)
    return size * runners / mean, mean


def _at_once(work: Callable[[], None], n: int) -> None:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
