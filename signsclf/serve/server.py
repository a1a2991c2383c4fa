"""The life of a server: from listening to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from signsclf.errors import SignsclfError
from signsclf.serve.app import make_app
from signsclf.serve.receipt import receipt_protocol
from signsclf.serve.service import Service
from signsclf.serve.upkeep import Upkeep

_BACKLOG = 2048
_LAST_SECONDS = 5  # for answers under way, after the last deadline


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

    def __init__(self, service: Service, tell: Callable[[str], None], log: Callable[[str], None] | None = None) -> None:
        """Make a server; ``tell`` is given the lines for people, ``log`` a JSON line for each request."""
        self.service = service
        self.url = ""
        self.started = threading.Event()
        self._tell = tell
        self._log = log
        self._upkeep = Upkeep(service.models, service.settings, tell)
        self._uvicorn: _Uvicorn | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Serve until `stop`.

        Raises:
            SignsclfError: the address cannot be listened on.
        """
        settings = self.service.settings
        listener = _listen(settings.host, settings.port)
        address = listener.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{host}:{address[1]}"
        config = uvicorn.Config(
            make_app(self.service, self._log), http=receipt_protocol(settings),
            timeout_keep_alive=math.ceil(settings.idle_seconds),
            log_config=None, log_level="critical", access_log=False, lifespan="off",
            ws="none", backlog=_BACKLOG, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(settings.deadline) + _LAST_SECONDS,
        )  # fmt: skip
        self._uvicorn = _Uvicorn(config, self.service, self._announce)
        self._uvicorn.run(sockets=[listener])
        self._upkeep.stop()

    def stop(self, drain: float = 0.0) -> None:
        """Let `run` return when what was accepted is answered; from any thread or signal handler.

        Args:
            drain: seconds in which work is still accepted, though the server is not ready for more.
        """
        self.service.ready = False
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, drain, self._end)
        elif self._uvicorn is not None:
            self._end()

    def refresh(self) -> None:
        """Read all model folders again; from any thread or signal handler."""
        self._upkeep.refresh()

    def _announce(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell(f"listening on {self.url}")
        self.started.set()
        self._upkeep.start()

    def _end(self) -> None:
        assert self._uvicorn is not None
        self._uvicorn.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SignsclfError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another --host or --port"
        ) from error
