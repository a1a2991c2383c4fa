"""Copies, in the user's cache folder, of archives that are not read where they are: compressed ones, those in stores.

Each copy is an entry of the cache of decoded images, which is measured, bounded and cleared with it.
"""

from __future__ import annotations

import contextlib
import errno
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
from signsclf.imagefiles.remote import look, open_object

_MAX_RATIO = 20
_SLACK = 1 << 30
"""A decompressed archive may have so many times its bytes, and so many more. Images hardly compress: what exceeds this
is made to fill the disk."""
_BLOCK = 1 << 20


def fetched(address: str) -> Path:
    """Return a copy of an object in a store, made unless it exists; a changed object gets another one.

    Each image of an archive would take several requests to the store, one after another.

    Raises:
        BadImageError: there is no place for the copy.
        OSError: there is no such object, or it cannot be read or written.
    """
    found = look(address)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def write(copy: IO[bytes]) -> None:
        with open_object(address)[0] as file:
            shutil.copyfileobj(file, copy, _BLOCK)

    return local_copy(f"{address} {found.state}", address, found.size, write)


def decompressed(path: Path, name: str) -> Path:
    """Return a decompressed copy of a gzip file, made unless it exists; a changed file gets another one.

    A compressed archive can only be read from its start, and training reads images in any order.

    Args:
        path: of the file.
        name: what to call it in an error.

    Raises:
        BadImageError: it has too many bytes for its size, or there is no place for the copy.
        OSError, EOFError, zlib.error: it is damaged, or cannot be read or written.
    """
    found = path.stat()
    limit = _MAX_RATIO * found.st_size + _SLACK

    def write(copy: IO[bytes]) -> None:
        n = 0
        with gzip.open(path) as file:
            while block := file.read(_BLOCK):
                n += len(block)
                if n > limit:
                    raise BadImageError(f"{name}: over {limit:,} bytes when decompressed; if it is right, gunzip it")
                copy.write(block)

    return local_copy(f"{path.absolute()} {found.st_size} {found.st_mtime_ns}", name, found.st_size, write)


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
