"""A lock between processes on what both would write, which goes with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from signsclf.errors import SignsclfError

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class LockedError(SignsclfError):
    """Another process, or another thread of this one, holds the lock."""


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Holds the lock on a file or folder, which need not exist: ``.NAME.lock`` beside it, gone afterwards.

    A lock file that a killed process left behind locks nothing. Folders made for it go again where they stay empty.
    On a file system that knows no locks there is none: the work goes on without.

    Raises:
        LockedError: it is held already.
        OSError: the lock file cannot be made.
    """
    path = target.with_name(f".{target.name}.lock")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = None
    try:
        file = _take(path, target)
        yield
    finally:
        if file is not None:
            _release(path, file)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def _take(path: Path, target: Path) -> IO[bytes]:
    while True:
        # Without a buffer nothing is left to be written on closing, which a full disk would refuse again.
        file = path.open("a+b", buffering=0)
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in _TAKEN:
                return file
            holder = _holder(file)
            file.close()
            raise LockedError(
                f"{target} is being written by another signsclf{holder}; wait for its end, or choose another name"
            ) from error
        # Its last holder may have deleted it between the two calls: a lock on a file without a name keeps nobody out.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                with contextlib.suppress(OSError):  # a full disk: the lock holds, if without a name
                    file.truncate(0)
                    file.write(str(os.getpid()).encode())
                return file
        file.close()


def _release(path: Path, file: IO[bytes]) -> None:
    # Deleted while it is locked, so that nobody else's goes; Windows deletes no open file.
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

        # A byte far behind the process's number, which others read.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
