"""Decodes every image of a table once, in parallel, into one uint8 array at the size that training reads, and keeps it
in a folder for the runs to come.

An entry of the cache is a folder named by what decided its pixels: it is written under another name and renamed into
place, so that it is whole or not there, whoever else writes it too; and each row is checked against its digest when it
is opened. A cache that cannot be used costs a line and the decoding, never the run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import platformdirs
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, SignsclfError
from signsclf.files import user_path
from signsclf.observer import Observer
from signsclf.threads import usable_cores

IN_MEMORY_BYTES = 2 * 1024**3
"""Without a cache, a larger array lies in an unnamed temporary file and is mapped: the system drops its pages when
memory is short."""
KEPT_BYTES = 20 * 1024**3
"""The entries used last are kept up to this sum, and always the newest; others are deleted when that one is written."""
AUTO, OFF = "auto", "off"
_FORMAT = 2
_PIXELS, _INDEX, _TAG = "pixels.bin", "index.json", "CACHEDIR.TAG"
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Images decoded by signsclf; may be deleted.\n"
# What posix_fallocate says on file systems that cannot take space ahead.
_CANNOT_ALLOCATE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODEV)
_NAME = re.compile(r"[0-9a-f]{32}(\.[0-9a-f]{8}\.tmp)?")
_ABANDONED_SECONDS = 24 * 3600
_CHUNK = 64
_SMALL_SIDE = 100.0
"""With smaller images decoding is mostly Python, of which one thread runs at a time: two take a fifth longer."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The images of a table, row for row.

    Attributes:
        pixels: uint8 (n, size, size, 3), RGB; rows of unreadable images are zero.
        digests: `digest` of each image's pixels as they are in the file; empty for unreadable images.
        inputs: `digest` of each image's row in ``pixels``: what the network sees; empty likewise.
        unreadable: row position to the reason.
        entry: the cache's entry that holds all rows, these and those that `take` left out; None without one.
    """

    pixels: np.ndarray
    digests: list[str]
    inputs: list[str]
    unreadable: dict[int, str]
    entry: Path | None = None

    def take(self, rows: Sequence[int]) -> Decoded:
        """These rows alone, in this order; many of them in an unnamed file, as `decode_all` has them.

        Raises:
            SignsclfError: there is no room for that file.
        """
        pixels = _allocate((len(rows), *self.pixels.shape[1:]))
        np.take(self.pixels, rows, axis=0, out=pixels)
        return Decoded(
            pixels=pixels,
            digests=[self.digests[i] for i in rows],
            inputs=[self.inputs[i] for i in rows],
            unreadable={place: self.unreadable[i] for place, i in enumerate(rows) if i in self.unreadable},
            entry=self.entry,
        )


def decode_all(
    table: np.ndarray,
    size: int,
    cache: Path | None = None,
    observer: Observer | None = None,
    leave: int = 0,
) -> Decoded:
    """Every image of the table, read, decoded and squashed, or taken from the cache, where this was done before.

    Args:
        table: ``path`` and ``roi`` are used.
        size: side in pixels.
        cache: folder of the cache; None keeps nothing. Tables with drawn signs are never kept.
        observer: told of progress, and why the cache could not be used.
        leave: bytes that a new entry must leave free on its disk.

    Raises:
        SignsclfError: there is no cache and no room for a temporary file either.
    """
    observer = observer or Observer()
    key = None if cache is None else _key(table, size)
    if key is not None:
        found = open_entry(cache / key, size, observer)
        if found is None or len(found.digests) != len(table):
            found = _make_entry(cache, key, table, size, observer, leave)
        if found is not None:
            return found
    return _decode(table, size, _allocate((len(table), size, size, 3)), observer)


def decode_some(
    table: np.ndarray, rows: Sequence[int], size: int, cache: Path | None = None, observer: Observer | None = None
) -> Decoded:
    """Decode these rows of a table alone, unless the cache holds the whole table: then they are taken from there.

    Args:
        rows: positions in the table.

    Raises:
        SignsclfError: see `decode_all`.
    """
    key = None if cache is None else _key(table, size)
    whole = None if key is None else open_entry(cache / key, size, observer)
    if whole is not None and len(whole.digests) == len(table):
        return whole.take(rows)
    return decode_all(table[rows], size, cache, observer)


def cache_folder(choice: str | Path, observer: Observer | None = None) -> Path | None:
    """The folder that ``--cache`` means: "auto" is the user's own, "off" none.

    The folder is marked (CACHEDIR.TAG) as one that backups need not keep.

    Args:
        observer: told where the user has no folder of their own.

    Raises:
        SignsclfError: no folder can be called so.
    """
    if str(choice) == OFF:
        return None
    if str(choice) == AUTO:
        folder = _users_folder()
        if folder is None and observer is not None:
            observer.say("cache: this user has no home folder, so decoded images are not kept; --cache DIR keeps them")
        return folder
    if not str(choice):
        raise SignsclfError(f"--cache: names no folder; give one, {AUTO} or {OFF}")
    return user_path(choice).absolute()


def measure(folder: Path) -> tuple[int, int]:
    """How many entries a cache has, those half made included, and their bytes."""
    entries = _entries(folder)
    return len(entries), sum(_bytes(entry) for entry in entries)


def clear(folder: Path) -> tuple[int, int]:
    """Deletes all entries of a cache, and nothing else that lies there.

    Returns:
        The bytes freed, and how many entries are still there, since they are in use or may not be deleted.
    """
    freed = 0
    for entry in _entries(folder):
        n_bytes = _bytes(entry)
        if _delete(entry):
            freed += n_bytes
    return freed, len(_entries(folder))


def _users_folder() -> Path | None:
    # An empty HOME makes the root folder of it, and without any the name begins with "~".
    if os.environ.get("HOME") == "" and not os.environ.get("XDG_CACHE_HOME"):
        return None
    try:
        folder = Path(platformdirs.user_cache_dir("signsclf", False)).expanduser()
    except (RuntimeError, KeyError, OSError):
        return None
    return folder if folder.is_absolute() else None


def _entries(folder: Path) -> list[Path]:
    """What is an entry by its name and its files alike; links are none."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
        return [
            path
            for path in sorted(found)
            if path.is_dir() and not path.is_symlink() and {part.name for part in path.iterdir()} <= {_PIXELS, _INDEX}
        ]
    except OSError:
        return []


def _bytes(entry: Path) -> int:
    total = 0
    for name in (_PIXELS, _INDEX):
        with contextlib.suppress(OSError):
            total += (entry / name).stat().st_size
    return total


def _delete(entry: Path) -> bool:
    """Deletes an entry whole or not at all: under a name by which nobody opens it.

    Windows renames no folder that holds a mapped file, and would delete the one file that is not mapped.
    """
    doomed = entry.with_name(f"{entry.name[:32]}.{secrets.token_hex(4)}.tmp")
    try:
        entry.rename(doomed)
        shutil.rmtree(doomed)
    except OSError:
        return False
    return True


def digest(pixels: np.ndarray) -> str:
    """128-bit BLAKE2b of uint8 (H, W, 3) pixels and their shape, in hexadecimal: how an image is known again."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(pixels))
    return state.hexdigest()


def fingerprint(relative_paths: list[str], labels: list[str], digests: list[str]) -> str:
    """SHA-256 over path, label and content of every image, whatever their order: the same data, the same text."""
    rows = sorted(zip(relative_paths, labels, digests, strict=True))
    text = "\n".join("\t".join(row) for row in rows)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _resize(image: Image.Image, size: int, roi: tuple[int, int, int, int] | None, path: str) -> np.ndarray:
    try:
        return images.resize(image, (size, size), roi or None)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error


def _decode(table: np.ndarray, size: int, pixels: np.ndarray, observer: Observer) -> Decoded:
    """Fills ``pixels``."""
    n = len(table)
    digests, inputs = [""] * n, [""] * n
    unreadable: dict[int, str] = {}
    paths = table["path"].tolist()
    rois = table["roi"].tolist()

    def work(start: int) -> int:
        stop = min(start + _CHUNK, n)
        for i in range(start, stop):
            try:
                image = images.decode(images.read(paths[i]), paths[i])
                pixels[i] = _resize(image, size, rois[i], paths[i])
            except BadImageError as error:
                unreadable[i] = str(error)
            else:
                inputs[i] = digest(pixels[i])
                same = image.size == (size, size) and rois[i] is None
                digests[i] = inputs[i] if same else digest(np.asarray(image))
        return stop - start

    done = 0
    with ThreadPoolExecutor(1 if images.median_side(paths) < _SMALL_SIDE else usable_cores()) as pool:
        for count in pool.map(work, range(0, n, _CHUNK)):
            done += count
            observer.progress("decoding", done, n)
    return Decoded(pixels=pixels, digests=digests, inputs=inputs, unreadable=dict(sorted(unreadable.items())))


def _key(table: np.ndarray, size: int) -> str | None:
    """Names what decides the pixels: the files as they are now, their boxes, the size and how images are read.

    None where that cannot be told: a drawn sign comes from this package's code.
    """
    state = hashlib.blake2b(f"{_FORMAT} {images.pixel_path()} {size}".encode(), digest_size=16)
    archives: dict[str, str] = {}
    for path, roi in zip(table["path"], table["roi"], strict=True):
        if images.has_scheme(path):
            return None
        inside = images.split_archive(path)
        if inside is None:
            mark = _mark(path)
        else:
            mark = archives.get(inside[0]) or archives.setdefault(inside[0], _mark(inside[0]))
        state.update(f"{path}\0{roi or ''}\0{mark}\n".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _mark(path: str) -> str:
    """What changes with a file's content, or with the right to read it."""
    try:
        found = os.stat(path)  # noqa: PTH116 - once for every image
    except OSError as error:
        return str(error.errno)
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def open_entry(entry: Path, size: int, observer: Observer | None = None) -> Decoded | None:
    """What the cache has under that name; None where it has nothing, or something damaged, which is removed."""
    if not entry.is_dir():
        return None
    try:
        index = json.loads((entry / _INDEX).read_text("utf-8"))
        digests, inputs = index["digests"], index["inputs"]
        unreadable = {int(row): str(reason) for row, reason in index["unreadable"].items()}
        pixels = np.memmap(entry / _PIXELS, np.uint8, "r", shape=(len(digests), size, size, 3))
        whole = len(digests) == len(inputs) and pixels.nbytes == (entry / _PIXELS).stat().st_size
        if not whole or not all(_rows_intact(pixels, inputs, unreadable)):
            raise ValueError("digests differ")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if observer is not None:
            observer.say(f"cache: {entry} is damaged ({error}); decoding anew")
        _delete(entry)
        return None
    # Used just now: the last to be deleted. A cache may be there to be read only.
    with contextlib.suppress(OSError):
        os.utime(entry / _INDEX)
    return Decoded(pixels=pixels, digests=digests, inputs=inputs, unreadable=unreadable, entry=entry)


def _rows_intact(pixels: np.ndarray, inputs: list[str], unreadable: dict[int, str]) -> list[bool]:
    def work(start: int) -> bool:
        rows = range(start, min(start + _CHUNK, len(inputs)))
        return all(not inputs[i] if i in unreadable else digest(pixels[i]) == inputs[i] for i in rows)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(work, range(0, len(inputs), _CHUNK)))


def _make_entry(cache: Path, key: str, table: np.ndarray, size: int, observer: Observer, leave: int) -> Decoded | None:
    """Decodes into a new entry; None where there is no room for one, which is said."""
    shape = (len(table), size, size, 3)
    making = cache / f"{key}.{secrets.token_hex(4)}.tmp"
    unkept = "decoding for this run only"
    try:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _evict(cache, math.prod(shape))
            with contextlib.suppress(FileExistsError), (cache / _TAG).open("x") as tag:
                tag.write(_TAG_TEXT)
            making.mkdir()
            if leave and shutil.disk_usage(cache).free < math.prod(shape) + leave:
                raise OSError(errno.ENOSPC, "the run itself needs the space")
            with (making / _PIXELS).open("w+b") as file:
                pixels = _map(file, shape)
        except OSError as error:
            observer.say(f"cache: {cache} cannot be written ({error.strerror or error}); {unkept}")
            return None
        decoded = _decode(table, size, pixels, observer)
        index = {
            "digests": decoded.digests,
            "inputs": decoded.inputs,
            "unreadable": {str(row): reason for row, reason in decoded.unreadable.items()},
        }
        try:
            pixels.flush()
            with (making / _INDEX).open("w", encoding="utf-8") as file:
                json.dump(index, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            observer.say(f"cache: {cache} cannot be written ({error.strerror or error}); {unkept}")
            pixels.flags.writeable = False
            return decoded
        # Windows renames no folder that holds a mapped file: what is mapped goes, and is mapped anew at its place.
        decoded = replace(decoded, pixels=np.empty(0, np.uint8))
        del pixels
        return _settle(making, cache / key, decoded, shape)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _settle(making: Path, entry: Path, decoded: Decoded, shape: tuple[int, ...]) -> Decoded:
    """Renames an entry that is whole to its place, and opens it there."""
    place: Path | None = entry
    try:
        making.rename(entry)
    except OSError:
        # Of two made at once the later finds the name taken.
        found = open_entry(entry, shape[1])
        if found is not None and len(found.digests) == len(decoded.digests):
            return found
        place = None
    pixels = np.memmap((place or making) / _PIXELS, np.uint8, "r", shape=shape)
    return replace(decoded, pixels=pixels, entry=place)


def _evict(cache: Path, wanted: int) -> None:
    """Deletes what was abandoned half-made a day ago, and the entries unused for longest beyond `KEPT_BYTES`."""
    kept = []
    total = wanted
    for entry in _entries(cache):
        with contextlib.suppress(OSError):
            n_bytes = (entry / _PIXELS).stat().st_size if (entry / _PIXELS).exists() else 0
            if entry.suffix != ".tmp":
                used = entry / _INDEX if (entry / _INDEX).exists() else entry
                kept.append((used.stat().st_mtime, n_bytes, entry))
            elif time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
            else:
                total += n_bytes
    for _, n_bytes, entry in sorted(kept, reverse=True):
        total += n_bytes
        if total > KEPT_BYTES:
            _delete(entry)


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    n_bytes = math.prod(shape)
    if n_bytes <= IN_MEMORY_BYTES:
        return np.zeros(shape, np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            return _map(file, shape)
    except OSError as error:
        raise SignsclfError(
            f"{tempfile.gettempdir()}: no room for {n_bytes / 1e9:.1f} GB of decoded images "
            f"({error.strerror or error}); make room there, set TMPDIR, or give a smaller --size"
        ) from error


def _map(file: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    # A mapped page that finds the disk full kills the process: take the room now, or say that there is none. Windows
    # takes it as the file grows.
    n_bytes = math.prod(shape)
    if os.name != "nt":
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _CANNOT_ALLOCATE:
                raise
            _fill(file, n_bytes)
    return np.memmap(file, np.uint8, "w+", shape=shape)


def _fill(file: IO[bytes], n_bytes: int) -> None:
    block = bytes(1 << 22)
    for start in range(0, n_bytes, len(block)):
        file.write(block[: n_bytes - start])
    file.flush()
