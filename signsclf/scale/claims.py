"""Who works on which shard: files that say so, for as long as their owner lives.

They only save work: two workers on one shard write the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from signsclf.files import make_folder

FOLDER = "claims"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""Without a beat, by the clock of the file system: then the owner is gone."""


class Claims:
    """The claims of this process, as a context in which they are kept alive."""

    def __init__(self, folder: Path) -> None:
        self._folder = make_folder(folder / FOLDER)
        self._held: set[Path] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="signsclf-claims", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        for path in list(self._held):
            self._delete(path)

    def take(self, shard: int) -> bool:
        """Claim a shard; tells whether it was free, or its owner is gone."""
        path = self._path(shard)
        for _ in range(2):
            try:
                with path.open("x") as file:
                    json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
            except FileExistsError:
                if not self._is_stale(path):
                    return False
                self._delete(path)
            else:
                self._held.add(path)
                return True
        return False

    def give_back(self, shard: int) -> None:
        """End a claim."""
        self._delete(self._path(shard))

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:06}.json"

    def _delete(self, path: Path) -> None:
        self._held.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()

    def _is_stale(self, path: Path) -> bool:
        try:
            beat = path.stat().st_mtime
            owner = json.loads(path.read_text() or "{}")
        except (OSError, ValueError):
            return False
        if owner.get("host") == socket.gethostname() and not _lives(owner.get("process")):
            return True
        return _file_system_now(self._folder) - beat > STALE_SECONDS

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            for path in list(self._held):
                with contextlib.suppress(OSError):
                    os.utime(path)


def claims_in(folder: Path) -> int:
    """Count the claims that are alive."""
    folder = folder / FOLDER
    if not folder.is_dir():
        return 0
    now = _file_system_now(folder)
    ages = []
    for path in folder.glob("[0-9]*.json"):
        with contextlib.suppress(OSError):
            ages.append(now - path.stat().st_mtime)
    return sum(age <= STALE_SECONDS for age in ages)


def _file_system_now(folder: Path) -> float:
    """Read the clock that dates the files there, which on a share is another machine's."""
    probe = folder / f".now-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


def _lives(process: object) -> bool:
    if not isinstance(process, int) or os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
