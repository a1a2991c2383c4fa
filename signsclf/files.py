"""Write files: atomically, through links, into devices and pipes; digests, CSV and JSON bytes, paths of users.

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
# Raised by file systems without fsync, where closing a file is all that can be done.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_FREE_SPACE = "free space there, or "
_REMEDIES = {errno.ENOSPC: _FREE_SPACE, errno.EFBIG: _FREE_SPACE, errno.ENOENT: "create its folder first, or "}
if hasattr(errno, "EDQUOT"):
    _REMEDIES[errno.EDQUOT] = _FREE_SPACE


def write_atomic(path: str | Path, data: bytes, raises: type[SignsclfError] = SignsclfError) -> None:
    """Write a file atomically, see `open_output`.

    Raises:
        SignsclfError: the file cannot be written; of the type ``raises``.
    """
    with open_output(path, raises=raises) as file:
        file.write(data)


@contextlib.contextmanager
def open_output(
    path: str | Path, *, text: bool = False, raises: type[SignsclfError] = SignsclfError
) -> Iterator[IO[Any]]:
    """Open a file to be written atomically as a stream.

    The data goes to a temporary file in the same folder, which replaces the file, and takes over its mode, when the
    context ends without an error; after an error the old file is unchanged and the temporary one is deleted. Of a
    symbolic link the target is written. A device, a pipe or an open file of the process, such as /dev/null or
    /dev/stdout, is written to directly and never replaced.

    Args:
        text: open a text file in UTF-8 that leaves line ends unchanged and escapes lone surrogates. It is
            line-buffered if it is a device or a pipe.

    Raises:
        SignsclfError: the file cannot be written; of the type ``raises``, and naming ``path``. Errors raised in the
            body of the ``with`` statement pass through.
    """
    path = Path(path)

    def failure(error: OSError | ValueError) -> SignsclfError:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = _REMEDIES.get(getattr(error, "errno", None) or 0, "")
        return raises(f"{path}: cannot be written ({reason}); {remedy}name another place")

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
        file: IO[Any] = buffered
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


def make_folder(folder: str | Path) -> Path:
    """Create a folder for results, with its parents, unless it exists.

    Raises:
        SignsclfError: it cannot be created.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SignsclfError(f"{folder}: cannot be created ({error.strerror or error}); name another folder") from error
    return folder


def writes_directly(path: str | Path) -> bool:
    """Tell whether a path is a device, a pipe or an open file of a process, which must not be replaced."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(mode):
        return False
    # /dev/stdout and /proc/self/fd/1 lead to a file that the shell has opened, which must stay the same file.
    return not stat.S_ISREG(mode) or Path(path).absolute().parts[1:2] in (("dev",), ("proc",))


def is_tmp_name(name: str) -> bool:
    """Tell whether a name is one of `open_output`'s temporary files, which a killed process leaves behind."""
    return _TMP_NAME.fullmatch(name) is not None


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """Hash a file, with SHA-256 unless another algorithm is given, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unix_text_hash(path: str | Path, most: int) -> str | None:
    """Hash a text file with LF for CR LF, which Git changes on Windows; None for one of more than ``most`` bytes.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        data = file.read(most + 1)
    return hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest() if len(data) <= most else None


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    r"""Format rows as a CSV file: UTF-8, lines that end in "\n"; lone surrogates, from odd file names, are escaped.

    Cells are written unchanged, even if a spreadsheet would take them for a formula ("=…", "+…", "-…", "@…"): programs
    read paths and labels back, and an escape character would make them name another file or class.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def json_bytes(value: Any) -> bytes:
    """Format a value as a JSON file: UTF-8, indented, with a final line end; lone surrogates are escaped.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot express.
    """
    # Python decodes bytes of file names that are not UTF-8 as lone surrogates; \udcNN is valid JSON for one.
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def sync_folder(folder: Path) -> None:
    """Make a rename durable, so that it survives a power cut; does nothing on Windows, which cannot open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make all files in a folder durable, to be called before it is renamed to its final place.

    Raises:
        OSError: a file cannot be synced to the disk.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file() and not path.is_symlink():
            # Windows needs a writable handle; elsewhere a read-only file cannot be opened for writing.
            with contextlib.suppress(PermissionError), path.open("r+b" if os.name == "nt" else "rb") as file:
                _sync(file.fileno())
    sync_folder(folder)


class _Raw(io.FileIO):
    """A file that reports failed writes with the name of the output that the user asked for."""

    def __init__(self, path: str, mode: str, failure: Any) -> None:
        super().__init__(path, mode)
        self._failure = failure

    def write(self, data: Any) -> int:
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


# One slash too: Path drops the second slash of an address.
_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+):([/\\]{1,2})|data:[a-z]+/")

_REMOTE = re.compile(r"(?:s3|gs|gcs|abfss?|hdfs|viewfs)://", re.IGNORECASE)
_CREDENTIALS = re.compile(r"([a-z][a-z0-9+.-]*:/{1,2})[^/@]*:[^/@]*@", re.IGNORECASE)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is the address of an object store, which is read with `imagefiles.remote`."""
    return isinstance(path, str) and bool(_REMOTE.match(path))


def refuse_credentials(path: str, raises: type[SignsclfError] = SignsclfError) -> None:
    """Refuse an address with a user's name and password, which would be shown, logged and stored with it.

    Raises:
        SignsclfError: it has them; of the type ``raises``. The message does not show them.
    """
    if _CREDENTIALS.match(path):
        shown = _CREDENTIALS.sub(r"\1…@", path)
        raise raises(f"{shown}: credentials in an address; give them in the environment, as the store's own tools do")


def user_path(path: str | os.PathLike[str], raises: type[SignsclfError] = SignsclfError) -> Path:
    """Expand a leading ``~`` or ``~name`` to that home folder, as a shell would.

    A file or folder that is itself called ``~name`` takes precedence.

    Raises:
        SignsclfError: there is no such user or home folder, or it is an address; of the type ``raises``.
    """
    text = os.fspath(path)
    refuse_credentials(text, raises)
    if (address := _ADDRESS.match(text)) and not os.path.lexists(text):
        if address[1] is None:
            raise raises(f"{text[:40]}: an image in a data: address; decode it and save it as a file")
        remedy = "give the path alone" if address[1].lower() == "file" else "download it and give the file"
        shown = text if len(address[2]) == 2 else f"{address[1]}://{text[address.end() :]}"
        raise raises(f"{shown}: a web address, which is not fetched; {remedy}")
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


def absolute_source(source: str | os.PathLike[str]) -> str:
    """Return an absolute path, with forward slashes, or an address in a store as it is; see `user_path`.

    Raises:
        SignsclfError: as `user_path`.
    """
    return str(source) if is_remote(source) else user_path(source).absolute().as_posix()


def native_path(path: str | os.PathLike[str]) -> str:
    """Return a path for libraries written in other languages: as UTF-8 as it is on disk, whatever the locale."""
    return file_text(os.fspath(path))
