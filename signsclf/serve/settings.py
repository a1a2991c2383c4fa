"""The limits and choices of a server, each with its default."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

from signsclf.errors import SignsclfError
from signsclf.machine import usable_cores
from signsclf.serve.hosts import is_host_name, is_loopback, is_origin

MAX_BATCH = 32
_ROUTE = re.compile(r"/[A-Za-z0-9._~:@/-]{0,200}")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What a server allows and how it works; checked at construction.

    Attributes:
        host: the address to listen on.
        port: 0 to 65535; 0 takes a free one.
        max_bytes: of a request's body.
        max_pixels: of an image.
        max_images: in one request.
        budget_bytes: of all bodies in memory; at least ``max_bytes``.
        budget_pixels: of all images in work; at least ``max_pixels``. Each decoding thread takes 7 bytes a pixel.
        max_wait: seconds of work before a request, above which it is refused.
        deadline: seconds until a request's work must have begun, where it asks for no less.
        drain: seconds of work taken after SIGTERM, until load balancers have noticed.
        watch: seconds between looks at the model folders.
        runners: runs of networks at a time; None: calibrated.
        threads: of each run; None: calibrated.
        max_batch: images in a run, 1 to `MAX_BATCH`; None: calibrated.
        token: that requests must carry; None wants none.
        is_open: allow a host beyond loopback without a token.
        allow_hosts: names that the server answers to besides its own; "*" is any.
        allow_origins: of pages on other sites that may use the server, as in "https://example.org".
        page: whether there is a page for people at /.
        health_route: a further path that tells whether the server is ready, as in "/health"; None is none.
        predict_route: a further path that does what /invocations does; None is none.
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
    budget_bytes: int = 256_000_000
    budget_pixels: int = 400_000_000
    max_wait: float = 0.5
    deadline: float = 10.0
    drain: float = 5.0
    watch: float = 2.0
    runners: int | None = None
    threads: int | None = None
    max_batch: int | None = None
    token: str | None = field(default=None, repr=False)
    is_open: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    page: bool = True
    health_route: str | None = None
    predict_route: str | None = None
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
        for each in fields(self):
            value = getattr(self, each.name)
            if type(value) is int and each.name != "port" and value < 1:
                raise SignsclfError(f"{each.name} is {value}, where it should be 1 or more")
            if type(value) is float and not (value > 0 or (each.name == "drain" and value == 0)):
                raise SignsclfError(f"{each.name} is {value} seconds, where it should be more than 0")
        for most, budget in (("max_bytes", "budget_bytes"), ("max_pixels", "budget_pixels")):
            if getattr(self, most) > getattr(self, budget):
                raise SignsclfError(
                    f"{most} is {getattr(self, most):,}, where it should be at most {budget}, "
                    f"{getattr(self, budget):,}; raise both"
                )
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
        for name in ("health_route", "predict_route"):
            route = getattr(self, name)
            if route is not None and not _ROUTE.fullmatch(route):
                raise SignsclfError(f"{name} is {route!r}, where it should be a path as in /models/signs")
        if not (is_loopback(self.host) or self.token or self.is_open):
            raise SignsclfError(
                f"others can reach the host {self.host}; give a token (--token-file or $SIGNSCLF_TOKEN), "
                "or --open if anyone may use the server"
            )

    @property
    def decoders(self) -> int:
        """Threads that may decode images while others run networks."""
        return usable_cores()

    @property
    def layouts(self) -> list[tuple[int, int]]:
        """(runners, threads of each) that may be used: one where it is fixed, else those to calibrate."""
        cores = usable_cores()
        if self.runners is not None:
            return [(self.runners, self.threads or max(1, cores // self.runners))]
        if self.threads is not None:
            return [(max(1, cores // self.threads), self.threads)]
        return [(cores // threads, threads) for threads in sorted({1, max(1, cores // 2), cores})]

    @property
    def calibrates(self) -> bool:
        """Whether something is left to measure."""
        return self.max_batch is None or len(self.layouts) > 1

    @property
    def capacity(self) -> int:
        """Threads that runs may take together."""
        return max(runners * threads for runners, threads in self.layouts)
