"""The limits and choices of a server, each with its default."""

from __future__ import annotations

from dataclasses import dataclass, field

from signsclf.errors import SignsclfError
from signsclf.serve.hosts import is_host_name, is_loopback, is_origin
from signsclf.threads import usable_cores

MAX_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What a server allows and how it works; checked at construction.

    Attributes:
        host: the address to listen on.
        port: 0 to 65535; 0 takes a free one.
        max_bytes: of a request's body.
        max_pixels: of an image.
        max_images: in one request.
        deadline: seconds that a request may take where it says nothing itself.
        runners: threads that run networks; None: calibrated.
        threads: of each run; None: calibrated.
        max_batch: images in a run, 1 to `MAX_BATCH`; None: calibrated.
        token: that requests must carry; None wants none.
        is_open: allow a host beyond loopback without a token.
        allow_hosts: names that the server answers to besides its own; "*" is any.
        allow_origins: of pages on other sites that may use the server, as in "https://example.org".
        max_connections: open at a time.
        header_seconds: for a request's headers, from their first byte on.
        body_seconds: for a request's body.
        idle_seconds: without a request. Balancers keep connections for 60 seconds, and should be the first to close.
        send_seconds: for a client to read its answer.

    Raises:
        SignsclfError: a value is out of its range, or others than this machine could reach the server without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_bytes: int = 20_000_000
    max_pixels: int = 40_000_000
    max_images: int = 64
    deadline: float = 10.0
    runners: int | None = None
    threads: int | None = None
    max_batch: int | None = None
    token: str | None = field(default=None, repr=False)
    is_open: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    max_connections: int = 1000
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0
    send_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SignsclfError(f"port is {self.port}, where it should be 0 to 65535")
        if self.max_batch is not None and self.max_batch > MAX_BATCH:
            raise SignsclfError(f"max_batch is {self.max_batch}, where it should be 1 to {MAX_BATCH}")
        for name in ("max_bytes", "max_pixels", "max_images", "runners", "threads", "max_batch", "max_connections"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SignsclfError(f"{name} is {value}, where it should be 1 or more")
        for name in ("deadline", "header_seconds", "body_seconds", "idle_seconds", "send_seconds"):
            if not getattr(self, name) > 0:
                raise SignsclfError(f"{name} is {getattr(self, name)}, where it should be more than 0 seconds")
        for name in self.allow_hosts:
            if name != "*" and not is_host_name(name):
                raise SignsclfError(
                    f"allow_hosts has {name!r}, where it should be a name without scheme and port: signs.example.org"
                )
        for origin in self.allow_origins:
            if not is_origin(origin):
                raise SignsclfError(
                    f"allow_origins has {origin!r}, where it should be a scheme and a host as in https://example.org"
                )
        if not (is_loopback(self.host) or self.token or self.is_open):
            raise SignsclfError(
                f"others can reach the host {self.host}; give a token (--token-file or $SIGNSCLF_TOKEN), "
                "or --open if anyone may use the server"
            )

    @property
    def decoders(self) -> int:
        """Threads that may decode images while others run networks."""
        return usable_cores()
