"""The model folder: the names of its files, reading and writing, checksums, putting a finished one in place.

NumPy and the standard library only. What is read may come from a stranger: sizes are bounded before reading,
values are checked before use, no name leads outside the folder, and nothing is ever unpickled.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from signsclf.errors import ModelError
from signsclf.files import file_hash, is_tmp_name, sync_folder, sync_tree, unix_text_hash, user_path, write_atomic
from signsclf.model.config import FORMAT_VERSION, MAX_BYTES, Config, check_classes, parse_json
from signsclf.outputs import (
    CARD,
    CHECKPOINT,
    CONFIG,
    LEARNER,
    ONNX,
    ONNX_INT8,
    RECORD,
    RUN,
    SUMS,
    UNFINISHED,
    WEIGHTS,
    delete_own,
    foreign_names,
    is_model_folder,
)

__all__ = [
    "CARD",
    "CHECKPOINT",
    "CONFIG",
    "FORMAT_VERSION",
    "LEARNER",
    "ONNX",
    "ONNX_INT8",
    "RECORD",
    "RUN",
    "SUMS",
    "UNFINISHED",
    "WEIGHTS",
    "Config",
    "check_classes",
    "parse_json",
    "publish",
    "read_config",
    "read_tensor",
    "read_text",
    "refuse_to_delete",
    "refuse_to_replace",
    "verify_sums",
    "write_config",
    "write_sums",
]  # fmt: skip

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_ANEW = "fetch or export the model again"


def read_config(folder: str | Path) -> Config:
    """Read and check config.json of a model folder.

    Raises:
        ModelError: no such folder, no config.json, or one that is not in order.
    """
    folder = user_path(folder, ModelError)
    is_run = (folder / RECORD).is_file() and not (folder / CONFIG).is_file()
    if is_run or (not folder.is_dir() and folder.with_name(folder.name + ".partial").is_dir()):
        raise ModelError(f"{folder}: its training has not finished; resume it with `signsclf train --resume {folder}`")
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder; name one that `signsclf train` or `export` wrote")
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder}: not a model folder, it has no {CONFIG}; name one that `signsclf train` wrote")
    text = read_text(folder / CONFIG)
    try:
        return Config.from_json(text)
    except ModelError as error:
        raise ModelError(f"{folder}/{error}") from error


def write_config(folder: str | Path, config: Config) -> None:
    """Write config.json atomically.

    Raises:
        ModelError: it cannot be written.
    """
    write_atomic(Path(folder) / CONFIG, config.to_json().encode(), ModelError)


def write_sums(folder: str | Path) -> None:
    """Write SHA256SUMS, as coreutils does, for the files at the top of a folder and all below run/.

    Files of a run under way are left out: they go when the folder is put in its place.

    Raises:
        ModelError: a file has a name that cannot stand in it, or cannot be read.
    """
    folder = Path(folder)
    try:
        paths = (*folder.iterdir(), *(folder / RUN).rglob("*"))
        found = [path for path in paths if path.is_file() and not is_tmp_name(path.name)]
        names = sorted(path.relative_to(folder).as_posix() for path in found)
        names = [name for name in names if name not in (SUMS, *UNFINISHED)]
        lines = [f"{file_hash(_inside(folder, name))}  {name}\n" for name in names]
    except OSError as error:
        raise ModelError(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from error
    write_atomic(folder / SUMS, "".join(lines).encode(), ModelError)


def verify_sums(folder: str | Path, names: Iterable[str] | None = None) -> None:
    """Check files of a model folder against its SHA256SUMS.

    That shows that nothing was damaged, mixed up or changed by accident. It does not show who made the files:
    whoever can change one can change the list.

    Args:
        names: those to check. None checks every file that is listed, that the files which make a model folder
            are listed, and that none of those that a program may open is there unlisted.

    Raises:
        ModelError: a file was changed, is missing or not listed, or a name leads outside the folder.
    """
    folder = user_path(folder, ModelError)
    if not (folder / SUMS).is_file():
        raise ModelError(f"{folder}: has no {SUMS}, so its files cannot be verified; {_ANEW}")
    sums: dict[str, str] = {}
    # Not splitlines, which would cut a name at characters such as U+2028.
    lines = read_text(folder / SUMS).replace("\r\n", "\n").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise ModelError(f"{folder / SUMS}: line {number} is not a checksum and a new file name; {_ANEW}")
        sums[match[2]] = match[1]
    if names is None:
        known = (CONFIG, WEIGHTS, ONNX, ONNX_INT8, LEARNER, CARD)
        needed = [name for name in known if name in (CONFIG, WEIGHTS, ONNX) or (folder / name).exists()]
        names = dict.fromkeys((*needed, *sums))
    for name in names:
        if name not in sums:
            raise ModelError(f"{folder / name}: not listed in {SUMS}, so it cannot be verified; {_ANEW}")
        path = _inside(folder, name)
        if not path.is_file():
            raise ModelError(f"{path}: listed in {SUMS} but missing; {_ANEW}")
        try:
            if file_hash(path) == sums[name]:
                continue
            line_ends = unix_text_hash(path, MAX_BYTES) == sums[name]
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
        if line_ends:
            raise ModelError(
                f"{path}: differs from {SUMS} in its line endings alone, which are CR LF here, as Git writes them on "
                "Windows; put the line '* -text' into .gitattributes in the model folder and check it out again"
            )
        raise ModelError(f"{path}: changed or truncated, its checksum in {SUMS} differs; {_ANEW}")


def folder_digest(folder: str | Path) -> str:
    """Name a model by all of its files: "sha256:" and the hash of SHA256SUMS, which covers every file.

    Raises:
        ModelError: SHA256SUMS cannot be read.
    """
    sums = Path(folder) / SUMS
    try:
        return f"sha256:{file_hash(sums)}"
    except OSError as error:
        raise ModelError(f"{sums}: cannot be read ({error.strerror or error})") from error


def publish(partial: str | Path, final: str | Path, overwrite: bool = False) -> None:
    """Move a finished folder to its place by one rename: it appears complete or not at all, even after a power cut.

    Files that only the run needs are deleted after the rename; until then the run can be resumed.

    Args:
        overwrite: replace a model folder: the old becomes a backup, the new takes its place, then what the program
            wrote in the backup is deleted.

    Raises:
        ModelError: something exists and is not to be, or may not be, replaced; or the move fails.
    """
    partial, final = Path(partial), Path(final)
    exists = final.is_symlink() or final.exists()
    if exists:
        try:
            refuse_to_replace(final, overwrite)
        except ModelError as error:
            raise ModelError(f"{error}; the new model is in {partial}") from error
    backup = _unused(final.with_name(final.name + ".old"))
    try:
        sync_tree(partial)
        if exists:
            final.rename(backup)
        try:
            partial.rename(final)
        except OSError:
            if exists:
                backup.rename(final)
            raise
        sync_folder(final.parent)
    except OSError as error:
        raise ModelError(f"{final}: cannot be put in place ({error.strerror or error}); it is in {partial}") from error
    try:
        for name in UNFINISHED:
            (final / name).unlink(missing_ok=True)
        if exists:
            _delete(backup)
    except OSError as error:
        raise ModelError(
            f"{final} is in place, but something that it replaces or no longer needs cannot be deleted ({error})"
        ) from error


def refuse_to_replace(folder: Path, overwrite: bool) -> None:
    """Raise ModelError where ``folder``, which exists, may not be replaced by a model folder.

    A model folder may be replaced if ``overwrite`` says so and nothing is in it that the program did not write; so may
    an empty folder, and a link, whose target stays.
    """
    try:
        may_go = folder.is_symlink() or (folder.is_dir() and (is_model_folder(folder) or not any(folder.iterdir())))
    except OSError as error:
        raise ModelError(
            f"{folder}: cannot be looked into ({error.strerror or error}); choose another --out"
        ) from error
    if not may_go:
        raise ModelError(f"{folder} exists and is not a model folder, so it is not replaced: choose another --out")
    if not overwrite:
        raise ModelError(f"{folder} exists already: --overwrite replaces it, --out DIR writes elsewhere")
    if not folder.is_symlink():
        refuse_to_delete(folder)


def refuse_to_delete(folder: Path) -> None:
    """Raise ModelError where the folder of a model or a run holds what the program did not write, or was changed."""
    try:
        names = foreign_names(folder)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be listed ({error.strerror or error}); choose another --out") from error
    if names:
        more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
        raise ModelError(
            f"{folder} holds what signsclf did not write, or what was changed since, so nothing is deleted: "
            f"{', '.join(names[:5])}{more}; move that away, or choose another --out"
        )


def read_tensor(path: str | Path, name: str) -> np.ndarray[Any, Any]:
    """Read one float32 or float16 tensor of a safetensors file, as float32.

    Raises:
        ModelError: the file is damaged, or has no such tensor of these types.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
                raise ModelError(f"{path}: not a safetensors file, or truncated; {_ANEW}")
            header = parse_json(file.read(length).decode("utf-8", errors="replace"), str(path))
            entry = header.get(name) if isinstance(header, dict) else None
            if not isinstance(entry, dict):
                raise ModelError(f"{path}: has no tensor {name!r}")
            dtype = {"F32": "<f4", "F16": "<f2"}.get(str(entry.get("dtype")))
            shape, offsets = (
                numbers
                if isinstance(numbers, list) and all(type(v) is int and 0 <= v <= size for v in numbers)
                else None
                for numbers in (entry.get("shape"), entry.get("data_offsets"))
            )
            if dtype is None or shape is None or offsets is None or len(offsets) != 2 or len(shape) > 8:
                raise ModelError(f"{path}: tensor {name!r} is not of float32 or float16, or its entry is damaged")
            start, end = offsets
            if end - start != math.prod(shape) * np.dtype(dtype).itemsize or 8 + length + end > size:
                raise ModelError(f"{path}: tensor {name!r} does not fit the file, which is damaged or truncated")
            file.seek(8 + length + start)
            stored: np.ndarray[Any, Any] = np.frombuffer(file.read(end - start), dtype)
            return stored.reshape(shape).astype(np.float32)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Read a text file in UTF-8 of at most ``limit`` bytes.

    Raises:
        ModelError: it is larger, cannot be read or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ModelError(f"{path}: larger than {limit:,} bytes, so not what it should be; {_ANEW}")
        return data.decode("utf-8")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 text, so damaged; {_ANEW}") from error


def _inside(folder: Path, name: str) -> Path:
    """Find a listed file, unless its name leads outside the folder.

    A file may be a symbolic link to one elsewhere: huggingface_hub's cache and DVC lay folders out so.
    """
    parts = PurePosixPath(name).parts
    if not parts or {"..", "/"} & set(parts) or re.search(r"[\\:\x00-\x1f]", name):
        raise ModelError(f"{folder}: {name!r} leads outside the model folder, or is no plain name; {_ANEW}")
    return folder / name


def _unused(path: Path) -> Path:
    """Return the path, with a number after it if it exists."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(other for other in itertools.chain([path], others) if not (other.is_symlink() or other.exists()))


def _delete(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        delete_own(path)
