"""What every protocol calls: an image in, an `Answer` out."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from starlette.requests import Request

from signsclf.errors import BadImageError
from signsclf.imagefiles.pixelcount import quick_size
from signsclf.images import header_wh
from signsclf.inference.classifier import Prediction, softmax
from signsclf.inference.explain import activation_map_of
from signsclf.serve.admission import Admission
from signsclf.serve.answers import ClientGone, Refused, unreadable
from signsclf.serve.engine import Engine, Job, now
from signsclf.serve.models import Models, ServedModel
from signsclf.serve.settings import ServeSettings
from signsclf.serve.telemetry import Telemetry

DEADLINE_HEADER = "x-deadline-ms"
_TOO_LARGE = 413
Roi: TypeAlias = tuple[int, int, int, int]
OUTPUTS = ("logits", "probabilities", "features")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result for one image.

    Attributes:
        model: the name of the model that gave it.
        prediction: as the package gives it; its ``path`` is "".
        logits: float32 (classes,).
        heat: the class activation map, float64 (h, w), 0 to 1, where it was asked for.
        digest: of the model, "sha256:…".
        threshold: the smallest probability that is accepted; None accepts or rejects nothing.
        timings: seconds by stage: queue, decode, run.
    """

    model: str
    prediction: Prediction
    logits: np.ndarray
    heat: np.ndarray | None
    digest: str
    threshold: float | None
    timings: dict[str, float]


class Service:
    """Models, settings and the engine behind all protocols.

    Attributes:
        models: by name.
        settings: the limits.
        telemetry: what is counted.
        admission: what is taken.
        ready: whether new work should be sent here: not before the start, and not after SIGTERM.
    """

    def __init__(self, models: Models, settings: ServeSettings) -> None:
        self.models = models
        self.settings = settings
        self.telemetry = Telemetry()
        self.ready = False
        self._running = False
        self._engine = Engine(settings.decoders, settings.capacity)
        self.admission = Admission(settings, self._engine)

    def start(self) -> None:
        """Start the engine in the event loop that runs now."""
        self._engine.start()
        self.ready = self._running = True

    def stop(self) -> None:
        """End the engine's threads when the work that waits is done."""
        self.ready = self._running = False
        self._engine.stop()

    def metrics(self) -> str:
        """Write counters, histograms and gauges in Prometheus's text format."""
        gauges = {
            "ready": int(self.ready),
            "images_in_work": self._engine.backlog,
            "body_bytes_in_memory": self.admission.bytes,
            "pixels_in_work": self.admission.pixels,
        }
        return self.telemetry.text(self._engine, gauges)

    def deadline(self, request: Request) -> float:
        """Return when a request's work must have begun, by `signsclf.serve.engine.now`.

        X-Deadline-Ms of the request counts from its arrival, at most the server's own deadline.

        Raises:
            Refused: 400, the header is not a whole number of milliseconds from 1 on.
        """
        text = request.headers.get(DEADLINE_HEADER)
        seconds = self.settings.deadline
        if text is not None:
            if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
                raise Refused(400, f"X-Deadline-Ms is {text[:40]!r}, where it should be milliseconds from 1 on")
            seconds = min(seconds, int(text) / 1000)
        return now() + seconds

    async def classify(
        self,
        image: bytes,
        *,
        model: str | None = None,
        top_k: int = 5,
        roi: Roi | None = None,
        explain: bool = False,
        deadline: float | None = None,
        request: Request | None = None,
    ) -> Answer:
        """Classify one encoded image.

        Args:
            model: its name; None is the default.
            top_k: classes in ``prediction.top_k``, 1 or more.
            roi: x1, y1, x2, y2 in pixels, inclusive; None takes the whole image.
            explain: also give the heat map.
            deadline: see `deadline`; None allows the server's own from now on.
            request: whose body has been read; when its client hangs up, the work is dropped.

        Raises:
            Refused: with the status and the sentence to answer.
            ClientGone: the client hung up.
        """
        (answer,) = await self.classify_all(
            [(image, roi)], model=model, top_k=top_k, explain=explain, deadline=deadline, request=request
        )
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def classify_all(
        self,
        images: Sequence[tuple[bytes, Roi | None]],
        *,
        model: str | None = None,
        top_k: int = 5,
        explain: bool = False,
        deadline: float | None = None,
        request: Request | None = None,
    ) -> list[Answer | Refused]:
        """Classify several images, each with its roi; see `classify`.

        Returns:
            For each image its answer, or why it cannot be read.

        Raises:
            Refused: nothing can be done for any of them.
            ClientGone: the client hung up.
        """
        served = self.models.get(model)
        if explain and not served.explains:
            raise Refused(400, f"{served.name} gives no heat map: its last layer does not read a feature map")
        jobs = []
        for data, roi in images:
            job = self._job(served, deadline, wants_features=explain)
            job.data, job.roi = data, roi
            jobs.append(job)
        await self._finish(jobs, request)
        return [
            self._answer(job, top_k) if job.error is None else self._unread(job.error, data)
            for job, (data, _) in zip(jobs, images, strict=True)
        ]

    def _answer(self, job: Job, top_k: int) -> Answer:
        served = job.model
        (prediction,) = served.classifier.predictions([""], softmax(job.logits[None]), top_k)
        answer = Answer(
            model=served.name,
            prediction=prediction,
            logits=job.logits,
            heat=activation_map_of(served.classifier, job.logits, job.features) if job.wants_features else None,
            digest=served.digest,
            threshold=served.threshold,
            timings=job.seconds,
        )
        self.telemetry.predicted(answer.model, prediction.accepted, answer.timings)
        return answer

    def _unread(self, error: Exception, data: bytes) -> Refused:
        """Say why an image cannot be read; any other failure is raised: it is not of the image."""
        if isinstance(error, BadImageError):
            error = unreadable(error, data)
        elif not (isinstance(error, Refused) and error.status == _TOO_LARGE):
            raise error
        self.telemetry.unread()
        return error

    async def run(
        self,
        images: np.ndarray | Sequence[bytes],
        *,
        model: ServedModel,
        outputs: Collection[str] = ("logits",),
        deadline: float | None = None,
        request: Request | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Run a network on 1 to ``max_images`` images.

        Args:
            images: encoded, or pixels at the model's size, uint8 (N, height, width, 3).
            outputs: of `OUTPUTS`: float32 logits (N, classes), float64 probabilities (N, classes), float32 features
                (N, channels, h, w).

        Returns:
            The outputs by name, and the seconds by stage of the image that took longest.

        Raises:
            Refused: with the status and the sentence to answer.
            ClientGone: the client hung up.
        """
        height, width = model.classifier.size
        if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.shape[1:] != (height, width, 3)):
            raise Refused(
                400, f"pixels should be uint8 (N, {height}, {width}, 3), and are {images.dtype} {images.shape}"
            )
        for name in outputs:
            if name not in OUTPUTS or (name == "features" and not model.classifier.has_features):
                raise Refused(400, f"{model.name} has no output {name!r}")
        jobs = []
        for image in images:
            job = self._job(model, deadline, wants_features="features" in outputs)
            if isinstance(image, bytes):
                job.data = image
            else:
                job.row = image
            jobs.append(job)
        await self._finish(jobs, request)
        for number, (job, image) in enumerate(zip(jobs, images, strict=True), 1):
            if job.error is not None:
                refused = self._unread(job.error, image)
                place = f"image {number} of {len(jobs)}: " if len(jobs) > 1 else ""
                raise Refused(refused.status, place + refused.sentence)
        logits = np.stack([job.logits for job in jobs])
        found = {"logits": logits, "probabilities": softmax(logits)}
        if "features" in outputs:
            found["features"] = np.stack([job.features for job in jobs])
        for job, probability in zip(jobs, found["probabilities"].max(axis=1), strict=True):
            accepted = None if model.threshold is None else bool(probability >= model.threshold)
            self.telemetry.predicted(model.name, accepted, job.seconds)
        slowest = max(jobs, key=lambda job: job.finished - job.submitted)
        return {name: found[name] for name in outputs}, slowest.seconds

    def _job(self, served: ServedModel, deadline: float | None, *, wants_features: bool) -> Job:
        limit = now() + self.settings.deadline if deadline is None else deadline
        return Job(served, limit, wants_features=wants_features)

    async def _finish(self, jobs: Sequence[Job], request: Request | None) -> None:
        """Have jobs done, each of which then has its outputs or its error.

        Raises:
            Refused: none of them is begun.
            ClientGone: the client hung up, and what had not begun was dropped.
        """
        if not self._running:
            raise Refused(503, "the server is not ready; try again soon", {"Retry-After": "1"})
        if not 1 <= len(jobs) <= self.settings.max_images:
            raise Refused(400, f"{len(jobs)} images, where a request has 1 to {self.settings.max_images}")
        pixels = 0
        for job in jobs:
            if job.data is not None:
                pixels += await self._pixels(job)
        self.admission.check_wait(jobs[0].deadline)
        self.admission.take_pixels(pixels)
        try:
            await self._outcomes([job for job in jobs if job.error is None], request)
        finally:
            self.admission.pixels -= pixels

    async def _pixels(self, job: Job) -> int:
        """Count an image's pixels by its header; one that cannot be read, or has too many, has its error and none."""
        data = job.data
        assert data is not None
        try:
            # The other formats have headers that a thread should open.
            size = quick_size(data) or await asyncio.to_thread(header_wh, data)
        except BadImageError as error:
            job.error = error
            return 0
        pixels, most = size[0] * size[1], self.settings.max_pixels
        if pixels > most:
            text = f"image: too many pixels ({size[0]}×{size[1]}, at most {most:,}); --max-pixels raises the limit"
            job.error = Refused(_TOO_LARGE, text)
            return 0
        return pixels

    async def _outcomes(self, jobs: Sequence[Job], request: Request | None) -> None:
        futures = [self._engine.submit(job) for job in jobs]
        gone = None if request is None else asyncio.ensure_future(request.receive())
        if gone is not None:
            # Whatever comes from a client after its body means the end of the connection.
            gone.add_done_callback(lambda _: [future.cancel() for future in futures])
        try:
            for future in futures:
                await future
        except asyncio.CancelledError:
            if gone is not None and gone.done() and not gone.cancelled():
                raise ClientGone from None
            raise
        finally:
            if gone is not None:
                gone.cancel()
            for job in jobs:
                self._engine.drop(job)
