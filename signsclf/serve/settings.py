"""The limits and choices of a server, each with its default."""

from __future__ import annotations

from dataclasses import dataclass

from signsclf.errors import SignsclfError
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

    Raises:
        SignsclfError: a value is out of its range.
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

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SignsclfError(f"port is {self.port}, where it should be 0 to 65535")
        if self.max_batch is not None and self.max_batch > MAX_BATCH:
            raise SignsclfError(f"max_batch is {self.max_batch}, where it should be 1 to {MAX_BATCH}")
        for name in ("max_bytes", "max_pixels", "max_images", "runners", "threads", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SignsclfError(f"{name} is {value}, where it should be 1 or more")
        if not self.deadline > 0:
            raise SignsclfError(f"deadline is {self.deadline}, where it should be more than 0 seconds")

    @property
    def decoders(self) -> int:
        """Threads that may decode images while others run networks."""
        return usable_cores()
