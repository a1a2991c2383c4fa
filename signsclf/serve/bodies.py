"""Bodies of requests: read into memory up to a limit, and taken apart into images."""

from __future__ import annotations

from starlette.requests import Request

from signsclf.serve.answers import ClientGone, Refused


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's whole body.

    Raises:
        Refused: 413, it is larger than ``limit`` bytes; where Content-Length says so, nothing is read.
        ClientGone: the client hung up.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    left = limit
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientGone
        if part := message.get("body", b""):
            left -= len(part)
            if left < 0:
                raise _too_large(limit)
            parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit:,} bytes; send a smaller image, or raise --max-bytes")
