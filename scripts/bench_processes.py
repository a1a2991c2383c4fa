"""Processes that benchmarks share: workers that measure when they are asked to, and busy neighbours."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

BUSY_SECONDS = 600
"""Longest life of a busy neighbour, so that none outlives a script that was killed."""


class Worker:
    """A process of its own that gives a number whenever it is asked for one; see `answer`."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self) -> float:
        """The next number."""
        self._process.stdin.write("next\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if line.startswith("number "):
                return float(line.split()[1])
        raise SystemExit(f"{self._process.args}: ended early")

    def end(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def answer(measure: Callable[[], float]) -> None:
    """The worker's side: prints a number for every line of standard input."""
    for _ in sys.stdin:
        print(f"number {measure()}", flush=True)


@contextlib.contextmanager
def neighbours(n: int) -> Iterator[None]:
    """So many processes that compute without end."""
    code = f"import time\nend = time.monotonic() + {BUSY_SECONDS}\nwhile time.monotonic() < end: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
