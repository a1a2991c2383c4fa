"""The page at / for people: one file without any request to another place, and images to try it with."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signsclf import images
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.errors import BadImageError
from signsclf.export.golden import REPLAY, noise_images
from signsclf.inference.classifier import Classifier
from signsclf.model.folder import RUN
from signsclf.serve.answers import Refused, json_response
from signsclf.serve.guard import page_policy
from signsclf.serve.service import Service

PAGE = Path(__file__).with_suffix(".html")
SAMPLES = "samples"
"""The folder below a model's run/ whose images the page offers."""
MAX_SAMPLES = 12

_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40"><rect width="40" height="40" rx="11" fill="#005fa3"/>'
    b'<path d="M11 21l6 6 12-14" fill="none" stroke="#fff" stroke-width="4" '
    b'stroke-linecap="round" stroke-linejoin="round"/></svg>'
)
_TYPES = {".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_SIGNS = ((14, 14), (13, 2), (2, 13), (28, 10), (17, 5), (40, 4), (12, 12), (3, 6))
"""(ClassId, track) of rendered signs that look well; the last is too blurred for the ready-made model to accept."""
_SEED, _NEAREST, _SIDE = 7, 29, 144


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image to try the page with: its name for people, its media type, and what reads it."""

    name: str
    media_type: str
    read: Callable[[], bytes]


def routes(service: Service) -> list[Route]:
    """Make the routes of the page, none where the settings leave it out."""
    if not service.settings.page:
        return []
    html = PAGE.read_bytes()
    packed = gzip.compress(html, mtime=0)
    tag = hashlib.sha256(html).hexdigest()[:32]
    headers = {
        "Content-Security-Policy": page_policy(html) + "; require-trusted-types-for 'script'",
        "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
    }

    async def page(request: Request) -> Response:
        zipped = _takes_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{tag}-gzip"' if zipped else f'"{tag}"'
        known = {name.strip().removeprefix("W/") for name in request.headers.get("if-none-match", "").split(",")}
        if etag in known or "*" in known:
            return Response(status_code=304, headers={**headers, "ETag": etag})
        encoding = {"Content-Encoding": "gzip"} if zipped else {}
        return Response(
            packed if zipped else html, headers={**headers, **encoding, "ETag": etag}, media_type="text/html"
        )

    async def icon(_: Request) -> Response:
        return Response(_ICON, headers={"Cache-Control": "max-age=86400"}, media_type="image/svg+xml")

    async def details(_: Request) -> Response:
        found = await asyncio.to_thread(samples, service.models.get().classifier)
        listed = [{"name": sample.name, "path": f"samples/{number}"} for number, sample in enumerate(found)]
        return json_response({"max_bytes": service.settings.max_bytes, "samples": listed})

    async def sample(request: Request) -> Response:
        # In threads: the server answers others while a disk is slow or a sign is rendered.
        found = await asyncio.to_thread(samples, service.models.get().classifier)
        number = request.path_params["number"]
        if number >= len(found):
            raise Refused(404, "no such sample")
        try:
            data = await asyncio.to_thread(found[number].read)
        except OSError as error:
            raise Refused(404, "no such sample") from error
        return Response(data, media_type=found[number].media_type)

    return [
        Route("/", page, methods=["GET"]),
        Route("/icon.svg", icon, methods=["GET"]),
        Route("/page.json", details, methods=["GET"]),
        Route("/samples/{number:int}", sample, methods=["GET"]),
    ]


def samples(classifier: Classifier) -> list[Sample]:
    """List images to try a model with: those in its folder's run/samples, else golden images that show something, else
    rendered signs that it knows."""
    run = classifier.folder / RUN
    return _in_folder(run / SAMPLES) or _golden(run / REPLAY, classifier) or _signs(frozenset(classifier.labels))


def _in_folder(below: Path) -> list[Sample]:
    if not below.is_dir():
        return []
    inside = below.parent.parent.resolve()
    found = []
    for path in sorted(below.iterdir()):
        media_type = _TYPES.get(path.suffix.lower())
        # A link could lead out of the model folder, to what nobody meant to publish.
        if media_type and path.is_file() and path.resolve().is_relative_to(inside):
            found.append(Sample(name=path.stem, media_type=media_type, read=path.read_bytes))
    return found[:MAX_SAMPLES]


def _golden(below: Path, classifier: Classifier) -> list[Sample]:
    """List the golden images of a model that was trained with --pictures; others are of noise."""
    found = _in_folder(below)
    try:
        is_noise = found and np.array_equal(
            images.resize(images.decode(found[0].read(), found[0].name), classifier.size),
            noise_images(1, classifier.size)[0],
        )
    except (OSError, BadImageError):
        return []
    return [] if is_noise else found


@lru_cache(maxsize=4)
def _signs(labels: frozenset[str]) -> list[Sample]:
    return [
        Sample(name=CLASS_NAMES[class_id], media_type="image/png", read=partial(_render, class_id, track))
        for class_id, track in _SIGNS
        if CLASS_NAMES[class_id] in labels
    ]


@lru_cache(maxsize=len(_SIGNS))
def _render(class_id: int, track: int) -> bytes:
    from signsclf.data.synthetic import render_frame

    data = io.BytesIO()
    Image.fromarray(render_frame(class_id, track, _NEAREST, _SEED, (_SIDE, _SIDE))).save(data, "PNG")
    return data.getvalue()


def _takes_gzip(accepted: str) -> bool:
    for choice in accepted.split(","):
        name, _, weight = choice.partition(";")
        if name.strip().lower() in ("gzip", "*"):
            return weight.replace(" ", "").rstrip("0.") != "q="
    return False
