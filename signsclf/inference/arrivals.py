"""Batches of items as they arrive: full ones from a fast source, partial ones from a slow source."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds that items wait for others to fill their batch. From a faster source, batches depend on the items alone."""
_POLL_SECONDS = 0.5  # Windows handles Ctrl-C only between waits


def arriving(source: Iterable[T], max_open: int) -> Arrivals[T] | AtHand[T]:
    """Wrap an iterable so that its items can be taken in batches; only a sequence is read in the caller's thread."""
    return AtHand(source) if isinstance(source, Sequence) else Arrivals(source, max_open)


class AtHand(Generic[T]):
    """Batches of a sequence, whose items are there already; see `Arrivals` for the methods."""

    def __init__(self, source: Sequence[T]) -> None:
        self._items = iter(source)

    def take(self, n: int, wait: bool) -> list[T]:
        """Return the next n items, fewer at the end."""
        return list(islice(self._items, n))

    def done(self, n: int) -> None:
        """Do nothing: no item is read ahead."""

    def close(self) -> None:
        """Do nothing: there is no thread to stop."""


class Arrivals(Generic[T]):
    """Reads an iterable in a thread of its own, so that items can be used while the next one is awaited.

    Args:
        source: an exception that it raises is raised by `take`, after all items before it.
        max_open: the largest number of items that are read and not yet reported by `done`.
    """

    def __init__(self, source: Iterable[T], max_open: int) -> None:
        self._max_open, self._open = max_open, 0
        self._items: deque[T] = deque()
        self._wanted = 1
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        # A daemon: the source may wait for a camera for ever, and must not keep the process from exiting.
        threading.Thread(target=self._read, args=(source,), name="signsclf-arrivals", daemon=True).start()

    def take(self, n: int, wait: bool) -> list[T]:
        """Return the next items.

        Args:
            n: how many, 1 to ``max_open``.
            wait: wait for the first item, and then up to `PATIENCE` for the others. Without it the result is empty
                unless n items, or all that are left, have arrived.

        Returns:
            At most n items; with ``wait`` an empty list means the end.
        """
        with self._changed:
            if wait:
                while not self._await(1, _POLL_SECONDS):
                    pass
            if wait or self._ended:
                self._await(n, PATIENCE)
            elif len(self._items) < n:
                return []
            taken = [self._items.popleft() for _ in range(min(n, len(self._items)))]
            if wait and not taken and self._error is not None:
                raise self._error
            return taken

    def done(self, n: int) -> None:
        """Report that n of the items taken have been processed, so that as many more may be read."""
        with self._changed:
            self._open -= n
            self._changed.notify_all()

    def close(self) -> None:
        """Stop reading the source."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _await(self, n: int, seconds: float) -> bool:
        """Wait for n items or the end, but no longer than so many seconds; return whether that came."""
        self._wanted, until = n, time.monotonic() + seconds
        while len(self._items) < n and not self._ended:
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(left)
        return True

    def _read(self, source: Iterable[T]) -> None:
        try:
            for item in source:
                with self._changed:
                    self._items.append(item)
                    self._open += 1
                    if len(self._items) >= self._wanted:
                        self._changed.notify_all()
                    while self._open >= self._max_open and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
