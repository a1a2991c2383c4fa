"""Unpack a zip archive that is not trusted: confined to its folder, bounded, and whole or not at all."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from signsclf.errors import DownloadError

MAX_BYTES = 2 * 1024**3
"""What an archive may unpack to, unless told otherwise; GTSRB's largest needs a fifth of it."""
MAX_FILES = 200_000
"""Entries an archive may have, unless told otherwise."""

_CHUNK = 256 * 1024


def unpack(archive: Path, into: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
    """Unpack a zip archive into a folder, made if need be.

    Everything is unpacked and checked (CRC) in a hidden folder within ``into``, and moved only then.
    Folders that are there already are added to; files of the same name are replaced.

    Args:
        max_bytes: most bytes to write, counted as they are written, whatever the archive says of itself.
        max_files: most entries the archive may have.

    Raises:
        DownloadError: no zip archive, damaged, too large unpacked, or an entry may lead outside ``into``.
    """
    is_new = not into.exists()
    staging = into / f".{archive.name}.unpacking"
    try:
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(parents=True)
        try:
            _extract(archive, staging, max_bytes, max_files)
            _merge(staging, into)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if is_new and not any(into.iterdir()):
                into.rmdir()
    # RuntimeError: an entry is encrypted. NotImplementedError: of a later version of the format.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{archive}: a damaged zip archive or none ({error}); fetch it anew") from error
    except OSError as error:
        raise DownloadError(
            f"{archive}: cannot be unpacked, {error.filename or into}: {error.strerror or error}; "
            "see to that, then run this again"
        ) from error


def _extract(archive: Path, staging: Path, max_bytes: int, max_files: int) -> None:
    left = max_bytes
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        if len(entries) > max_files:
            raise DownloadError(f"{archive}: {len(entries):,} entries are too many (at most {max_files:,})")
        for entry in entries:
            target = staging.joinpath(*_safe_parts(archive, entry))
            try:
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                file = target.open("xb")
            # Of one name, also to a file system that knows no case, or a file that is to be a folder too.
            except (FileExistsError, NotADirectoryError) as error:
                raise DownloadError(f"{archive}: refused, it holds {entry.filename!r} twice") from error
            with file, opened.open(entry) as source:
                while data := source.read(_CHUNK):
                    left -= len(data)
                    if left < 0:
                        raise DownloadError(f"{archive}: refused, it unpacks to more than {max_bytes:,} bytes")
                    file.write(data)


def _safe_parts(archive: Path, entry: zipfile.ZipInfo) -> list[str]:
    """The entry's path as names, none of which can lead outside on any platform.

    Raises:
        DownloadError: an absolute path, a drive, a name of dots, a backslash, a control character, a link, a
            device, or a compression other than deflate (some may ask for gigabytes of memory).
    """
    # orig_filename: in filename, zipfile has turned backslashes round on Windows and cut at a NUL.
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if (
        re.search(r"[\\:\x00-\x1f\x7f]", name)
        or any(part.strip(". ") == "" for part in parts)
        or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    ):
        raise DownloadError(f"{archive}: refused, its entry {name!r} may lead outside the folder or is no plain file")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DownloadError(f"{archive}: refused, its entry {name!r} is packed otherwise than with deflate")
    return parts


def _merge(source: Path, into: Path) -> None:
    """Move all in ``source`` to a folder on the same file system; what is new there moves in one step."""
    for child in sorted(source.iterdir()):
        target = into / child.name
        if child.is_dir() and target.is_dir():
            _merge(child, target)
        else:
            child.replace(target)
