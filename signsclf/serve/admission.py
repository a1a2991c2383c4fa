"""Which work is taken: by the memory that it needs, and by how long it would wait."""

from __future__ import annotations

import math

from signsclf.serve.answers import Refused
from signsclf.serve.engine import Engine, now
from signsclf.serve.settings import ServeSettings


class Admission:
    """Budgets of bytes and pixels over all requests, and a bound of the wait; for the event loop's thread alone.

    Attributes:
        bytes: of all bodies in memory.
        pixels: of all images in work, by their headers.
    """

    def __init__(self, settings: ServeSettings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self.bytes = self.pixels = 0

    def check_wait(self, deadline: float) -> None:
        """Check that work could begin in time.

        Raises:
            Refused: 429, it would wait for longer than ``max_wait``, or until after its deadline.
        """
        wait = self._engine.wait
        if wait and (wait > self._settings.max_wait or now() + wait > deadline):
            raise self._busy(f"{self._engine.backlog:,} images wait")

    def take_pixels(self, n: int) -> None:
        """Take n pixels of the budget, to be given back by ``pixels -= n``.

        Raises:
            Refused: 413, there never are so many; 429, other images take too many now.
        """
        budget = self._settings.budget_pixels
        if n > budget:
            raise Refused(413, f"images of {n:,} pixels in one request, at most {budget:,}; send fewer at once")
        if self.pixels + n > budget:
            raise self._busy("images of other requests fill the memory")
        self.pixels += n

    def take_bytes(self, n: int) -> None:
        """Take n bytes of the budget, to be given back by ``bytes -= n``.

        Raises:
            Refused: 429, other bodies take too many now.
        """
        if self.bytes + n > self._settings.budget_bytes:
            raise self._busy("bodies of other requests fill the memory")
        self.bytes += n

    def _busy(self, why: str) -> Refused:
        seconds = max(1, math.ceil(self._engine.wait))
        return Refused(429, f"busy: {why}; try again in {seconds} s", {"Retry-After": str(seconds)})


class Ticket:
    """The bytes of one request's body, given back when the request ends."""

    __slots__ = ("_admission", "_bytes")

    KEY = "signsclf.ticket"
    """Of a scope's ticket."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0

    def check_wait(self) -> None:
        """Check that work could begin in time, before its body is read; raises as `Admission.check_wait`."""
        self._admission.check_wait(math.inf)

    def take(self, n: int) -> None:
        """Take n more bytes; raises as `Admission.take_bytes`."""
        self._admission.take_bytes(n)
        self._bytes += n

    def release(self) -> None:
        """Give back all that was taken."""
        self._admission.bytes -= self._bytes
        self._bytes = 0
