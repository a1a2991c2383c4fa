"""Starts the processes that train together, watches them, and ends them together. No torch.

Each runs the same command line, with the variables that torchrun sets, so that torchrun can start them as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STARTED_HERE = "SIGNSCLF_STARTED_HERE"
LOST_CONTACT = 75
"""Exit code of a process that another one has left alone: no cause, but a consequence."""
_LOOK_SECONDS = 0.05
_GRACE_SECONDS = 5.0
# The working directory comes first on the path of `python -c` and `-m`, and may hold anything.
_CODE = "import sys; del sys.path[0]; import json; sys.path[:] = json.loads(sys.argv.pop(1)); from signsclf.__main__ "
_CODE += "import main; main()"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How processes that train together have ended.

    Attributes:
        code: the exit code, 0 where all is done.
        trouble: why they ended early, for people; "" where there was no trouble or the first process has told it.
    """

    code: int
    trouble: str = ""


def processes_here() -> int | None:
    """Return how many processes train together where this one is one of them; None where it is alone."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _VARIABLES) else None


def is_started_here() -> bool:
    """Tell whether `Processes`, and not torchrun, started this process: then `Processes` tells what went wrong."""
    return _STARTED_HERE in os.environ


def end_with_parent() -> None:
    """Ask this process to stop once the one that started it is gone: its standard input ends then."""

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 1):
                pass
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=wait, name="signsclf-parent", daemon=True).start()


class Processes:
    """The processes of a training, as a context in which they run; all of them are gone behind it.

    The first one has this one's standard output and error; what the others write is kept, and told where they fail.

    Args:
        n: how many.
        arguments: of the command line.
    """

    def __init__(self, n: int, arguments: Sequence[str]) -> None:
        self.n, self.arguments = n, list(arguments)
        self._running: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Processes:
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            self._logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(self.n)]
            port = _free_port()
            command = [sys.executable, "-c", _CODE, json.dumps(sys.path), *self.arguments]
            for rank in range(self.n):
                log = None if rank == 0 else self._logs[rank]
                started = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **_environment(rank, self.n, port)},
                    # Ctrl-C is for this process, which passes it on to the first.
                    start_new_session=os.name != "nt",
                )
                self._running.append(started)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def signal(self, number: int) -> None:
        """Pass a signal on to the first process, which tells the others; on Windows the console does."""
        if os.name != "nt" and self._running:
            self._running[0].send_signal(number)

    def wait(self) -> Ended:
        """Wait until all have ended, or until one has failed and the others were ended."""
        codes = self._codes()
        while codes[0] is None and not any(codes):
            time.sleep(_LOOK_SECONDS)
            codes = self._codes()
        first = [rank for rank, code in enumerate(codes) if code]
        self._wait_for_all(_GRACE_SECONDS)
        codes = self._codes()
        if codes[0] == 0:
            return Ended(code=0)
        causes = [rank for rank, code in enumerate(codes) if code and code != LOST_CONTACT]
        self._end()
        if not causes and None in codes:
            return Ended(code=1, trouble=f"process {codes.index(None) + 1} of {self.n} does not answer")
        rank = min(causes, key=lambda rank: (rank not in first, rank), default=first[0])
        return self._explained(rank, codes[rank] or 1)

    def _codes(self) -> list[int | None]:
        return [process.poll() for process in self._running]

    def _wait_for_all(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while None in self._codes() and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)

    def _explained(self, rank: int, code: int) -> Ended:
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
            return Ended(code=1, trouble=f"process {rank + 1} of {self.n} was killed by signal {-code} ({name})")
        if code == LOST_CONTACT:
            return Ended(code=1, trouble=f"the {self.n} processes have lost contact with each other")
        if rank == 0:
            return Ended(code=code)
        log = self._logs[rank]
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").strip().splitlines() or [f"exit code {code}"]
        return Ended(code=code, trouble=f"process {rank + 1} of {self.n}: {lines[-1].removeprefix('signsclf: ')}")

    def _end(self) -> None:
        """End what still runs: asked first, so that temporary files go, then at once."""
        for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in self._running:
                if process.poll() is None:
                    end(process)
            self._wait_for_all(_GRACE_SECONDS)
        for process in self._running:
            process.stdin.close()


def _environment(rank: int, n: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_PORT": port}
    found = {name: str(number) for name, number in numbers.items()}
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:
        # Else Gloo listens on the address of this machine's name, to which other machines can connect.
        found["GLOO_SOCKET_IFNAME"] = loopback[0]
    return {**found, "MASTER_ADDR": "127.0.0.1", _STARTED_HERE: "1"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
