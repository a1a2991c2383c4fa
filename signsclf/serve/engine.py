"""From encoded images to outputs: threads that decode, and runs of the network over whatever waits."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections import Counter, deque
from queue import SimpleQueue
from typing import Any

import numpy as np

from signsclf import images
from signsclf.serve.answers import is_late
from signsclf.serve.models import ServedModel

STAGES = ("queue", "decode", "run")
"""What an image goes through."""
now = time.perf_counter
"""The clock of deadlines and timings: it never jumps, and is fine enough to time one image on every platform."""
_MEASURED_SECONDS = 0.25


class Job:
    """One image on its way; ``future`` gives the job itself when its outputs, or its error, are known.

    Attributes:
        model: that it goes through.
        data: the encoded image; None where ``row`` is given.
        row: its pixels, uint8 (height, width, 3).
        roi: x1, y1, x2, y2 in pixels, inclusive; None takes the whole image.
        wants_features: whether the feature map is an output too.
        deadline: when its work must have begun, by `now`.
        error: why it has no outputs.
        logits: float32 (classes,).
        features: float32 (channels, h, w) where they are wanted.
    """

    __slots__ = (
        "data", "deadline", "decoded", "error", "features", "finished", "future", "logits", "model", "roi", "row",
        "settled", "started", "submitted", "taken", "wants_features",
    )  # fmt: skip

    def __init__(self, model: ServedModel, deadline: float, *, wants_features: bool = False) -> None:
        self.model = model
        self.deadline = deadline
        self.wants_features = wants_features
        self.data: bytes | None = None
        self.row: np.ndarray | None = None
        self.roi: tuple[int, int, int, int] | None = None
        self.settled = False
        self.error: Exception | None = None
        self.logits: Any = None
        self.features: Any = None
        self.submitted = self.taken = self.decoded = self.started = self.finished = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that it waited, was decoded and run, by the stage's name."""
        waited = self.taken - self.submitted + self.started - self.decoded
        return dict(zip(STAGES, (waited, self.decoded - self.taken, self.finished - self.started), strict=True))


class _Call(enum.Enum):
    """What is said to a thread instead of a job."""

    RUN = "run what waits"
    END = "end"


class Engine:
    """Threads that each decode an image and then, where a run is free, run the network over all that waits.

    Nothing waits for others to fill a batch: on an idle server an image is decoded and run at once, by one thread.
    Batches grow by themselves while all runs are busy.

    Attributes:
        backlog: images that wait or are in work.
        rate: images a second, as last measured while some waited.
        batches: how often a run had so many images.
    """

    def __init__(self, decoders: int, capacity: int) -> None:
        """Make an engine; `start` starts it.

        Args:
            decoders: images decoded at a time while all runs are busy.
            capacity: threads that runs may take together; one run takes as many as its model's classifier has.
        """
        self.backlog = 0
        self.rate = 0.0
        self.batches: Counter[int] = Counter()
        self._capacity = self._free = capacity
        self._n_threads = decoders + capacity
        self._jobs: SimpleQueue[Job | _Call] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[ServedModel, deque[Job]] = {}
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop
        self._measured_from, self._measured = 0.0, 0

    @property
    def wait(self) -> float:
        """Seconds that a new image would wait, by `rate`; 0 where a thread is free for it."""
        waiting = self.backlog - self._n_threads
        return waiting / self.rate if waiting > 0 and self.rate else 0.0

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
            self._jobs.put(_Call.END)
        for thread in self._threads:
            thread.join()

    def submit(self, job: Job) -> asyncio.Future[Job]:
        """Queue a job."""
        job.future = self._loop.create_future()
        job.submitted = now()
        if not self.backlog:
            self._measured_from, self._measured = job.submitted, 0
        self.backlog += 1
        self._jobs.put(job)
        return job.future

    def drop(self, job: Job) -> None:
        """Forget a job: of its work is left out what has not begun."""
        job.future.cancel()
        self._settle(job)

    def _settle(self, job: Job) -> None:
        if not job.settled:
            job.settled = True
            self.backlog -= 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not _Call.END:
            if job is _Call.RUN:
                self._run_waiting()
                continue
            job.taken = now()
            if self._is_live(job) and self._decode(job):
                with self._lock:
                    self._waiting.setdefault(job.model, deque()).append(job)
                self._run_waiting()

    def _is_live(self, job: Job) -> bool:
        """Tell whether work on a job is still worth it; one that is late is answered so."""
        if job.settled:
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
                    self._free += self._threads_of(jobs[0].model)

    def _threads_of(self, model: ServedModel) -> int:
        return min(model.classifier.threads, self._capacity)

    def _take(self) -> list[Job]:
        """Take the jobs of the next run, all of one model; none where no run is free or nothing waits."""
        with self._lock:
            taken: list[Job] = []
            while self._waiting and not taken:
                # Models take turns: the one that is served goes to the end.
                model = next(iter(self._waiting))
                if self._threads_of(model) > self._free:
                    return []
                queue = self._waiting.pop(model)
                while queue and len(taken) < model.max_batch:
                    job = queue.popleft()
                    if self._is_live(job):
                        taken.append(job)
                # Few shapes, since ONNX Runtime keeps memory for each: powers of two. The rest goes back.
                while len(taken) & (len(taken) - 1):
                    queue.appendleft(taken.pop())
                if queue:
                    self._waiting[model] = queue
            if taken:
                self._free -= self._threads_of(model)
                if self._waiting and self._free:
                    self._jobs.put(_Call.RUN)
            return taken

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
        self._loop.call_soon_threadsafe(self._deliver, jobs)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        for job in jobs:
            job.data = job.row = None
            job.error = error
        self._loop.call_soon_threadsafe(self._deliver, jobs)

    def _deliver(self, jobs: list[Job]) -> None:
        """Hand out finished jobs, in the event loop's thread."""
        if jobs[0].error is None:
            self.batches[len(jobs)] += 1
        for job in jobs:
            self._settle(job)
            if not job.future.done():
                job.future.set_result(job)
        self._measured += len(jobs)
        seconds = now() - self._measured_from
        if seconds >= _MEASURED_SECONDS:
            measured = self._measured / seconds
            self.rate = (self.rate + measured) / 2 if self.rate else measured
            self._measured_from, self._measured = now(), 0
