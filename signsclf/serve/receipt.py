"""Connections that waste nobody's time: deadlines for what a client sends and reads, and a bound on how many are open.

uvicorn has no deadline for receiving a request: its keep-alive time begins anew with every byte, and an ASGI middleware
sees a request only when its headers are complete. So this stands below, in the protocol of each connection. All times
are the event loop's, which is monotonic: setting the clock changes nothing.
"""

from __future__ import annotations

import asyncio
import http
import json
from collections import OrderedDict
from typing import Any

from h11 import IDLE, SEND_BODY
from uvicorn.protocols.http.h11_impl import H11Protocol

from signsclf.serve.settings import ServeSettings

MAX_HEADER_BYTES = 65_536
"""Of a request's line and headers, and of what may stand between two pieces of a chunked body."""
SLOWEST_BODY = 10_000
"""Bytes a second. A body that comes more slowly has the headers' time only, whatever the body's deadline allows."""
_SPARE_DESCRIPTORS = 100  # what the process opens besides connections: models, libraries, the event loop
_PAUSED_SECONDS = 1.0

_NOTHING, _HEAD, _BODY = "nothing", "head", "body"


def receipt_protocol(settings: ServeSettings) -> type[asyncio.Protocol]:
    """Make the protocol class of one server, to be given to uvicorn as ``http``.

    It parses with httptools where that is installed, else with h11, as uvicorn does. Where the process may not open as
    many files as ``max_connections`` needs, the limit is raised as far as the system allows, and the bound follows it.
    """
    bases: tuple[type, ...] = (_H11, H11Protocol)
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        pass
    else:
        bases = (_HttpTools, HttpToolsProtocol)
    most = _open_files(settings.max_connections + _SPARE_DESCRIPTORS) - _SPARE_DESCRIPTORS
    return type("ReceiptProtocol", bases, {"limits": settings, "open": _Connections(max(1, most))})


def _open_files(wanted: int) -> int:
    """Allow this process as many open files; return how many it may open, ``wanted`` at most."""
    try:
        import resource
    except ImportError:  # Windows has no such limit for sockets
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1) or soft >= wanted:
        return wanted
    most = wanted if hard in (resource.RLIM_INFINITY, -1) else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft
    return most


class _Connections:
    """The open connections of a server, and those that it can do without.

    Attributes:
        most: how many may be open.
        all: that are open.
        waiting: those without a whole request head, the longest first: between requests, or slow with their headers.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.all: set[_Receipt] = set()
        self.waiting: OrderedDict[_Receipt, None] = OrderedDict()

    def forget(self, connection: _Receipt) -> None:
        self.all.discard(connection)
        self.waiting.pop(connection, None)


class _Receipt:
    """What is added to uvicorn's protocols; the subclasses tell how far a request has come in.

    A connection is in one of these states, and each but the last ends in time:

    - no request: ``idle_seconds`` from the connection or the last answer on;
    - a part of a request's head: ``header_seconds`` from its first byte on;
    - a part of its body: ``body_seconds`` from the head's end on, less where it comes at under `SLOWEST_BODY`;
    - at work on an answer: whoever answers sees to that. If the client does not read it, ``send_seconds``.
    """

    limits: ServeSettings
    open: _Connections
    # Of uvicorn's class.
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any
    flow: Any

    _state: tuple[object, ...] = ()
    _since = 0.0
    _due = float("inf")
    _write_due = float("inf")
    _fires = float("inf")
    _timer: asyncio.TimerHandle | None = None
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take a connection; at the bound, in place of the one that has waited longest."""
        super().connection_made(transport)  # type: ignore[misc]
        connections = self.open
        if len(connections.all) >= connections.most:
            if connections.waiting:
                next(iter(connections.waiting))._close()
            else:
                # Every other one is at work.
                self._refuse(503, "too many connections; try again soon", b"retry-after: 1\r\n")
                return
        connections.all.add(self)
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.open.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        """Parse what has come, within the bound of a request's head."""
        if self.transport.is_closing():
            return
        self._received += len(data)
        super().data_received(data)  # type: ignore[misc]
        self._follow()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()  # type: ignore[misc]
        self._follow()

    def pause_writing(self) -> None:
        """Give the client time to read its answer."""
        super().pause_writing()  # type: ignore[misc]
        self._write_due = self.loop.time() + self.limits.send_seconds
        self._arm()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()  # type: ignore[misc]
        self._write_due = float("inf")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with an error of the same form as all others."""
        self._refuse(400, "this is no HTTP request")

    def receiving(self) -> str:
        """Tell what of a request has come in part: nothing, its head, or its body."""
        raise NotImplementedError

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _follow(self) -> None:
        """Set the deadline of the state that the connection is in now."""
        receiving, busy = self.receiving(), self._busy
        # What follows a request while that is being answered waits: only its body is read.
        state = (receiving if receiving == _BODY or not busy else "", busy, self.cycle)
        if state == self._state:
            return
        self._state = state
        self._received = 0
        self._since = now = self.loop.time()
        limits = self.limits
        seconds = {_NOTHING: limits.idle_seconds, _HEAD: limits.header_seconds, _BODY: limits.header_seconds}
        self._due = now + seconds.get(state[0], float("inf"))  # type: ignore[arg-type]
        self.open.waiting.pop(self, None)
        if state[0] in (_NOTHING, _HEAD) and self in self.open.all:
            self.open.waiting[self] = None
        self._arm()

    def _arm(self) -> None:
        """Have the timer fire in time; one that fires too early costs less than setting one for every request."""
        due = min(self._due, self._write_due)
        if due >= self._fires:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._fires = due
        self._timer = self.loop.call_at(due, self._check)

    def _check(self) -> None:
        self._timer, self._fires = None, float("inf")
        now = self.loop.time()
        if now >= self._write_due:
            self._close()
        elif now >= self._due:
            self._overdue(now)
        self._arm()

    def _overdue(self, now: float) -> None:
        receiving = self._state[0]
        if receiving == _BODY:
            limits = self.limits
            allowed = min(limits.body_seconds, limits.header_seconds + self._received / SLOWEST_BODY)
            if self.flow.read_paused or getattr(self, "pipeline", None):
                # It is the server that reads no further, or still answers the request before.
                self._due = now + _PAUSED_SECONDS
            elif now < self._since + allowed:
                self._due = self._since + allowed
            elif self.cycle.response_started:
                self._close()
            else:
                self._refuse(408, f"the body did not come within {allowed:.0f} seconds")
        elif receiving == _HEAD:
            self._refuse(408, f"the headers did not come within {self.limits.header_seconds:.0f} seconds")
        else:
            self._close()

    def _refuse(self, status: int, sentence: str, headers: bytes = b"") -> None:
        """Answer below the application, and close."""
        body = json.dumps({"error": sentence}).encode()
        unread = self.transport.get_write_buffer_size() > 0
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n%s\r\n%s"
            % (status, http.HTTPStatus(status).phrase.encode(), len(body), headers, body)
        )
        # Not of this answer: uvloop may send it a moment later.
        self._close(unread)

    def _close(self, unread: bool | None = None) -> None:
        """Close the connection; what its client has not read by then (``unread``; None looks) is not waited for."""
        self.open.forget(self)
        self._due = self._write_due = float("inf")
        if self.transport.get_write_buffer_size() if unread is None else unread:
            self.transport.abort()
        else:
            self.transport.close()


class _H11(_Receipt):
    """For h11, which bounds a request's head itself."""

    conn: Any

    def receiving(self) -> str:
        if self.conn.their_state is SEND_BODY:
            return _BODY
        if self.conn.their_state is IDLE and self.conn.trailing_data[0]:
            return _HEAD
        return _NOTHING


class _HttpTools(_Receipt):
    """For httptools, which bounds nothing."""

    _receiving = _NOTHING
    _framing = 0
    """Bytes since the last piece of a request was complete, other than its body's."""

    def receiving(self) -> str:
        return self._receiving

    def data_received(self, data: bytes) -> None:
        """Refuse heads, trailers and extensions of chunks that are too long."""
        self._framing += len(data)
        super().data_received(data)
        if self._receiving == _NOTHING:
            self._framing = 0
        elif self._framing > MAX_HEADER_BYTES and not self.transport.is_closing():
            if self._receiving == _HEAD and not self._busy:
                self._refuse(431, f"the headers are longer than {MAX_HEADER_BYTES:,} bytes")
            else:
                self._close()

    def on_message_begin(self) -> None:
        self._receiving = _HEAD
        super().on_message_begin()  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too: the request is under way by then, and nobody reads them.
        if self._receiving == _HEAD:
            super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._receiving, self._framing = _BODY, 0
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        self._framing = max(0, self._framing - len(body))
        super().on_body(body)  # type: ignore[misc]

    def on_chunk_header(self) -> None:
        self._framing = 0

    def on_message_complete(self) -> None:
        self._receiving = _NOTHING
        super().on_message_complete()  # type: ignore[misc]
