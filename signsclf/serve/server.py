"""The life of a server: from listening to the last answer."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from signsclf.errors import SignsclfError
from signsclf.serve.app import make_app
from signsclf.serve.guard import Guard
from signsclf.serve.receipt import receipt_protocol
from signsclf.serve.service import Service

_BACKLOG = 2048


class _Uvicorn(uvicorn.Server):
    """uvicorn without signal handlers of its own, around the life of a service."""

    def __init__(self, config: uvicorn.Config, service: Service, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.start()
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._service.stop()


class Server:
    """A service behind an address.

    Attributes:
        service: that answers.
        url: where it listens, once it does.
        started: set when it answers.
    """

    def __init__(self, service: Service, tell: Callable[[str], None]) -> None:
        """Make a server; ``tell`` is given the lines for people."""
        self.service = service
        self.url = ""
        self.started = threading.Event()
        self._tell = tell
        self._uvicorn: _Uvicorn | None = None

    def run(self) -> None:
        """Serve until `stop`.

        Raises:
            SignsclfError: the address cannot be listened on.
        """
        listener = _listen(self.service.settings.host, self.service.settings.port)
        address = listener.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{host}:{address[1]}"
        settings = self.service.settings
        config = uvicorn.Config(
            Guard(make_app(self.service), settings), http=receipt_protocol(settings),
            timeout_keep_alive=math.ceil(settings.idle_seconds),
            log_config=None, log_level="error", access_log=False, lifespan="off",
            ws="none", backlog=_BACKLOG, server_header=False, proxy_headers=False,
        )  # fmt: skip
        self._uvicorn = _Uvicorn(config, self.service, self._announce)
        self._uvicorn.run(sockets=[listener])

    def stop(self) -> None:
        """Stop listening, finish what was accepted, and let `run` return; from any thread or signal handler."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    def _announce(self) -> None:
        self._tell(f"listening on {self.url}")
        self.started.set()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SignsclfError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another --host or --port"
        ) from error
