"""From encoded images to outputs: threads that decode, and runs of the network over whatever waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from signsclf import images
from signsclf.serve.answers import is_late
from signsclf.serve.models import ServedModel

now = time.perf_counter
"""The clock of deadlines and timings: it never jumps, and is fine enough to time one image on every platform."""


class Job:
    """One image on its way; ``future`` gives the job itself when its outputs are there.

    Attributes:
        model: that it goes through.
        data: the encoded image; None where ``row`` is given.
        row: its pixels, uint8 (height, width, 3).
        roi: x1, y1, x2, y2 in pixels, inclusive; None takes the whole image.
        wants_features: whether the feature map is an output too.
        deadline: when its work must have begun, by `now`.
        logits: float32 (classes,).
        features: float32 (channels, h, w) where they are wanted.
    """

    __slots__ = (
        "data", "deadline", "decoded", "error", "features", "finished", "future", "logits", "model", "roi", "row",
        "started", "submitted", "taken", "wants_features",
    )  # fmt: skip

    def __init__(self, model: ServedModel, deadline: float, *, wants_features: bool = False) -> None:
        self.model = model
        self.deadline = deadline
        self.wants_features = wants_features
        self.data: bytes | None = None
        self.row: np.ndarray | None = None
        self.roi: tuple[int, int, int, int] | None = None
        self.error: Exception | None = None
        self.logits: Any = None
        self.features: Any = None
        self.submitted = self.taken = self.decoded = self.started = self.finished = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that it waited, was decoded and run, by the stage's name."""
        waited = self.taken - self.submitted + self.started - self.decoded
        return {"queue": waited, "decode": self.decoded - self.taken, "run": self.finished - self.started}


class Engine:
    """Threads that each decode an image and then, where a run is free, run the network over all that waits.

    Nothing waits for others to fill a batch: on an idle server an image is decoded and run at once, by one thread.
    Batches grow by themselves while all runs are busy.
    """

    def __init__(self, decoders: int, runners: int) -> None:
        """Make an engine that decodes and runs so many images at a time; ``start`` starts it."""
        self._free = runners
        self._n_threads = decoders + runners
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[ServedModel, deque[Job]] = {}
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Start the threads; futures belong to the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        for number in range(self._n_threads):
            # Daemons: a second signal ends the process without waiting for a large image.
            thread = threading.Thread(target=self._work, name=f"signsclf-serve-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads when the work that waits is done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, job: Job) -> asyncio.Future[Job]:
        """Queue a job; cancelling its future drops what has not begun."""
        job.future = self._loop.create_future()
        job.submitted = now()
        self._jobs.put(job)
        return job.future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.taken = now()
            if self._is_live(job) and self._decode(job):
                with self._lock:
                    self._waiting.setdefault(job.model, deque()).append(job)
                self._run_waiting()

    def _is_live(self, job: Job) -> bool:
        """Tell whether work on a job is still worth it; one that is late is answered so."""
        if job.future.cancelled():
            return False
        if now() > job.deadline:
            self._fail([job], is_late())
            return False
        return True

    def _decode(self, job: Job) -> bool:
        """Give a job its pixels; where that fails, answer it."""
        if job.data is not None:
            try:
                job.row = images.resize(images.decode(job.data), job.model.classifier.size, job.roi)
            except Exception as error:
                self._fail([job], error)
                return False
            job.data = None
        job.decoded = now()
        return True

    def _run_waiting(self) -> None:
        while jobs := self._take():
            try:
                self._run(jobs)
            finally:
                with self._lock:
                    self._free += 1

    def _take(self) -> list[Job]:
        """Take the jobs of the next run, all of one model; none where no run is free or nothing waits."""
        with self._lock:
            if not self._free or not self._waiting:
                return []
            # Models take turns: the one that is served goes to the end.
            model = next(iter(self._waiting))
            queue = self._waiting.pop(model)
            taken: list[Job] = []
            while queue and len(taken) < model.max_batch:
                job = queue.popleft()
                if self._is_live(job):
                    taken.append(job)
            # Few shapes: ONNX Runtime keeps memory for each. Powers of two, the rest waits for the next run.
            size = 1 << (len(taken).bit_length() - 1) if taken else 0
            queue.extendleft(reversed(taken[size:]))
            if queue:
                self._waiting[model] = queue
            if size:
                self._free -= 1
            return taken[:size]

    def _run(self, jobs: list[Job]) -> None:
        classifier = jobs[0].model.classifier
        began = now()
        try:
            batch = jobs[0].row[None] if len(jobs) == 1 else np.stack([job.row for job in jobs])
            if any(job.wants_features for job in jobs):
                logits, features = classifier.logits_and_features(batch)
            else:
                logits, features = classifier.logits(batch), None
        except Exception as error:
            self._fail(jobs, error)
            return
        ended = now()
        for number, job in enumerate(jobs):
            job.row = None
            job.started, job.finished = began, ended
            job.logits = logits[number]
            if job.wants_features:
                job.features = features[number]
        self._loop.call_soon_threadsafe(_deliver, jobs)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        for job in jobs:
            job.data = job.row = None
            job.error = error
        self._loop.call_soon_threadsafe(_deliver, jobs)


def _deliver(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is None:
            job.future.set_result(job)
        else:
            job.future.set_exception(job.error)
