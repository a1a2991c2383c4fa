"""Fetch the official GTSRB archives and unpack them: resumable, checked, and whole or not there.

What a server sends is not trusted: no more than the expected length is read, and checksums are compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, InvalidURL, responses
from pathlib import Path
from ssl import SSLCertVerificationError
from time import sleep
from urllib.error import HTTPError

from signsclf.data import gtsrb
from signsclf.data.unpack import unpack
from signsclf.errors import DownloadError
from signsclf.files import sync_folder, write_atomic
from signsclf.locks import locked

TIMEOUT_S = 30.0
"""Seconds without a sign of life from the server before a transfer counts as broken off."""

_CHUNK = 256 * 1024
_LONGEST_WAIT_S = 30.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
# Unpacked, GTSRB's images are 1.35 times the zip; file systems round 52,000 small files up to whole blocks.
_UNPACKED_PER_BYTE = 2
# Where each archive is unpacked to, and what it must then have brought, both below the user's folder.
_PLACES = {
    "GTSRB_Final_Training_Images.zip": ("", "GTSRB/Final_Training"),
    "GTSRB_Final_Test_Images.zip": ("", "GTSRB/Final_Test"),
    "GTSRB_Final_Test_GT.zip": ("GTSRB", "GTSRB/GT-final_test.csv"),
}

Progress = Callable[[int, int], None]


class _TryAgainError(Exception):
    """This attempt failed, another may not; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None,
    md5: str,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 3,
) -> Path:
    """Download one file; a broken transfer goes on where it stopped, in this process or a later one.

    The bytes gather in ``TARGET.part`` and become ``target`` only when length and checksums are right.
    A right ``target`` that is there already is not fetched again; a wrong one is never overwritten.

    Args:
        url: http or https.
        size: length in bytes, never exceeded; None takes the server's word for it.
        md5: expected checksum in hex; ``sha256`` likewise, where known.
        progress: called with (bytes there, bytes in all).
        attempts: how often to try, at least 1, where the transfer breaks or the server is busy; the waits
            between are 1, 2, 4 … seconds, or what the server asks for, at most 30.

    Raises:
        DownloadError: not to be had, not what was expected, or no room for it.
        LockedError: another process fetches it now.
    """
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise DownloadError(f"{url}: not an http or https address; give one that starts with https://")
    part = target.with_name(target.name + ".part")
    try:
        if target.exists():
            if not _is_right(target, size, md5, sha256):
                raise DownloadError(
                    f"{target}: there already, but not the file expected (its checksum differs); "
                    "move or delete it, then run this again"
                )
            if progress:
                progress(target.stat().st_size, target.stat().st_size)
            return target
        # Two that append to one file spoil it for each other.
        with locked(target):
            _transfer_persistently(url, part, size, progress, attempts)
            if not _is_right(part, size, md5, sha256):
                part.unlink()
                raise DownloadError(
                    f"{url}: what came is not the file expected (its checksum differs), and was deleted; "
                    "run this again to fetch it anew"
                )
            part.replace(target)
            sync_folder(target.parent)
    except OSError as error:
        raise DownloadError(_local_trouble(target, error)) from error
    return target


def download_gtsrb(
    folder: Path,
    base_url: str = gtsrb.BASE_URL,
    progress: Progress | None = None,
    unpack_archives: bool = True,
) -> list[Path]:
    """The official GTSRB, training and test with ground truth (365 MB), in a folder that is a source then.

    Each zip is deleted once it is unpacked, so that no reader meets an image twice; a small NAME.zip.unpacked
    keeps its checksum. What is there already is not fetched again.

    Args:
        folder: made if need be; gets ``GTSRB/Final_Training/Images/CCCCC/*.ppm`` with a csv in each,
            ``GTSRB/Final_Test/Images/*.ppm`` and ``GTSRB/GT-final_test.csv``.
        progress: called with (bytes, bytes of all three archives).
        unpack_archives: False leaves the three zips in ``folder`` as they come.

    Returns:
        What each archive brought, in the order of `gtsrb.ARCHIVES`: a folder, a file, or the zip itself.

    Raises:
        DownloadError: see `fetch` and `unpack`; also where the disk has too little room for all of it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of two at once, one would delete the archive that the other unpacks.
        with locked(folder / "GTSRB"):
            _refuse_full_disk(folder, _space_needed(folder, unpack_archives))
            brought = []
            before, total = 0, sum(archive.bytes for archive in gtsrb.ARCHIVES)
            for archive in gtsrb.ARCHIVES:
                into, place = (folder / path for path in _PLACES[archive.name])
                if not _is_unpacked(folder, archive):
                    target = fetch(
                        f"{base_url.rstrip('/')}/{archive.name}",
                        folder / archive.name,
                        size=archive.bytes,
                        md5=archive.md5,
                        sha256=archive.sha256,
                        progress=_offset(progress, before, total),
                    )
                    if unpack_archives:
                        unpack(target, into)
                        _settle(folder, archive)
                    else:
                        place = target
                before += archive.bytes
                if progress:
                    progress(before, total)
                brought.append(place)
    except OSError as error:
        raise DownloadError(_local_trouble(folder, error)) from error
    return brought


def _transfer_persistently(url: str, part: Path, size: int | None, progress: Progress | None, attempts: int) -> None:
    for attempt in range(1, attempts + 1):
        try:
            _transfer(url, part, size, progress)
            return
        except _TryAgainError as trouble:
            if attempt >= attempts:
                advice = "what came is kept, run this again to go on" if part.exists() else "try again later"
                raise DownloadError(f"{url}: {trouble}, at attempt {attempt}; {advice}") from trouble
            sleep(min(max(2.0 ** (attempt - 1), trouble.wait), _LONGEST_WAIT_S))


def _transfer(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    """One attempt to complete ``part``, from where it ends.

    Raises:
        _TryAgainError: another attempt may succeed.
        DownloadError: none will.
        OSError: writing failed.
    """
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have >= size:
        if have == size:
            return
        part.unlink()
        have = 0
    try:
        response = _open(url, have)
    except HTTPError as error:
        error.close()
        reason = f"the server answers {error.code} ({responses.get(error.code, 'unknown')})"
        if error.code == 416 and have:
            part.unlink()
            raise _TryAgainError(f"{reason} to a request for the rest") from error
        if error.code in _PASSING:
            raise _TryAgainError(reason, _retry_after(error.headers.get("Retry-After"))) from error
        raise DownloadError(f"{url}: {reason}; check the address") from error
    with response:
        if response.status == 206:
            start, offered = _content_range(response)
            if start != have:
                part.unlink(missing_ok=True)
                raise _TryAgainError("the server sends another part of the file than was asked for")
        else:
            # The server ignores Range and sends the file from its start.
            have, offered = 0, _content_length(response)
        total = _agreed_length(url, size, offered)
        _refuse_full_disk(part.parent, total - have)
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            if progress:
                progress(have, total)
            while have < total and (data := _read(response, min(_CHUNK, total - have))):
                file.write(data)
                have += len(data)
                if progress:
                    progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if have < total:
        raise _TryAgainError(f"the connection broke off after {have:,} of {total:,} bytes")


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "signsclf", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # Not urllib's usual opener, which would follow a redirection to ftp.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError:
        raise
    except (ValueError, InvalidURL) as error:
        raise DownloadError(f"{url}: not an address that can be opened ({error}); correct it") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, SSLCertVerificationError):
            raise DownloadError(
                f"{url}: the server's certificate is not trusted ({reason.verify_message}); "
                "check this machine's clock and certificates"
            ) from error
        raise _TryAgainError(f"no connection ({reason or type(reason).__name__})") from error


def _read(response: HTTPResponse, n: int) -> bytes:
    """Up to n bytes; none at the end, and none where the connection breaks, which the length then shows."""
    try:
        return response.read1(n)
    except (OSError, HTTPException):
        return b""


def _content_length(response: HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _content_range(response: HTTPResponse) -> tuple[int | None, int | None]:
    """First byte and length of the whole file, as a 206 answer says; None for what it does not say."""
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", ""))
    if not found:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _agreed_length(url: str, size: int | None, offered: int | None) -> int:
    if size is None and offered is None:
        raise DownloadError(f"{url}: the server does not say how long the file is; give its size")
    if size is not None and offered not in (None, size):
        raise DownloadError(
            f"{url}: the server offers {offered:,} bytes where {size:,} are expected, so it is not the file; "
            "check the address, and whether a log-in page stands before it"
        )
    return offered if size is None else size


def _retry_after(text: str | None) -> float:
    return float(text) if text and re.fullmatch(r"[0-9]{1,6}", text) else 0.0


def _is_right(path: Path, size: int | None, md5: str, sha256: str | None) -> bool:
    if size is not None and path.stat().st_size != size:
        return False
    digests = [(hashlib.md5(usedforsecurity=False), md5)]
    if sha256 is not None:
        digests.append((hashlib.sha256(), sha256))
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            for digest, _ in digests:
                digest.update(data)
    return all(digest.hexdigest() == expected.lower() for digest, expected in digests)


def _marker(folder: Path, archive: gtsrb.Archive) -> Path:
    return folder / f"{archive.name}.unpacked"


def _count_files(place: Path) -> int:
    return int(place.is_file()) or sum(len(files) for _, _, files in os.walk(place))


def _settle(folder: Path, archive: gtsrb.Archive) -> None:
    """Delete an unpacked zip, then leave the marker: what is settled is never there as tree and zip both."""
    place = folder / _PLACES[archive.name][1]
    n_files = _count_files(place)
    if not n_files:
        raise DownloadError(f"{folder / archive.name}: holds no {place.name}, so it is not GTSRB as published")
    (folder / archive.name).unlink()
    write_atomic(_marker(folder, archive), f"{json.dumps({'md5': archive.md5, 'files': n_files})}\n".encode())


def _is_unpacked(folder: Path, archive: gtsrb.Archive) -> bool:
    """Whether the marker speaks of this very archive and no file has gone since."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        record = json.loads(_marker(folder, archive).read_text(encoding="utf-8"))
        return record["md5"] == archive.md5 and 0 < record["files"] <= _count_files(folder / _PLACES[archive.name][1])
    return False


def _space_needed(folder: Path, unpack_archives: bool) -> int:
    """Bytes that `download_gtsrb` will still write, zips and unpacked files together."""
    needed = 0
    for archive in gtsrb.ARCHIVES:
        if not _is_unpacked(folder, archive):
            here = (folder / archive.name, folder / f"{archive.name}.part")
            needed += archive.bytes - max((path.stat().st_size for path in here if path.exists()), default=0)
            if unpack_archives:
                needed += _UNPACKED_PER_BYTE * archive.bytes
    return needed


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free; "
            "make room, or choose a folder on another disk"
        )


def _offset(progress: Progress | None, before: int, total: int) -> Progress | None:
    return progress and (lambda done, _: progress(before + done, total))


def _local_trouble(path: Path, error: OSError) -> str:
    what = f"{error.filename or path}: cannot be read or written ({error.strerror or error})"
    return f"{what}; see to that, then run this again"
