"""What every protocol calls: an image in, an `Answer` out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request

from signsclf.errors import BadImageError
from signsclf.inference.classifier import Prediction, softmax
from signsclf.inference.explain import activation_map_of
from signsclf.serve.answers import ClientGone, Refused, unreadable
from signsclf.serve.engine import Engine, Job, now
from signsclf.serve.models import Models
from signsclf.serve.settings import ServeSettings

DEADLINE_HEADER = "x-deadline-ms"
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
        ready: whether new work is wanted: not before the start, and not while draining.
    """

    def __init__(self, models: Models, settings: ServeSettings) -> None:
        self.models = models
        self.settings = settings
        self.ready = False
        runners = settings.runners or max(1, settings.decoders // (settings.threads or 1))
        self._engine = Engine(settings.decoders, runners)

    def start(self) -> None:
        """Start the engine in the event loop that runs now."""
        self._engine.start()
        self.ready = True

    def stop(self) -> None:
        """End the engine's threads when the work that waits is done."""
        self.ready = False
        self._engine.stop()

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
        roi: tuple[int, int, int, int] | None = None,
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
        served = self.models.get(model)
        if explain and not served.explains:
            raise Refused(400, f"{served.name} gives no heat map: its last layer does not read a feature map")
        job = self._job(served, deadline, wants_features=explain)
        job.data, job.roi = image, roi
        try:
            await self._finished([job], request)
        except BadImageError as error:
            raise unreadable(error, image) from error
        (prediction,) = served.classifier.predictions([""], softmax(job.logits[None]), top_k)
        return Answer(
            model=served.name,
            prediction=prediction,
            logits=job.logits,
            heat=activation_map_of(served.classifier, job.logits, job.features) if explain else None,
            digest=served.digest,
            threshold=served.threshold,
            timings=job.seconds,
        )

    async def run(
        self,
        images: np.ndarray | Sequence[bytes],
        *,
        model: str | None = None,
        outputs: Sequence[str] = ("logits",),
        deadline: float | None = None,
        request: Request | None = None,
    ) -> dict[str, np.ndarray]:
        """Run a network on 1 to ``max_images`` images.

        Args:
            images: encoded, or pixels at the model's size, uint8 (N, height, width, 3).
            outputs: of `OUTPUTS`: float32 logits (N, classes), float64 probabilities (N, classes), float32 features
                (N, channels, h, w).

        Raises:
            Refused: with the status and the sentence to answer.
            ClientGone: the client hung up.
        """
        served = self.models.get(model)
        height, width = served.classifier.size
        if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.shape[1:] != (height, width, 3)):
            raise Refused(
                400, f"pixels should be uint8 (N, {height}, {width}, 3), and are {images.dtype} {images.shape}"
            )
        if not 1 <= len(images) <= self.settings.max_images:
            raise Refused(400, f"{len(images)} images, where a request has 1 to {self.settings.max_images}")
        for name in outputs:
            if name not in OUTPUTS or (name == "features" and not served.classifier.has_features):
                raise Refused(400, f"{served.name} has no output {name!r}")
        jobs = []
        for image in images:
            job = self._job(served, deadline, wants_features="features" in outputs)
            if isinstance(image, bytes):
                job.data = image
            else:
                job.row = image
            jobs.append(job)
        try:
            await self._finished(jobs, request)
        except BadImageError as error:
            number = next(number for number, job in enumerate(jobs) if job.error is error)
            refused = unreadable(error, images[number])
            raise Refused(refused.status, f"image {number + 1} of {len(jobs)}: {refused.sentence}") from error
        logits = np.stack([job.logits for job in jobs])
        found = {"logits": logits}
        if "probabilities" in outputs:
            found["probabilities"] = softmax(logits)
        if "features" in outputs:
            found["features"] = np.stack([job.features for job in jobs])
        return {name: found[name] for name in outputs}

    def _job(self, served: Any, deadline: float | None, *, wants_features: bool) -> Job:
        limit = now() + self.settings.deadline if deadline is None else deadline
        return Job(served, limit, wants_features=wants_features)

    async def _finished(self, jobs: Sequence[Job], request: Request | None) -> None:
        """Do the jobs; when one fails or the client hangs up, the others are dropped."""
        if not self.ready:
            raise Refused(503, "the server is not ready; try again soon", {"Retry-After": "1"})
        futures = [self._engine.submit(job) for job in jobs]
        gone = None if request is None else asyncio.ensure_future(request.receive())
        if gone is not None:
            # Whatever a client sends after its body means the end of the connection.
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
            for future in futures:
                future.cancel()
