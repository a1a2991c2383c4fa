"""Read from object stores, such as S3 and Google Cloud Storage, through pyarrow's file systems.

An address is a scheme of `signsclf.files.is_remote`, a bucket and a key as it is stored: nothing in it is
percent-encoded, and it holds no options. Credentials, region and endpoint come from the environment and configuration
that the store's own tools use (for S3 ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ``AWS_ENDPOINT_URL`` …), never from an
address.

What a busy store refuses is asked for again, after random delays that grow exponentially.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from signsclf.errors import require_extra
from signsclf.files import refuse_credentials

if TYPE_CHECKING:
    from pyarrow import fs

_ATTEMPTS = 7
_FIRST_DELAY, _MAX_DELAY = 0.25, 16.0
"""Seconds; each delay is up to twice as long as the one before could be."""
_CLIENT_ATTEMPTS = 3
"""Of each request by the client of S3 itself, which knows more reasons, but takes an answer that is longer than the
object it asked for as a failure of its own."""
_BUSY = re.compile(
    r"SLOW_?DOWN|SLOW DOWN|THROTTL|TOO MANY REQUESTS|REDUCE YOUR REQUEST|SERVICE_UNAVAILABLE|INTERNAL_FAILURE"
    r"|REQUEST_TIMEOUT|HTTP STATUS (?:429|50[0234])",
    re.IGNORECASE,
)
_RANDOM = random.SystemRandom()
_GCS_SECONDS = 60
_BUFFER = 1 << 16
_ADDRESS = re.compile(r"([a-z0-9]+)://([^/]*)/?(.*)", re.DOTALL | re.IGNORECASE)
_REQUEST = re.compile(r" \(Request ID.*|[.;] Detail: .*", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """What there is at an address: an object, or a folder, of which there are objects below.

    Attributes:
        address: of it, without a final slash.
        is_folder: whether it is a folder.
        size: bytes of an object.
        mtime_ns: when an object was written, in nanoseconds since the epoch; None where the store does not tell.
    """

    address: str
    is_folder: bool
    size: int
    mtime_ns: int | None

    @property
    def state(self) -> str:
        """A text that changes with an object's content."""
        return f"{self.size} {self.mtime_ns}"


def look(address: str) -> Entry | None:
    """Find out what there is at an address; None for nothing.

    Raises:
        OSError: the store does not tell.
    """
    system, path = _resolved(address)
    found = _asked(system.get_file_info, path)
    return None if found.type.name == "NotFound" else _entry(address.rstrip("/"), found)


@functools.lru_cache(1_024)
def is_object(address: str) -> bool:
    """Tell whether there is an object at an address; asked once in a process."""
    try:
        found = look(address)
    except OSError:  # reading reports it
        return False
    return found is not None and not found.is_folder


def entries(folder: str, recursive: bool) -> Iterator[Entry]:
    """List what there is in a folder, or at any depth below it, in the store's order.

    Raises:
        OSError: it cannot be listed.
    """
    from pyarrow import fs

    top = folder.rstrip("/")
    system, path = _resolved(top)
    for found in _asked(system.get_file_info, fs.FileSelector(path, recursive=recursive)):
        yield _entry(f"{top}/{found.path[len(path) :].lstrip('/')}", found)


def look_all(addresses: Iterable[str]) -> dict[str, Entry]:
    """Find out what there is at many addresses, by listing each folder that they are in once.

    What is not among the results does not exist.

    Raises:
        OSError: a folder cannot be listed.
    """
    folders = dict.fromkeys(address.rpartition("/")[0] for address in addresses)
    return {entry.address: entry for folder in folders for entry in entries(folder, recursive=False)}


def open_object(address: str) -> tuple[IO[bytes], int]:
    """Open an object for reading, seekable; return it and its size in bytes.

    Raises:
        OSError: there is none, or it may not be read.
    """
    file = native_file(address)
    return io.BufferedReader(_Object(file), _BUFFER), file.size()


def native_file(address: str) -> Any:
    """Open an object as pyarrow's NativeFile, of which only what is asked for is transferred.

    Raises:
        OSError: there is none, or it may not be read.
    """
    system, path = _resolved(address)
    return _asked(system.open_input_file, path)


def _entry(address: str, found: fs.FileInfo) -> Entry:
    is_folder = found.type.name == "Directory"
    return Entry(address, is_folder, found.size or 0, found.mtime_ns)


def _asked(function: Any, *args: Any) -> Any:
    """Call a function of a file system, again if the store is busy; its errors become OSErrors of one short line."""
    import pyarrow as pa

    for attempt in range(_ATTEMPTS):
        try:
            return function(*args)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        except (OSError, pa.ArrowException) as error:
            lines = str(getattr(error, "strerror", None) or error).splitlines()
            said = _REQUEST.sub("", lines[0] if lines else type(error).__name__)
            if attempt == _ATTEMPTS - 1 or not _BUSY.search(said):
                raise OSError(errno.EIO, said) from error
        # Not the generator whose seed a training may have set.
        time.sleep(_RANDOM.uniform(0, min(_MAX_DELAY, _FIRST_DELAY * 2**attempt)))
    raise AssertionError("the last attempt returns or raises")


class _Object(io.RawIOBase):
    """An open object, of which each part is asked for again if the store is busy."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        data = _asked(self._file.read_at, len(buffer), self._file.tell())
        self._file.seek(len(data), io.SEEK_CUR)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _resolved(address: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an address, and the path in it."""
    refuse_credentials(address)
    found = _ADDRESS.fullmatch(address)
    if found is None or not found[2]:
        raise OSError(errno.EINVAL, "no bucket in the address")
    # With the process id: a file system does not survive a fork.
    system, base = _file_system(found[1].lower(), found[2], os.getpid())
    return system, f"{base.rstrip('/')}/{found[3]}".rstrip("/")


@functools.lru_cache(64)
def _file_system(scheme: str, authority: str, pid: int) -> tuple[fs.FileSystem, str]:
    require_extra("parquet", f"{scheme}://{authority}")
    from pyarrow import fs

    if scheme != "s3":
        options = f"?retry_limit_seconds={_GCS_SECONDS}" if scheme in ("gs", "gcs") else ""
        return _asked(fs.FileSystem.from_uri, f"{scheme}://{authority}/{options}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=_CLIENT_ATTEMPTS)
    if endpoint:
        how, _, host = endpoint.rpartition("://")
        where = {"endpoint_override": host.rstrip("/"), "scheme": how or "https", "region": region or "us-east-1"}
    else:
        where = {"region": region or _asked(fs.resolve_s3_region, authority)}
    return _asked(functools.partial(fs.S3FileSystem, retry_strategy=retries, **where)), authority
