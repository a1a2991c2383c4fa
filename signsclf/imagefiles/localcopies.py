"""Copies, in the user's cache folder, of archives that cannot be read where they are: compressed ones.

Each copy is an entry of the cache of decoded images, which is measured, bounded and cleared with it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from signsclf.errors import BadImageError
from signsclf.imagefiles.cachefolder import COPY, make_space, users_folder

_MAX_RATIO = 20
_SLACK = 1 << 30
"""A decompressed archive may have so many times its bytes, and so many more. Images hardly compress: what exceeds this
is made to fill the disk."""
_BLOCK = 1 << 20


def decompressed(path: str) -> Path:
    """Return a decompressed copy of a gzip file, made unless it exists; a changed file gets another one.

    A compressed archive can only be read from its start, and training reads images in any order.

    Raises:
        BadImageError: it has too many bytes for its size, or there is no place for the copy.
        OSError, EOFError, zlib.error: it is damaged, or cannot be read or written.
    """
    found = os.stat(path)  # noqa: PTH116
    limit = _MAX_RATIO * found.st_size + _SLACK

    def write(copy: IO[bytes]) -> None:
        n = 0
        with gzip.open(path) as file:
            while block := file.read(_BLOCK):
                n += len(block)
                if n > limit:
                    raise BadImageError(f"{path}: over {limit:,} bytes when decompressed; if it is right, gunzip it")
                copy.write(block)

    key = f"{os.path.abspath(path)} {found.st_size} {found.st_mtime_ns}"  # noqa: PTH100
    return local_copy(key, path, found.st_size, write)


def local_copy(key: str, name: str, size: int, write: Callable[[IO[bytes]], None]) -> Path:
    """Return the copy of this key, written atomically unless it exists.

    Args:
        key: all that decides the content.
        name: what is copied, for messages.
        size: bytes that it will have at least.
        write: writes the content.

    Raises:
        BadImageError: the user has no cache folder, or it cannot be written.
    """
    folder = users_folder()
    if folder is None:
        raise BadImageError(f"{name}: needs a copy in the cache, and this user has no cache folder; set XDG_CACHE_HOME")
    entry = folder / hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    with contextlib.suppress(OSError):
        os.utime(entry / COPY)  # used now, so evicted last
        return entry / COPY
    tmp = entry.with_name(f"{entry.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            make_space(folder, size)
            tmp.mkdir()
            file = (tmp / COPY).open("xb")
        except OSError as error:
            raise BadImageError(f"{name}: {folder} cannot be written ({error.strerror or error})") from error
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # another process was first
            tmp.rename(entry)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return entry / COPY
