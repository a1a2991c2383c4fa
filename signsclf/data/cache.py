"""Decode every image of a table once, in parallel, into one uint8 array at the training size, and cache it on disk.

An entry of the cache is a folder named by a hash of all that decides its pixels. It is written under a temporary name
and renamed, so that it is complete or absent even if several processes write it; each row is checked against its digest
when the entry is opened. If the cache cannot be used, the user is told and the images are decoded; the run goes on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, SignsclfError
from signsclf.files import is_remote, user_path
from signsclf.imagefiles import remote
from signsclf.imagefiles.cachefolder import INDEX, PIXELS, delete, make_space, users_folder
from signsclf.observer import Observer
from signsclf.threads import usable_cores

_WAITING_THREADS = 16  # for images in stores, which spend most time on the way
IN_MEMORY_BYTES = 2 * 1024**3
"""Without a cache, a larger array is mapped from an unnamed temporary file, so that the system can drop its pages when
memory is short."""
AUTO, OFF = "auto", "off"
_FORMAT = 2
# What posix_fallocate raises on file systems that cannot reserve space.
_CANNOT_ALLOCATE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODEV)
_CHUNK = 64
_SMALL_SIDE = 100.0
"""Smaller images spend most time in Python code, which holds the GIL: two threads take a fifth longer than one."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The decoded images of a table, row for row.

    Attributes:
        pixels: uint8 (n, size, size, 3), RGB; rows of unreadable images are zero.
        digests: `digest` of each image's pixels as they are in the file; empty for unreadable images.
        inputs: `digest` of each row of ``pixels``, the network's input; empty for unreadable images.
        unreadable: row to the reason.
        entry: the cache entry with all rows, including those that `take` dropped; None without one.
    """

    pixels: np.ndarray
    digests: list[str]
    inputs: list[str]
    unreadable: dict[int, str]
    entry: Path | None = None

    def take(self, rows: Sequence[int]) -> Decoded:
        """Select rows, in this order; a large selection is mapped from an unnamed file, as in `decode_all`.

        Raises:
            SignsclfError: there is no space for that file.
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

    def placed(self, rows: Sequence[int], n: int) -> Decoded:
        """Place these images at ``rows`` of ``n``; the other rows are zero and have no digests.

        Raises:
            SignsclfError: there is no space for the array.
        """
        pixels = _allocate((n, *self.pixels.shape[1:]))
        pixels[rows] = self.pixels
        digests, inputs = [""] * n, [""] * n
        for place, row in enumerate(rows):
            digests[row], inputs[row] = self.digests[place], self.inputs[place]
        unreadable = {int(rows[place]): reason for place, reason in self.unreadable.items()}
        return Decoded(pixels=pixels, digests=digests, inputs=inputs, unreadable=unreadable)


def decode_all(
    table: np.ndarray,
    size: int,
    cache: Path | None = None,
    observer: Observer | None = None,
    reserve_bytes: int = 0,
) -> Decoded:
    """Read, decode and resize every image of the table, or take them from the cache if that was done before.

    Args:
        table: ``path`` and ``roi`` are used.
        size: side in pixels.
        cache: folder of the cache; None caches nothing. Tables with synthetic signs are never cached.
        observer: told of progress, and why the cache could not be used.
        reserve_bytes: bytes that a new entry must leave free on its disk.

    Raises:
        SignsclfError: there is no cache, and no space for a temporary file either.
    """
    observer = observer or Observer()
    key = None if cache is None else _key(table, size)
    if key is not None:
        cached = open_entry(cache / key, size, observer)
        if cached is None or len(cached.digests) != len(table):
            cached = _make_entry(cache, key, table, size, observer, reserve_bytes)
        if cached is not None:
            return cached
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
    """Resolve ``--cache``: "auto" is the user's cache folder, "off" is None.

    The folder gets a CACHEDIR.TAG, so that backups leave it out.

    Args:
        observer: told where the user has no folder of their own.

    Raises:
        SignsclfError: it is not a valid folder name.
    """
    if str(choice) == OFF:
        return None
    if str(choice) == AUTO:
        folder = users_folder()
        if folder is None and observer is not None:
            observer.say("cache: this user has no home folder, so decoded images are not kept; --cache DIR keeps them")
        return folder
    if not str(choice):
        raise SignsclfError(f"--cache is empty; give a folder, {AUTO} or {OFF}")
    return user_path(choice).absolute()


def digest(pixels: np.ndarray) -> str:
    """Hash uint8 (H, W, 3) pixels and their shape with 128-bit BLAKE2b, in hexadecimal: an image's identity."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(pixels))
    return state.hexdigest()


def fingerprint(relative_paths: list[str], labels: list[str], digests: list[str]) -> str:
    """Hash path, label and content of all images with SHA-256, independent of their order: a data set's identity."""
    rows = sorted(zip(relative_paths, labels, digests, strict=True))
    text = "\n".join("\t".join(row) for row in rows)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _resize(image: Image.Image, size: int, roi: tuple[int, int, int, int] | None, path: str) -> np.ndarray:
    try:
        return images.resize(image, (size, size), roi or None)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error


def _decode(table: np.ndarray, size: int, pixels: np.ndarray, observer: Observer) -> Decoded:
    """Decode all images into ``pixels``."""
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
    with ThreadPoolExecutor(_threads(paths)) as pool:
        for count in pool.map(work, range(0, n, _CHUNK)):
            done += count
            observer.progress("decoding", done, n)
    return Decoded(pixels=pixels, digests=digests, inputs=inputs, unreadable=dict(sorted(unreadable.items())))


def _threads(paths: list[str]) -> int:
    if is_remote(paths[0]):
        return _WAITING_THREADS
    # Synthetic images have no header to look at: each one looked at is rendered.
    in_python = images.has_scheme(paths[0]) or images.median_side(paths) < _SMALL_SIDE
    return 1 if in_python else usable_cores()


def _key(table: np.ndarray, size: int) -> str | None:
    """Hash all that decides the pixels: the files' current state, the boxes, the size and how images are read.

    None for synthetic signs, which depend on this package's code.
    """
    state = hashlib.blake2b(f"{_FORMAT} {images.pixel_path()} {size}".encode(), digest_size=16)
    archives: dict[str, str] = {}
    objects = _states(table["path"])
    for path, roi in zip(table["path"], table["roi"], strict=True):
        if images.has_scheme(path):
            return None
        inside = images.split_archive(path)
        if inside is None:
            stat_key = objects.get(path, "") if is_remote(path) else _stat_key(path)
        else:
            stat_key = archives.get(inside[0]) or archives.setdefault(inside[0], _stat_key(inside[0]))
        state.update(f"{path}\0{roi or ''}\0{stat_key}\n".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _states(paths: Iterable[str]) -> dict[str, str]:
    """Return the states of the objects in stores among some paths; empty where a store does not tell them."""
    with contextlib.suppress(OSError):
        found = remote.look_all([path for path in paths if is_remote(path) and not images.split_archive(path)])
        return {address: entry.state for address, entry in found.items()}
    return {}


def _stat_key(path: str) -> str:
    """Return a text that changes with a file's content, or with the permission to read it."""
    try:
        if is_remote(path):
            return getattr(remote.look(path), "state", "")
        found = os.stat(path)  # noqa: PTH116 - once for every image
    except OSError as error:
        return str(error.errno)
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def open_entry(entry: Path, size: int, observer: Observer | None = None) -> Decoded | None:
    """Open an entry of the cache; None where there is none, or a damaged one, which is deleted."""
    if not entry.is_dir():
        return None
    try:
        index = json.loads((entry / INDEX).read_text("utf-8"))
        digests, inputs = index["digests"], index["inputs"]
        unreadable = {int(row): str(reason) for row, reason in index["unreadable"].items()}
        pixels = np.memmap(entry / PIXELS, np.uint8, "r", shape=(len(digests), size, size, 3))
        whole = len(digests) == len(inputs) and pixels.nbytes == (entry / PIXELS).stat().st_size
        if not whole or not all(_rows_intact(pixels, inputs, unreadable)):
            raise ValueError("digests differ")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if observer is not None:
            observer.say(f"cache: {entry} is damaged ({error}); decoding again")
        delete(entry)
        return None
    # Mark it as used now, so that it is evicted last. The cache may be read-only.
    with contextlib.suppress(OSError):
        os.utime(entry / INDEX)
    return Decoded(pixels=pixels, digests=digests, inputs=inputs, unreadable=unreadable, entry=entry)


def _rows_intact(pixels: np.ndarray, inputs: list[str], unreadable: dict[int, str]) -> list[bool]:
    def work(start: int) -> bool:
        rows = range(start, min(start + _CHUNK, len(inputs)))
        return all(not inputs[i] if i in unreadable else digest(pixels[i]) == inputs[i] for i in rows)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(work, range(0, len(inputs), _CHUNK)))


def _make_entry(
    cache: Path, key: str, table: np.ndarray, size: int, observer: Observer, reserve_bytes: int
) -> Decoded | None:
    """Decode into a new entry; None, with a message to the user, where it cannot be written."""
    shape = (len(table), size, size, 3)
    tmp_dir = cache / f"{key}.{secrets.token_hex(4)}.tmp"
    fallback = "decoding for this run only"
    try:
        try:
            make_space(cache, math.prod(shape))
            tmp_dir.mkdir()
            if reserve_bytes and shutil.disk_usage(cache).free < math.prod(shape) + reserve_bytes:
                raise OSError(errno.ENOSPC, "the run itself needs the space")
            with (tmp_dir / PIXELS).open("w+b") as file:
                pixels = _map(file, shape)
        except OSError as error:
            observer.say(f"cache: {cache} cannot be written ({error.strerror or error}); {fallback}")
            return None
        decoded = _decode(table, size, pixels, observer)
        index = {
            "digests": decoded.digests,
            "inputs": decoded.inputs,
            "unreadable": {str(row): reason for row, reason in decoded.unreadable.items()},
        }
        try:
            pixels.flush()
            with (tmp_dir / INDEX).open("w", encoding="utf-8") as file:
                json.dump(index, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            observer.say(f"cache: {cache} cannot be written ({error.strerror or error}); {fallback}")
            pixels.flags.writeable = False
            return decoded
        # Windows cannot rename a folder that holds a mapped file: unmap it first, and map it again after the rename.
        decoded = replace(decoded, pixels=np.empty(0, np.uint8))
        del pixels
        return _publish(tmp_dir, cache / key, decoded, shape)
    finally:
        shutil.rmtree(tmp_dir, ignore_errors=True)


def _publish(tmp_dir: Path, entry: Path, decoded: Decoded, shape: tuple[int, ...]) -> Decoded:
    """Rename a complete entry to its final place, and open it there."""
    published: Path | None = entry
    try:
        tmp_dir.rename(entry)
    except OSError:
        # Another process published the same entry first.
        other = open_entry(entry, shape[1])
        if other is not None and len(other.digests) == len(decoded.digests):
            return other
        published = None
    pixels = np.memmap((published or tmp_dir) / PIXELS, np.uint8, "r", shape=shape)
    return replace(decoded, pixels=pixels, entry=published)


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    n_bytes = math.prod(shape)
    if n_bytes <= IN_MEMORY_BYTES:
        return np.zeros(shape, np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            return _map(file, shape)
    except OSError as error:
        raise SignsclfError(
            f"{tempfile.gettempdir()}: no space for {n_bytes / 1e9:.1f} GB of decoded images "
            f"({error.strerror or error}); free space there, set TMPDIR, or give a smaller --size"
        ) from error


def _map(file: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    # Writing to a mapped page kills the process if the disk is full, so reserve the space now. Windows allocates it
    # when the file grows.
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
