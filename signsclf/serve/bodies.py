"""Bodies of requests: read into memory up to a limit, and taken apart into images."""

from __future__ import annotations

import base64
import json
from typing import Any, NoReturn

from starlette.requests import Request

from signsclf.serve.answers import ClientGone, Refused
from signsclf.text import visible

MAX_JSON_VALUES = 2_000_000
"""In a JSON body. Each takes many times its bytes of memory, and the server answers nobody else while it parses them."""


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


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a body that is a JSON object.

    Raises:
        Refused: 400, it is anything else; 413, it has more than `MAX_JSON_VALUES` values.
    """
    if body.count(b",") >= MAX_JSON_VALUES:
        raise Refused(413, f"the JSON has more than {MAX_JSON_VALUES:,} values; send image files or binary tensors")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise Refused(400, "the body should be JSON in UTF-8") from None
    except RecursionError:
        raise Refused(400, "the body should be JSON, and is nested too deeply") from None
    except ValueError as error:
        raise Refused(400, f"the body should be JSON: {visible(error)}") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body should be a JSON object")
    return value


def base64_bytes(value: Any, name: str) -> bytes:
    """Decode the base64 text of a JSON body; ``name`` says which, for the message.

    Raises:
        Refused: 400, it is no base64 text.
    """
    try:
        # In base64 nothing else means anything: what is dropped could hide from one reader and not from another.
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise Refused(400, f"{name} should be base64 text: A-Z a-z 0-9 + /, padded with =, without line breaks") from None


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON number")
