"""The process as its user meets it: standard streams, signals, progress bars. Nothing else in the package prints."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

from signsclf.observer import BatchDone, EpochDone, Observer, PlanSummary
from signsclf.text import decoded, visible

_LONG_HOURS = 1.0
T = TypeVar("T")


def eprint(line: str) -> None:
    """Write a line to standard error; that nobody reads it any more is not an error."""
    Bar.close_shown()
    with contextlib.suppress(OSError):
        sys.stderr.write(visible(line) + "\n")
        sys.stderr.flush()


def echo(line: str = "") -> None:
    """Write a line for people to standard output."""
    Bar.close_shown()
    sys.stdout.write(visible(line) + "\n")
    sys.stdout.flush()


def block() -> str:
    """Return the character for bars on standard output: one that its encoding has."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return "█" if "█".encode(encoding, "ignore") else "#"


def echo_json(value: Any) -> None:
    """Write one JSON value to standard output, in UTF-8."""
    print(decoded(json.dumps(value, ensure_ascii=False)), file=machine_output(), flush=True)


def machine_output() -> TextIO:
    """Return standard output for programs to read: UTF-8 with line feeds, on any locale and platform."""
    Bar.close_shown()
    _reconfigure(sys.stdout, encoding="utf-8", errors="backslashreplace", newline="\n")
    return sys.stdout


def byte_input() -> BinaryIO:
    """Return standard input as bytes, whose ``read(n)`` returns what is available instead of waiting for n."""
    buffered = sys.stdin.buffer
    # Another program may have made the shared pipe non-blocking, so that an empty read is not yet the end.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.set_blocking(buffered.fileno(), True)
    return getattr(buffered, "raw", buffered)


def open_streams() -> None:
    """Replace standard streams that the process was started without, and make every character writable.

    Services and windowed programs start without them. Output to one that is missing is lost, as to the null device.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # Else files opened later would get the numbers 0 to 2, and receive what libraries write to standard error.
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for the rest of the process
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, errors="backslashreplace")


def _reconfigure(stream: TextIO, **settings: str) -> None:
    # A notebook's streams, and those of a program that runs the command line, need not be of the usual kind.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(**settings)


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Import with garbage collection off: modules are many objects and no garbage, and the search takes a tenth of a
    prediction's time."""
    gc.disable()
    try:
        yield
    finally:
        # Imported modules stay, so no later collection needs to visit them.
        gc.freeze()
        gc.enable()


class Bar:
    """A progress bar of one task, made at its first news, on a terminal only. One bar at most is shown at a time.

    Whatever is told or echoed takes the bar away first, and so does `close_shown` at the end of the command.
    """

    _shown: Bar | None = None

    def __init__(self, unit: str = "images") -> None:
        self.unit = unit
        self._task = ""
        self._progress = None

    def __call__(self, task: str, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` are done; a total of None is not known."""
        if not sys.stderr.isatty():
            return
        self._open(task, total)
        extra = f"{done / max(time.monotonic() - self._began, 1e-9):,.0f} {self.unit}/s"
        self._progress.update(self._id, completed=done, total=total, extra=extra)
        if total is not None and done >= total:
            self.close_shown()

    def show(self, task: str, done: int, total: int, extra: str) -> None:
        """Show progress with a text at the right that the caller chooses."""
        if not sys.stderr.isatty():
            return
        self._open(task, total)
        self._progress.update(self._id, completed=done, total=total, extra=extra)

    @staticmethod
    def close_shown() -> None:
        """Remove the bar that is shown, if any, and restore the terminal's cursor."""
        bar, Bar._shown = Bar._shown, None
        if bar is None:
            return
        progress, bar._progress, bar._task = bar._progress, None, ""
        # The terminal may be gone.
        with _undisturbed(), contextlib.suppress(OSError):
            progress.stop()

    def _open(self, task: str, total: int | None) -> None:
        if Bar._shown is self and task == self._task:
            return
        self.close_shown()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[extra]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task, self._began = task, time.monotonic()
        self._id = self._progress.add_task(visible(task), total=total, extra="")
        with _undisturbed():
            Bar._shown = self
            self._progress.start()


class SilentObserver(Observer):
    """Reports nothing; during a training, the first signal sets ``stop.event``, see `StopSignals`."""

    def __init__(self) -> None:
        self.stop = StopSignals(tells=False)

    def training_began(self) -> None:
        self.stop.wait_for_batch(True)

    def training_ended(self) -> None:
        self.stop.wait_for_batch(False)


class TerminalObserver(SilentObserver):
    """Reports work on standard error; heeds signals too."""

    def __init__(self) -> None:
        tell_log()
        self.bar = Bar()
        self.stop = StopSignals()

    def say(self, line: str) -> None:
        eprint(line)

    def progress(self, task: str, done: int, total: int) -> None:
        self.bar(task, done, total)

    def source_read(self, describe: Callable[[], list[str]]) -> None:
        for line in describe():
            self.say(line)

    def planned(self, plan: PlanSummary) -> None:
        self.say(f"device: {plan.device}, {plan.precision}")
        for name, value, reason in plan.chosen:
            self.say(f"  {name.replace('_', '-')} {value}: {reason}")
        head = f"{plan.freeze_epochs} epochs of the head, then " if plan.freeze_epochs else ""
        images = f"{plan.n_train:,} images"
        if plan.epoch_images:
            images = f"{plan.epoch_images:,} images out of {plan.n_train:,}"
        if plan.n_synthetic:
            images += f" and {plan.n_synthetic:,} synthetic signs"
        self.say(f"plan: {plan.arch} at {plan.size} px, {head}{plan.epochs} epochs of {images}")
        if plan.rehearsals:
            again = "again" if plan.rehearsals == 1 else f"{plan.rehearsals} times"
            self.say(f"  then {again} with a fifth of the images held out, to calibrate; --no-rehearsal leaves it out")
        if plan.seconds is None:
            return
        self.say(f"estimated time: {duration(plan.seconds)}")
        if plan.seconds > 3600 * _LONG_HOURS:
            halved = f"--samples {plan.samples // 2}" if plan.epoch_images else f"--epochs {plan.epochs // 2 or 1}"
            self.say(f"  that is long: --recipe fast trains a small network in minutes, {halved} halves it")

    def training_ended(self) -> None:
        super().training_ended()
        Bar.close_shown()

    def batch_done(self, event: BatchDone) -> None:
        left = duration(event.seconds_left)
        extra = f"loss {event.loss:.4f}  {event.images_per_second:,.0f} images/s  {left} left"
        self.bar.show(f"epoch {event.epoch}/{event.n_epochs}", event.batch, event.n_batches, extra)

    def epoch_done(self, event: EpochDone) -> None:
        row = event.row
        evaluated = (
            ""
            if row["accuracy"] is None
            else f"  valid loss {row['valid_loss']:.4f}  accuracy {100 * row['accuracy']:.2f} %"
            f"  macro-F1 {100 * row['macro_f1']:.2f} %"
        )
        self.say(
            f"epoch {row['epoch']}/{event.n_epochs} ({row['phase']})  train loss {row['train_loss']:.4f}{evaluated}"
            f"  {row['seconds']:.1f} s, {duration(event.seconds_left)} left"
        )


class StopSignals:
    """The first SIGINT, SIGTERM or SIGHUP of a training asks it to stop; a second one, or one before or after the
    training, ends the process at once.

    Args:
        tells: whether it tells of the first one.

    Attributes:
        event: set by that first signal.
        signal: its number, or None.
    """

    def __init__(self, tells: bool = True) -> None:
        self.event, self.tells = threading.Event(), tells
        self.signal: int | None = None
        self._waiting = False

    def wait_for_batch(self, training: bool) -> None:
        """Say whether a training is under way, which heeds `event` after its batch."""
        self._waiting = training
        if training:
            on_signals(self._stop)

    def _stop(self, number: int, _: object) -> None:
        if not self._waiting or self.signal is not None:
            raise Stopped(number)
        self.signal = number
        self.event.set()
        if self.tells:
            eprint("stopping after this batch; once more stops at once")


def tell_log() -> None:
    """Print what the package logs like all other lines; takes effect once per process."""
    import logging

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            eprint(record.getMessage())

    logger = logging.getLogger("signsclf")
    if not logger.handlers:
        logger.addHandler(Teller())


class Stopped(BaseException):
    """A signal ended the work at once; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP unwind the stack, so that temporary files go."""

    def unwind(number: int, _: object) -> None:
        raise Stopped(number)

    on_signals(unwind)


def on_signals(handler: Callable[[int, object], None], *, nohup: bool = True) -> None:
    """Let ``handler(number, frame)`` have SIGINT, SIGTERM and SIGHUP, but not within a change of the terminal.

    Args:
        nohup: leave SIGHUP ignored where it is, as under ``nohup``.
    """

    def heard(number: int, frame: object) -> None:
        if _held is None:
            handler(number, frame)
        else:
            _held.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        # SIGINT too where a script's shell had it ignored for a job in the background: `kill -INT` is meant.
        signal.signal(number, heard)
    # A terminal that is closed, or ssh that breaks; Windows has no such signal.
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and not (nohup and signal.getsignal(hangup) is signal.SIG_IGN):
        signal.signal(hangup, heard)


_held: list[int] | None = None
"""Signals that came within `_undisturbed`; None outside of it."""


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Block signals within: an interrupted change of the terminal could not be undone."""
    global _held
    _held = []
    try:
        yield
    finally:
        held, _held = _held, None
        for number in held:
            signal.raise_signal(number)


def duration(seconds: float) -> str:
    """Format seconds for people: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def quiet_pipe(work: Callable[[], T]) -> T | None:
    """Run ``work``; a reader that closes the pipe early, as head does, is no failure."""
    try:
        result = work()
        sys.stdout.flush()
        return result
    except OSError as error:
        if not _is_closed_pipe(error):
            raise
        # Python would complain again when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None


def _is_closed_pipe(error: OSError) -> bool:
    # Windows says "invalid argument" of a closed pipe; where a file is at fault, its name is there too.
    on_windows = sys.platform == "win32" and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or on_windows


def shown_path(folder: Path) -> str:
    """Return a path as the user would write it: relative where it lies below the working directory."""
    try:
        return quoted(str(folder.relative_to(Path.cwd())))
    except ValueError:
        return quoted(str(folder))


def quoted(text: str) -> str:
    """Quote a word for a shell, where it needs that."""
    return shlex.quote(text)
