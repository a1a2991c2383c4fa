"""Files that the program writes: whole or not at all, through links, into devices and pipes; digests, CSV and JSON.

Standard library only.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from signsclf.errors import SignsclfError
from signsclf.text import file_text

_TMP_NAME = re.compile(r"\.signsclf-[0-9a-f]{12}\.tmp")
# On these file systems a file is as safe as it gets once it is closed.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_NO_SPACE = "make room there, or "
_REMEDIES = {errno.ENOSPC: _NO_SPACE, errno.EFBIG: _NO_SPACE, errno.ENOENT: "make its folder first, or "}
if hasattr(errno, "EDQUOT"):
    _REMEDIES[errno.EDQUOT] = _NO_SPACE


def write_atomic(path: str | Path, data: bytes, raises: type[SignsclfError] = SignsclfError) -> None:
    """Write a file whole or not at all, see `open_output`.

    Raises:
        SignsclfError: it cannot be written; of the type ``raises``.
    """
    with open_output(path, raises=raises) as file:
        file.write(data)


@contextlib.contextmanager
def open_output(path: str | Path, *, text: bool = False, raises: type[SignsclfError] = SignsclfError) -> Iterator[IO]:
    """Open a file to be written as a stream, whole or not at all.

    What is written goes to a tmp file in the same folder, which takes the file's place, with the mode of the file
    that was there, when the context ends without an error; otherwise what was there stays, and no tmp file does.
    A symbolic link stays, and its target is written. A device, a pipe or an open file of the process, such as
    /dev/null or /dev/stdout, is written to directly and never replaced.

    Args:
        text: gives a text file in UTF-8 that leaves line ends as they are; lone surrogates are escaped. Into a
            device or a pipe each line goes at once.

    Raises:
        SignsclfError: it cannot be written; of the type ``raises``, and naming ``path``. What the body of the
            ``with`` statement raises itself passes through.
    """
    path = Path(path)

    def failure(error: OSError | ValueError) -> SignsclfError:
        reason = getattr(error, "strerror", None) or str(error)
        help_first = _REMEDIES.get(getattr(error, "errno", None), "")
        return raises(f"{path}: cannot be written ({reason}); {help_first}name another place")

    try:
        direct = writes_directly(path)
        target, tmp = path, None
        if not direct:
            target = Path(os.path.realpath(path))
            if target.is_dir():
                raise raises(f"{path}: cannot be written, it is a folder; name a file")
            if target.is_symlink():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            tmp = target.with_name(f".signsclf-{secrets.token_hex(6)}.tmp")
        raw = _Raw(str(tmp or target), "wb" if direct else "xb", failure)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise failure(error) from error
    try:
        buffered = io.BufferedWriter(raw)
        file = buffered
        if text:
            file = io.TextIOWrapper(buffered, "utf-8", "backslashreplace", newline="", line_buffering=direct)
        with contextlib.closing(file):
            yield file
            file.flush()
            if tmp is not None:
                try:
                    _sync(raw.fileno())
                    if target.exists():
                        tmp.chmod(stat.S_IMODE(target.stat().st_mode))
                except OSError as error:
                    raise failure(error) from error
        if tmp is not None:
            try:
                tmp.replace(target)
            except OSError as error:
                raise failure(error) from error
            sync_folder(target.parent)
    finally:
        if tmp is not None:
            with contextlib.suppress(OSError):
                tmp.unlink()


def writes_directly(path: str | Path) -> bool:
    """Tell whether a path names a device, a pipe or an open file of a process, which is written to and not replaced."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(mode):
        return False
    # /dev/stdout and /proc/self/fd/1 lead to whatever file the shell has opened, which must stay the same file.
    return not stat.S_ISREG(mode) or Path(path).absolute().parts[1:2] in (("dev",), ("proc",))


def is_tmp_name(name: str) -> bool:
    """Tell whether a file is called as `open_output` calls an unfinished one, which a killed process leaves behind."""
    return _TMP_NAME.fullmatch(name) is not None


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """Hash a file, with SHA-256 unless told otherwise, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    r"""Give a CSV file's bytes: UTF-8, lines that end in "\n"; lone surrogates, from odd file names, are escaped.

    Cells are written as they are, also those that a spreadsheet takes for a formula ("=…", "+…", "-…", "@…"):
    paths and labels are read back by programs, and a mark before them would name another file or class.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def json_bytes(value: Any) -> bytes:
    """Give a JSON file's bytes: UTF-8, indented, a line end at the end; lone surrogates are escaped as JSON does.

    Raises:
        ValueError: a number is NaN or infinite, which JSON has no word for.
    """
    # A file name's bytes that are no UTF-8 are lone surrogates to Python: here \udcNN, which JSON reads back.
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; not known to Windows, where a folder cannot be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make all files below a folder last through a power cut, before the folder is renamed to where it is looked for.

    Raises:
        OSError: a file cannot be written to the disk.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file() and not path.is_symlink():
            # Windows wants a handle that could write, which others refuse of a file that is to be read only.
            with contextlib.suppress(PermissionError), path.open("r+b" if os.name == "nt" else "rb") as file:
                _sync(file.fileno())
    sync_folder(folder)


class _Raw(io.FileIO):
    """A file whose failures to write name the output that the user asked for."""

    def __init__(self, path: str, mode: str, failure: Any) -> None:
        super().__init__(path, mode)
        self._failure = failure

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            raise self._failure(error) from error


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


# A Path has lost the second slash of an address.
_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+):([/\\]{1,2})|data:[a-z]+/")


def user_path(path: str | os.PathLike[str], raises: type[SignsclfError] = SignsclfError) -> Path:
    """Replace a ``~`` or ``~name`` at the start by that home folder, where no shell has done so.

    A file or folder that is itself called ``~name`` is meant where it exists.

    Raises:
        SignsclfError: there is no such user, or no home folder, or it is a web address; of the type ``raises``.
    """
    text = os.fspath(path)
    if (address := _ADDRESS.match(text)) and not os.path.lexists(text):
        if address[1] is None:
            raise raises(f"{text[:40]}: an image as text in a data address; decode it, and save it as a file")
        remedy = "give the path alone" if address[1].lower() == "file" else "download it, and give the file"
        shown = text if len(address[2]) == 2 else f"{address[1]}://{text[address.end() :]}"
        raise raises(f"{shown}: an address, and nothing is fetched; {remedy}")
    path = Path(path)
    first = path.parts[0] if path.parts else ""
    if not first.startswith("~") or (first != "~" and os.path.lexists(first)):
        return path
    try:
        # An empty $HOME would make the home folder the root of all files.
        if first == "~" and os.name != "nt" and os.environ.get("HOME") == "":
            raise RuntimeError
        return path.expanduser()
    except RuntimeError as error:
        lacking = "this user has no home folder" if first == "~" else f"there is no user {first[1:]!r} here"
        raise raises(f"{path}: {lacking}; write the path out, or ./{path} for a name that begins with ~") from error


def native_path(path: str | os.PathLike[str]) -> str:
    """A path as libraries written in other languages take it: as the UTF-8 that it is on disk, whatever the locale."""
    return file_text(os.fspath(path))
