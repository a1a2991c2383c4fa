"""Download the official GTSRB archives and unpack them: resumable, bounded, verified by checksum, atomic."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING

from signsclf.data import gtsrb
from signsclf.errors import DownloadError
from signsclf.files import file_hash, sync_folder, write_atomic
from signsclf.locks import locked

if TYPE_CHECKING:
    import requests

TIMEOUT_S = 30.0
"""Seconds to wait for the server's next bytes before a connection counts as broken."""

_CHUNK = 256 * 1024
_MAX_WAIT_S = 30.0
_BUSY = (408, 425, 429, 500, 502, 503, 504)
# Unpacked, GTSRB's images are 1.35 times the zip; file systems round 52,000 small files up to whole blocks.
_UNPACKED_PER_BYTE = 2
# Where each archive's members belong, and what it must have brought, both below the user's folder.
_PLACES = {
    "GTSRB_Final_Training_Images.zip": ("", "GTSRB/Final_Training"),
    "GTSRB_Final_Test_Images.zip": ("", "GTSRB/Final_Test"),
    "GTSRB_Final_Test_GT.zip": ("GTSRB", "GTSRB/GT-final_test.csv"),
}

Progress = Callable[[int, int], None]


def fetch(
    url: str,
    target: Path,
    *,
    size: int,
    md5: str,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 3,
) -> Path:
    """Download one file; an interrupted transfer resumes where it stopped, in this process or a later one.

    The bytes are collected in ``TARGET.part``, which becomes ``target`` only when length and checksums match. A
    matching ``target`` that exists is not fetched again; another file of that name is never overwritten.

    Args:
        url: http or https.
        size: length in bytes, never exceeded.
        md5: expected checksum in hex; ``sha256`` likewise, where known.
        progress: called with (bytes so far, bytes in all).
        attempts: how often to try, at least 1, where the connection breaks or the server is busy, with waits of 1, 2,
            4 … seconds, or what the server asks for, at most 30.

    Raises:
        DownloadError: it cannot be fetched, is not the file expected, or the disk is too full for it.
        LockedError: another process is fetching it.
    """
    part = target.with_name(target.name + ".part")
    try:
        if target.exists():
            if not _matches(target, size, md5, sha256):
                raise DownloadError(
                    f"{target}: exists, but is not the file expected (its checksum differs); move or delete it, then "
                    "run this again"
                )
            if progress:
                progress(size, size)
            return target
        # Two processes that append to one file would spoil it for each other.
        with locked(target):
            _download(url, part, size, progress, attempts)
            if not _matches(part, size, md5, sha256):
                part.unlink()
                raise DownloadError(
                    f"{url}: what came is not the file expected (its checksum differs), and was deleted; run this "
                    "again to fetch it anew"
                )
            part.replace(target)
            sync_folder(target.parent)
    except OSError as error:
        raise DownloadError(_disk_error(target, error)) from error
    return target


def download_gtsrb(
    folder: Path, base_url: str = gtsrb.BASE_URL, progress: Progress | None = None, unpack_archives: bool = True
) -> list[Path]:
    """Download the official GTSRB, training and test with ground truth (365 MB), into a folder that is a source then.

    Each zip is deleted once it is unpacked, so that no reader meets an image twice; a small NAME.zip.unpacked keeps
    its checksum. What is complete already is not fetched again.

    Args:
        folder: made if need be; gets ``GTSRB/Final_Training/Images/CCCCC/*.ppm`` with a csv in each,
            ``GTSRB/Final_Test/Images/*.ppm`` and ``GTSRB/GT-final_test.csv``.
        progress: called with (bytes so far, bytes of all three archives).
        unpack_archives: False leaves the three zips in ``folder`` as they come.

    Returns:
        What each archive brought, in the order of `gtsrb.ARCHIVES`: a folder, a file, or the zip itself.

    Raises:
        DownloadError: see `fetch`; also where the disk is too full for all of it.
        LockedError: another process is downloading into the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of two at once, one would delete the archive that the other unpacks.
        with locked(folder / "GTSRB"):
            _refuse_full_disk(folder, _space_needed(folder, unpack_archives))
            brought = []
            done, total = 0, sum(archive.bytes for archive in gtsrb.ARCHIVES)
            for archive in gtsrb.ARCHIVES:
                place = folder / _PLACES[archive.name][1]
                if not _is_unpacked(folder, archive):
                    target = fetch(
                        f"{base_url.rstrip('/')}/{archive.name}",
                        folder / archive.name,
                        size=archive.bytes,
                        md5=archive.md5,
                        sha256=archive.sha256,
                        progress=progress and (lambda n, _, before=done: progress(before + n, total)),
                    )
                    if unpack_archives:
                        _unpack(folder, archive)
                    else:
                        place = target
                done += archive.bytes
                if progress:
                    progress(done, total)
                brought.append(place)
    except OSError as error:
        raise DownloadError(_disk_error(folder, error)) from error
    return brought


def _download(url: str, part: Path, size: int, progress: Progress | None, attempts: int) -> None:
    """Complete ``part`` from where it ends."""
    import requests
    from urllib3.exceptions import HTTPError

    if part.exists() and part.stat().st_size > size:
        part.unlink()
    with _session(attempts) as session:
        for attempt in range(attempts):
            have = part.stat().st_size if part.exists() else 0
            if have == size:
                return
            if attempt:
                time.sleep(min(2.0 ** (attempt - 1), _MAX_WAIT_S))
            headers = {"Range": f"bytes={have}-"} if have else None
            try:
                with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
                    _append(response, part, have, size, progress)
            except HTTPError:  # the connection broke: the rest is asked for in the next attempt
                continue
            except (requests.ConnectionError, requests.Timeout) as error:
                raise DownloadError(
                    f"{url}: no connection ({_root_cause(error)}); check the network, then run this again"
                ) from error
            except requests.RequestException as error:
                raise DownloadError(f"{url}: cannot be opened ({error}); check the address") from error
    have = part.stat().st_size if part.exists() else 0
    if have < size:
        raise DownloadError(
            f"{url}: the connection broke off after {have:,} of {size:,} bytes, at attempt {attempts}; what came is "
            "kept, run this again to resume"
        )


def _session(attempts: int) -> requests.Session:
    """Open an HTTP client that tries again where there is no connection or the server is busy."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    class BoundedRetry(Retry):
        def get_retry_after(self, response: object) -> float | None:
            asked = super().get_retry_after(response)
            return asked and min(asked, _MAX_WAIT_S)

    retries = BoundedRetry(attempts - 1, status_forcelist=_BUSY, backoff_factor=1, raise_on_status=False)
    session = requests.Session()
    # Compressed on the way, the bytes could not be counted.
    session.headers.update({"User-Agent": "signsclf", "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    return session


def _append(response: requests.Response, part: Path, have: int, size: int, progress: Progress | None) -> None:
    """Write an answer's bytes behind the ``have`` that are in ``part``; a server that cannot resume starts it over."""
    status = response.status_code
    if status == 416 or (status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-")):
        part.unlink(missing_ok=True)
        return
    if status not in (200, 206):
        advice = "try again later" if status in _BUSY else "check the address"
        raise DownloadError(f"{response.url}: the server answers {status} ({responses.get(status, '?')}); {advice}")
    if status == 200:
        have = 0
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and have + int(length) != size:
        raise DownloadError(
            f"{response.url}: the server offers {have + int(length):,} bytes where {size:,} are expected, so it is not "
            "the file; check the address, and whether a log-in page answers in its place"
        )
    _refuse_full_disk(part.parent, size - have)
    with part.open("ab" if have else "wb") as file:
        if progress:
            progress(have, size)
        for data in response.raw.stream(_CHUNK, decode_content=False):
            have += file.write(data[: size - have])
            if progress:
                progress(have, size)
            if have == size:
                break
        file.flush()
        os.fsync(file.fileno())


def _root_cause(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join(str(error).split()) or type(error).__name__


def _matches(path: Path, size: int, md5: str, sha256: str | None) -> bool:
    return (
        path.stat().st_size == size
        and file_hash(path, "md5") == md5.lower()
        and (sha256 is None or file_hash(path) == sha256.lower())
    )


def _unpack(folder: Path, archive: gtsrb.Archive) -> None:
    """Unpack a verified zip in a hidden folder, move what it holds to its place, delete the zip, leave the marker.

    What is unpacked is never there as tree and zip both once this returns; files of the same name are replaced.
    """
    into, place = _PLACES[archive.name]
    path, staging = folder / archive.name, folder / f".{archive.name}.unpacking"
    if staging.exists():
        shutil.rmtree(staging)
    try:
        with zipfile.ZipFile(path) as opened:
            opened.extractall(staging / into)
        if not (n_files := _count_files(staging / place)):
            raise DownloadError(f"{path}: holds no {Path(place).name}, so it is not GTSRB as published")
        (folder / "GTSRB").mkdir(exist_ok=True)
        for child in (staging / "GTSRB").iterdir():
            target = folder / "GTSRB" / child.name
            if target.is_dir():
                shutil.copytree(child, target, copy_function=os.replace, dirs_exist_ok=True)
            else:
                child.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    path.unlink()
    write_atomic(_marker(folder, archive), f"{json.dumps({'md5': archive.md5, 'files': n_files})}\n".encode())


def _marker(folder: Path, archive: gtsrb.Archive) -> Path:
    return folder / f"{archive.name}.unpacked"


def _count_files(place: Path) -> int:
    return int(place.is_file()) or sum(len(files) for _, _, files in os.walk(place))


def _is_unpacked(folder: Path, archive: gtsrb.Archive) -> bool:
    """Tell whether the marker is of this very archive and no file has gone since."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        record = json.loads(_marker(folder, archive).read_text(encoding="utf-8"))
        return record["md5"] == archive.md5 and 0 < record["files"] <= _count_files(folder / _PLACES[archive.name][1])
    return False


def _space_needed(folder: Path, unpack_archives: bool) -> int:
    """Count the bytes that `download_gtsrb` will still write, zips and unpacked files together."""
    needed = 0
    for archive in gtsrb.ARCHIVES:
        if not _is_unpacked(folder, archive):
            paths = (folder / archive.name, folder / f"{archive.name}.part")
            needed += archive.bytes - max((path.stat().st_size for path in paths if path.exists()), default=0)
            if unpack_archives:
                needed += _UNPACKED_PER_BYTE * archive.bytes
    return needed


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free; delete something, or "
            "choose a folder on another disk"
        )


def _disk_error(path: Path, error: OSError) -> str:
    reason = error.strerror or error
    return f"{error.filename or path}: cannot be read or written ({reason}); mend that, then run this again"
