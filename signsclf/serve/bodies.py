"""Bodies of requests: read into memory up to a limit, and taken apart into images."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.requests import Request

from signsclf.serve.admission import Ticket
from signsclf.serve.answers import ClientGone, Refused
from signsclf.text import visible

MAX_JSON_VALUES = 1_000_000
"""In a JSON body. Each takes many times its bytes of memory, and the server answers nobody else while it parses."""
MAX_JSON_OBJECTS = 100_000
"""Lists, objects and keys in a JSON body: two million of them would take 500 MB and ten seconds."""

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^;\s"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')
_ESCAPED = re.compile(r"\\(.)")
_MAX_PART_HEADERS = 8192


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's whole body.

    Raises:
        Refused: 413, it is larger than ``limit`` bytes; where Content-Length says so, nothing is read. 429, the
            bodies of all requests are too large together, or too much work waits already. 415, it is compressed: images
            are already, and a small body must not become a large one.
        ClientGone: the client hung up.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body is compressed (Content-Encoding); send it as it is")
    ticket: Ticket | None = request.scope.get(Ticket.KEY)
    if ticket is not None:
        ticket.check_wait()
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
            if ticket is not None:
                ticket.take(len(part))
            parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit:,} bytes; send a smaller image, or raise --max-bytes")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a form.

    Attributes:
        name: of the form's field.
        filename: of a file, "" where it is unnamed; None for a plain field.
        data: its content.
    """

    name: str
    filename: str | None
    data: bytes


def form_parts(body: bytes, content_type: str, most: int) -> list[Part]:
    """Take apart a multipart/form-data body (RFC 7578), in time proportional to its length.

    Args:
        content_type: the request's header, with the boundary.
        most: parts, at most.

    Raises:
        Refused: 400, it is damaged or has more parts.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Refused(400, "multipart/form-data without a boundary in Content-Type")
    delimiter = b"--" + (found[1] or found[2]).encode("latin-1")
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if at == 1:
        raise Refused(400, "the form does not begin with the boundary of Content-Type")
    parts: list[Part] = []
    while True:
        at += len(delimiter)
        if body.startswith(b"--", at):
            return parts
        ends = body.find(b"\r\n\r\n", at, at + _MAX_PART_HEADERS) if body.startswith(b"\r\n", at) else -1
        after = body.find(b"\r\n" + delimiter, ends + 2) if ends >= 0 else -1
        if after < 0:
            raise Refused(400, "the form is damaged, or ends too early")
        if len(parts) == most:
            raise Refused(400, f"the form has more than {most} parts")
        parts.append(_part(body[at:ends], body[ends + 4 : after]))
        at = after + 2


def _part(headers: bytes, data: bytes) -> Part:
    lines = headers.decode("utf-8", "replace").split("\r\n")
    (disposition,) = [line for line in lines if line.lower().startswith("content-disposition:")][:1] or [""]
    values = {
        key.lower(): _ESCAPED.sub(r"\1", quoted) if quoted else plain
        for key, quoted, plain in _PARAMETER.findall(disposition)
    }
    return Part(name=values.get("name", ""), filename=values.get("filename"), data=data)


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a body that is a JSON object.

    Raises:
        Refused: 400, it is anything else; 413, it has more than `MAX_JSON_VALUES` values or `MAX_JSON_OBJECTS`.
    """
    if body.count(b",") >= MAX_JSON_VALUES:
        raise Refused(413, f"the JSON has more than {MAX_JSON_VALUES:,} values; send image files or binary tensors")
    if sum(map(body.count, (b"[", b"{", b":"))) > MAX_JSON_OBJECTS:
        raise Refused(413, f"the JSON has more than {MAX_JSON_OBJECTS:,} lists, objects and keys; send flat lists")
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


def parameters_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the "parameters" of an object in a JSON body; {} without any.

    Raises:
        Refused: 400, they are no object.
    """
    found = value.get("parameters")
    if not isinstance(found, dict | None):
        raise Refused(400, "parameters should be an object")
    return found or {}


def base64_bytes(value: Any, name: str) -> bytes:
    """Decode the base64 text of a JSON body; ``name`` says which, for the message.

    Raises:
        Refused: 400, it is no base64 text.
    """
    try:
        # In base64 nothing else means anything: what is dropped could hide from one reader and not from another.
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise Refused(400, f"{name} should be base64 text: A-Z a-z 0-9 + /, padded with =, no line breaks") from None


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON number")
