"""HTTP answers: results as JSON, and every error as a status with one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from signsclf.errors import BadImageError, SignsclfError, is_out_of_memory
from signsclf.imagefiles.kinds import HEAD, image_class, kind_of
from signsclf.text import visible


class Refused(Exception):
    """A request that gets no result.

    Attributes:
        status: of the answer, 400 to 599.
        sentence: one line for people.
        headers: of the answer, such as Retry-After.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


class ClientGone(Exception):
    """The client hung up before it had its answer: nobody is left to answer."""


def refusal(error: BaseException) -> Refused:
    """Turn any failure into the answer that tells it; what is not the client's fault says no more than it must."""
    if isinstance(error, Refused):
        return error
    if is_out_of_memory(error):
        return Refused(503, "out of memory; send smaller images or fewer at once", {"Retry-After": "1"})
    if isinstance(error, BadImageError):
        return Refused(422, visible(error))
    if isinstance(error, SignsclfError):
        return Refused(500, visible(error))
    return Refused(500, f"unexpected {type(error).__name__}; the server's log has more")


def is_late() -> Refused:
    """Refuse work whose deadline has passed."""
    return Refused(504, "the deadline passed before the work began; allow more time, or send fewer images at once")


def unreadable(error: BadImageError, data: bytes) -> Refused:
    """Refuse a single image: 415 where the bytes are no image that is read here at all, else 422."""
    kind = kind_of(data[:HEAD])
    known = kind is not None and image_class(kind) is not None
    return Refused(422 if known else 415, visible(error))


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON in UTF-8, in one line."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(body, status, headers, "application/json")


def error_response(refused: Refused) -> Response:
    """Answer ``{"error": sentence}``."""
    return json_response({"error": refused.sentence}, refused.status, refused.headers)


def timing_headers(timings: Mapping[str, float]) -> dict[str, str]:
    """Make the header Server-Timing from seconds by stage."""
    return {"Server-Timing": ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in timings.items())}
