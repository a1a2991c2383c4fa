"""A process that predicts shards, and is started again when an image ends it.

A decoder that crashes, or never returns, takes its process along and no more: what killed it twice is looked for by
halves, and becomes a row that says so.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from signsclf import images
from signsclf.errors import SignsclfError
from signsclf.inference.classifier import Classifier
from signsclf.machine import usable_cores
from signsclf.scale.manifest import Rows, read_rows
from signsclf.scale.plan import MANIFEST, Plan, check_model, open_plan
from signsclf.scale.shards import part_bytes, part_path, predict_rows, write_part

IMAGE_SECONDS = 60.0
_BEAT_SECONDS = 0.25
_SILENT_SECONDS = 120.0
"""Without a sign of life: a decoder that holds the interpreter's lock."""
_STARTS = 3
_TWICE = 2
_CRASHED = "ended the process that decoded it, twice"


@dataclass(frozen=True)
class _Died:
    """A worker process is gone; where one image is the cause, its place in the shard and what it did."""

    place: int | None = None
    why: str = ""


@dataclass
class _Request:
    """Rows ``start`` to ``stop`` of a shard; only all of them make a part."""

    shard: int
    start: int
    stop: int | None
    killers: dict[int, str] = field(default_factory=dict)


class Worker:
    """A child process with a classifier, as a context.

    Args:
        plan: of the batch.
        threads: CPU threads of the child.
        image_seconds: to read one image.
    """

    def __init__(self, plan: Plan, threads: int, image_seconds: float = IMAGE_SECONDS) -> None:
        self._plan, self._threads, self._image_seconds = plan, threads, image_seconds
        self._process: Any = None
        self._connection: Connection | None = None
        self._closed = False
        self._starting = threading.Lock()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, whatever it does; from any thread."""
        with self._starting:
            self._closed = True
        self._kill()

    def part(self, shard: int) -> bytes:
        """Make the part of a shard.

        Raises:
            SignsclfError: the child cannot work, or ends again and again with no single image at fault.
        """
        killers: dict[int, str] = {}
        overdue: Counter[int] = Counter()
        deaths = 0
        while isinstance(outcome := self._ask(_Request(shard, 0, None, killers)), _Died):
            if outcome.place is None:
                deaths += 1
                if deaths < _TWICE:
                    continue
                outcome = self._culprit(shard, killers)
            if outcome.place is None:
                if deaths > _STARTS:
                    raise SignsclfError(
                        f"shard {shard:,}: its process ended {deaths} times, and no single image is at fault; "
                        "is there memory for so many workers?"
                    )
            elif outcome.why == _CRASHED:
                killers[outcome.place] = _CRASHED
                deaths = 1
            else:
                overdue[outcome.place] += 1
                if overdue[outcome.place] == _TWICE:
                    killers[outcome.place] = outcome.why
        return outcome

    def _culprit(self, shard: int, killers: dict[int, str]) -> _Died:
        """Find an image that ends the process, by halves, or one on the way that takes too long."""
        low, high = 0, self._plan.rows_of(shard)
        while high - low > 1:
            middle = (low + high) // 2
            died = self._ask(_Request(shard, low, middle, killers))
            if isinstance(died, _Died) and died.place is not None:
                return died
            low, high = (low, middle) if isinstance(died, _Died) else (middle, high)
        died = self._ask(_Request(shard, low, high, killers))
        if isinstance(died, _Died):
            return died if died.place is not None else _Died(low, _CRASHED)
        return _Died()

    def _ask(self, request: _Request) -> bytes | _Died:
        connection = self._started()
        try:
            connection.send(request)
            return self._answer(connection)
        except (OSError, EOFError):
            self._kill()
            return _Died()
        finally:
            if self._closed:
                raise SignsclfError("stopped")

    def _answer(self, connection: Connection) -> bytes | _Died:
        while True:
            if not connection.poll(_SILENT_SECONDS):
                self._kill()
                return _Died()
            said, value = connection.recv()
            if said == "done":
                return bytes(value)
            if said == "failed":
                self._kill()
                raise SignsclfError(value)
            late = [place for place, seconds in value if seconds > self._image_seconds]
            if late:
                self._kill()
                return _Died(late[0], f"not read within {self._image_seconds:g} seconds, twice")

    def _started(self) -> Connection:
        for _ in range(_STARTS):
            if self._connection is not None:
                return self._connection
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            arguments = (self._plan, self._threads, theirs)
            process = context.Process(target=_work, args=arguments, name="signsclf-batch", daemon=True)
            with self._starting:
                # A child that is left alone before it has read what to do complains of it.
                if self._closed:
                    raise SignsclfError("stopped")
                process.start()
                self._process = process
            theirs.close()
            wait([ours, process.sentinel])
            try:
                said, value = ours.recv()
            except (OSError, EOFError):
                ours.close()
                continue
            if said == "failed":
                raise SignsclfError(value)
            self._connection = ours
        if self._connection is None:
            raise SignsclfError("a worker process cannot be started: it ends before it is ready; is there memory?")
        return self._connection

    def _kill(self) -> None:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is not None:
            process.kill()
            process.join()
        if connection is not None:
            connection.close()


class PartWriter:
    """Makes the part of a shard unless it is there: all that an engine has to call, with the numbers of shards.

    Args:
        plan: of the batch, or its folder.
        threads: CPU threads; None takes all cores.
        image_seconds: to read one image.

    Raises:
        SignsclfError: there is no plan.
    """

    def __init__(
        self, plan: Plan | str | Path, threads: int | None = None, image_seconds: float = IMAGE_SECONDS
    ) -> None:
        self._plan = plan if isinstance(plan, Plan) else open_plan(plan)
        self._worker = Worker(self._plan, threads or usable_cores(), image_seconds)

    def __call__(self, shard: int) -> int:
        """Make the part; returns the shard."""
        if not part_path(self._plan, shard).exists():
            write_part(self._plan, shard, self._worker.part(shard))
        return shard


class _Watch:
    """The images that are being read, and since when."""

    def __init__(self) -> None:
        self._began: dict[int, float] = {}

    @contextlib.contextmanager
    def __call__(self, place: int) -> Iterator[None]:
        self._began[place] = time.monotonic()
        try:
            yield
        finally:
            del self._began[place]

    def ages(self) -> list[tuple[int, float]]:
        now = time.monotonic()
        return [(place, now - began) for place, began in list(self._began.items())]


def _work(plan: Plan, threads: int, connection: Connection) -> None:
    """Answer requests until the other end is closed; runs in the child."""
    # Ctrl-C is for the process that has started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sending = threading.Lock()

    def say(what: str, value: object) -> None:
        with sending:
            connection.send((what, value))

    try:
        check_model(plan)
        images.limit_pixels(plan.max_pixels)
        classifier = Classifier(plan.model, threads)
        say("ready", None)
        while True:
            request: _Request = connection.recv()
            say("done", _answer_to(request, plan, classifier, say))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The other end is gone, and nobody waits for what is left.
        os._exit(0)
    except SignsclfError as error:
        say("failed", str(error))
    except MemoryError:
        os._exit(1)
    except Exception as error:
        say("failed", f"unexpected {type(error).__name__}: {error}")


def _answer_to(request: _Request, plan: Plan, classifier: Classifier, say: Any) -> bytes:
    rows = read_rows(plan.folder / MANIFEST, request.shard)
    stop = len(rows.paths) if request.stop is None else request.stop
    part = Rows(
        first=rows.first + request.start,
        paths=rows.paths[request.start : stop],
        stamps=rows.stamps[request.start : stop],
    )
    killers = {place - request.start: why for place, why in request.killers.items()}
    watch, done = _Watch(), threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                say("at", [(place + request.start, age) for place, age in watch.ages()])

    beating = threading.Thread(target=beat, name="signsclf-beat", daemon=True)
    beating.start()
    try:
        records = predict_rows(classifier, part, plan, watch, killers)
    finally:
        done.set()
        beating.join()
    return part_bytes(plan, request.shard, part.first, records) if request.stop is None else b""
