"""A lock between processes on a file or folder; it is released when its process ends, even if that is killed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from signsclf.errors import SignsclfError

_HELD_ERRORS = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class LockedError(SignsclfError):
    """Another process, or another thread of this one, holds the lock."""


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock on a file or folder, which need not exist, by a file ``.NAME.lock`` in the same folder.

    The lock file is deleted afterwards; one left behind by a killed process locks nothing. Parent folders that were
    created for it are deleted again if they are empty. On a file system without locks nothing is locked.

    Raises:
        LockedError: the lock is held already.
        OSError: the lock file cannot be created.
    """
    path = target.with_name(f".{target.name}.lock")
    created = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = None
    try:
        file = _take(path, target)
        yield
    finally:
        if file is not None:
            _release(path, file)
        with contextlib.suppress(OSError):
            for folder in created:
                folder.rmdir()


def _take(path: Path, target: Path) -> IO[bytes]:
    while True:
        # Unbuffered, so that closing the file writes nothing, which would fail again on a full disk.
        file = path.open("a+b", buffering=0)
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in _HELD_ERRORS:
                return file
            holder = _holder(file)
            file.close()
            raise LockedError(
                f"{target} is being written by another signsclf{holder}; wait until it ends, or choose another name"
            ) from error
        # The last holder may have deleted the file between the two calls; then the lock would keep nobody out.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                with contextlib.suppress(OSError):  # a full disk: the lock holds even without the process id in it
                    file.truncate(0)
                    file.write(str(os.getpid()).encode())
                return file
        file.close()


def _release(path: Path, file: IO[bytes]) -> None:
    # Deleted while it is locked, so that no other process's file is deleted; Windows cannot delete an open file.
    if os.name != "nt":
        path.unlink(missing_ok=True)
    file.close()
    if os.name == "nt":
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _holder(file: IO[bytes]) -> str:
    with contextlib.suppress(OSError, ValueError):
        file.seek(0)
        return f" (process {int(file.read(20))})"
    return ""


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        # A byte far behind the process id, which other processes must be able to read.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
