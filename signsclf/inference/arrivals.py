"""Items in batches as they arrive: full ones where they come fast, what is there where they are long in coming."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds that items wait for others to fill their batch. Short of that, batches depend on the items alone."""
_LOOK = 0.5  # Windows hears Ctrl-C between waits only


def arriving(source: Iterable[T], most: int) -> Arrivals[T] | AtHand[T]:
    """The items of a sequence as they are, those of any other iterable as they arrive."""
    return AtHand(source) if isinstance(source, Sequence) else Arrivals(source, most)


class AtHand(Generic[T]):
    """The batches of a sequence, for which nothing need be awaited; see `Arrivals`."""

    def __init__(self, source: Sequence[T]) -> None:
        self._items = iter(source)

    def take(self, n: int, wait: bool) -> list[T]:
        return list(islice(self._items, n))

    def done(self, n: int) -> None:
        pass

    def close(self) -> None:
        pass


class Arrivals(Generic[T]):
    """Reads an iterable in a thread of its own, so that what it gave can be used while it is asked for more.

    Args:
        source: what it raises is raised by `take`, after all items before.
        most: items that are asked for and not `done` with, at most.
    """

    def __init__(self, source: Iterable[T], most: int) -> None:
        self._most, self._open = most, 0
        self._items: deque[T] = deque()
        self._wanted = 1
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        # It may wait for a camera for ever, and must not keep the process from ending.
        threading.Thread(target=self._read, args=(source,), name="signsclf-arrivals", daemon=True).start()

    def take(self, n: int, wait: bool) -> list[T]:
        """The next items.

        Args:
            n: how many, 1 to ``most``.
            wait: for the first item, and then `PATIENCE` for the others; else none are given unless there are n, or all
                that are left.

        Returns:
            The items; with ``wait`` none at the end only.
        """
        with self._changed:
            if wait:
                while not self._await(1, _LOOK):
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
        """So many of the items taken are done with: as many more may be asked for."""
        with self._changed:
            self._open -= n
            self._changed.notify_all()

    def close(self) -> None:
        """Ask for no more items."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _await(self, n: int, seconds: float) -> bool:
        """Wait for n items or the end, so many seconds at most; whether it came to that."""
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
                    while self._open >= self._most and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
