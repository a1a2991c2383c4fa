"""Bytes on a socket, as no well-behaved client sends them."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

PATIENCE = 30.0
"""Seconds until a test gives up, on however slow a machine."""


def connect(url: str, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection to a server; with a small ``receive_buffer``, one that takes little of an answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    found = socket.socket(socket.AF_INET6 if ":" in parts.hostname else socket.AF_INET)
    if receive_buffer:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    found.settimeout(PATIENCE)
    found.connect((parts.hostname, parts.port))
    return found


def head(method: str, path: str, *headers: str, host: str = "127.0.0.1") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode("latin-1")


def rest(connection: socket.socket) -> bytes:
    """All that a server still says, until it closes the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of the next answer with a Content-Length; (0, b"") where the connection is closed."""
    found = b""
    while b"\r\n\r\n" not in found:
        try:
            part = connection.recv(65536)
        except ConnectionError:
            part = b""
        if not part:
            return 0, b""
        found += part
    top, _, body = found.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(lengths[0]):
        body += connection.recv(65536)
    return status(found), body


def status(data: bytes) -> int:
    """The status of an answer; 0 where there is none."""
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.1 ") else 0


def drip(connection: socket.socket, data: bytes, seconds: float = 0.02) -> bytes:
    """Send byte after byte for as long as the server takes them; return what it says."""
    connection.settimeout(seconds)
    until = time.monotonic() + PATIENCE
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            if part := connection.recv(65536):
                connection.settimeout(PATIENCE)
                return part + rest(connection)
            return b""
        except TimeoutError:
            assert time.monotonic() < until, "the server takes a slow request for ever"
        except ConnectionError:
            return b""
    raise AssertionError("the server has taken everything")
