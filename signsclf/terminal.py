"""How the command line shows long work: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from signsclf.observer import Observer

if TYPE_CHECKING:
    from signsclf.data.table import Source
    from signsclf.prepare import Prepared
    from signsclf.training.callbacks import BatchDone, EpochDone
    from signsclf.training.direct import DirectFit
    from signsclf.training.fit import Fit

_LONG_HOURS = 1.0
T = TypeVar("T")


def tell(line: str) -> None:
    """A line on standard error. That nobody reads it any more is no reason to stop working."""
    with contextlib.suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class Bar:
    """A progress bar of one task, made at its first news, drawn on a terminal only."""

    def __init__(self, unit: str = "images") -> None:
        self.unit = unit
        self._task = ""
        self._progress = None

    def __call__(self, task: str, done: int, total: int | None) -> None:
        """Shows that ``done`` of ``total`` are done; a total of None is not known."""
        if not sys.stderr.isatty():
            return
        if task != self._task:
            self.close()
            self._open(task, total)
        extra = f"{done / max(time.monotonic() - self._began, 1e-9):,.0f} {self.unit}/s"
        self._progress.update(self._id, completed=done, total=total, extra=extra)
        if total is not None and done >= total:
            self.close()

    def show(self, task: str, done: int, total: int, extra: str) -> None:
        """Like calling it, with the text at the right chosen by the caller."""
        if task != self._task:
            self.close()
            self._open(task, total)
        self._progress.update(self._id, completed=done, total=total, extra=extra)

    def close(self) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._task = None, ""

    def _open(self, task: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[extra]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        self._task, self._began = task, time.monotonic()
        self._id = self._progress.add_task(task, total=total, extra="")


class TerminalObserver(Observer):
    """Tells of a run on standard error, and lets SIGINT and SIGTERM end a training in good order.

    Attributes:
        signal: the signal that asked for the end, or None.
    """

    def __init__(self) -> None:
        self.bar = Bar()
        self.signal: int | None = None
        self._fit: Fit | DirectFit | None = None

    def say(self, line: str) -> None:
        self.bar.close()
        tell(line)

    def progress(self, task: str, done: int, total: int) -> None:
        self.bar(task, done, total)

    def source(self, source: Source) -> None:
        from signsclf.data.table import describe

        for line in describe(source):
            self.say(line)

    def plan(self, prepared: Prepared, seconds: float) -> None:
        from signsclf.train import describe_device

        recipe = prepared.recipe
        self.say(f"device: {describe_device(recipe.device)}, {recipe.precision.value}")
        for name, value in recipe.to_dict().items():
            reason = prepared.reasons.get(name)
            if reason is not None:
                self.say(f"  {name.replace('_', '-')} {value}: {reason}")
        head = f"{recipe.freeze_epochs} epochs of the head, then " if recipe.freeze_epochs else ""
        n = len(prepared.split.rows("train"))
        images = f"{recipe.epoch_images:,} images out of {n:,}" if recipe.epoch_images else f"{n:,} images"
        if drawn := recipe.add_synthetic * len(prepared.source.classes):
            images += f" and {drawn:,} drawn signs"
        self.say(f"plan: {recipe.arch} at {recipe.size} px, {head}{recipe.epochs} epochs of {images}")
        if seconds:
            self.say(f"estimated time: {duration(seconds)}")
        if seconds > 3600 * _LONG_HOURS:
            halved = (
                f"--samples {recipe.samples // 2}" if recipe.epoch_images else f"--epochs {recipe.epochs // 2 or 1}"
            )
            self.say(f"  that is long: --recipe fast trains a small net in minutes, {halved} halves it")

    def fitting(self, fit: Fit | DirectFit | None) -> None:
        self._fit = fit
        if fit is None:
            self.bar.close()
            return
        _on_signals(self._stop)

    def progressed(self, event: BatchDone | EpochDone) -> None:
        if hasattr(event, "row"):
            row = event.row
            judged = (
                ""
                if row["accuracy"] is None
                else f"  valid loss {row['valid_loss']:.4f}  accuracy {100 * row['accuracy']:.2f} %"
                f"  macro-F1 {100 * row['macro_f1']:.2f} %"
            )
            self.say(
                f"epoch {row['epoch']}/{event.n_epochs} ({row['phase']})  train loss {row['train_loss']:.4f}{judged}"
                f"  {row['seconds']:.1f} s, {duration(event.seconds_left)} left"
            )
        elif sys.stderr.isatty():
            left = duration(event.seconds_left)
            extra = f"loss {event.loss:.4f}  {event.images_per_second:,.0f} images/s  {left} left"
            self.bar.show(f"epoch {event.epoch}/{event.n_epochs}", event.batch, event.n_batches, extra)

    def _stop(self, number: int, _: object) -> None:
        if self._fit is None or self.signal is not None:
            # A second signal, or one after the training: no waiting.
            raise Stopped(number)
        self.signal = number
        self._fit.stop()
        self.say("stopping after this batch; once more stops at once")


class Stopped(BaseException):
    """A signal ended the work at once; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Makes SIGINT and SIGTERM unwind the stack, so that temporary files go."""

    def unwind(number: int, _: object) -> None:
        raise Stopped(number)

    _on_signals(unwind)


def _on_signals(handler: Callable[[int, object], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # SIGINT too where a script's shell had it ignored for a job in the background: `kill -INT` is meant.
        signal.signal(number, handler)


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def quiet_pipe(work: Callable[[], T]) -> T | None:
    """Runs ``work``; a reader that closed the pipe early, as head does, is no failure."""
    try:
        result = work()
        sys.stdout.flush()
        return result
    except BrokenPipeError:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None


def shown_path(folder: Path) -> str:
    """A path as the user would write it: relative where it lies below the working directory."""
    try:
        return quoted(str(folder.relative_to(Path.cwd())))
    except ValueError:
        return quoted(str(folder))


def quoted(text: str) -> str:
    """A word as a shell takes it."""
    return shlex.quote(text)
