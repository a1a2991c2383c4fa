"""Decode every image of a table at the training size, in parallel: into a cache on disk, into memory, or as a stream.

The three kinds give the same pixels. A stream decodes its images whenever they are taken, and needs space for none;
only the digests of all are kept.

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

from signsclf import images
from signsclf.data.pixels import Pixels, StreamedPixels, decode_image, digest, threads_for
from signsclf.errors import BadImageError, SignsclfError
from signsclf.files import is_remote, user_path
from signsclf.imagefiles import remote
from signsclf.imagefiles.cachefolder import DIGESTS, INDEX, MAX_CACHE_BYTES, PIXELS, delete, make_space, users_folder
from signsclf.machine import available_memory, usable_cores
from signsclf.observer import Observer
from signsclf.text import size_text

IN_MEMORY_BYTES = 2 * 1024**3
"""With the cache off, a larger array is mapped from an unnamed temporary file, so that the system can drop its pages
when memory is short."""
MEMORY_SHARE = 0.5
"""Images that do not fit in the cache stay in memory up to this share of what is available."""
AUTO, OFF, STREAM = "auto", "off", "stream"
_FORMAT = 2
# What posix_fallocate raises on file systems that cannot reserve space.
_CANNOT_ALLOCATE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODEV)
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Cache:
    """How decoded images are kept.

    Attributes:
        folder: of the cache, for later runs too; None keeps nothing for them.
        streams: decode images whenever they are taken; None where they fit neither in the folder nor in memory.
        max_bytes: most bytes of an entry; None where the disk alone decides.
        processes: how many need them in memory.
    """

    folder: Path | None = None
    streams: bool | None = False
    max_bytes: int | None = None
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The decoded images of a table, row for row.

    Attributes:
        pixels: uint8 (n, size, size, 3), RGB, or their stream; rows of unreadable images are zero.
        digests: `digest` of each image's pixels as they are in the file; empty for unreadable images.
        inputs: `digest` of each row of ``pixels``, the network's input; empty for unreadable images.
        unreadable: row to the reason.
        entry: the cache entry of all rows, including those that `take` dropped; None without one.
    """

    pixels: Pixels
    digests: list[str]
    inputs: list[str]
    unreadable: dict[int, str]
    entry: Path | None = None

    def take(self, rows: Sequence[int]) -> Decoded:
        """Select rows, in this order; a large selection is mapped from an unnamed file, as in `decode_all`.

        Raises:
            SignsclfError: there is no space for that file.
        """
        if isinstance(self.pixels, StreamedPixels):
            pixels = self.pixels.take(rows)
        else:
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
    cache: Cache | None = None,
    observer: Observer | None = None,
    reserve_bytes: int = 0,
) -> Decoded:
    """Read, decode and resize every image of the table, or take them from the cache if that was done before.

    Args:
        table: ``path`` and ``roi`` are used.
        size: side in pixels.
        cache: None keeps nothing for later runs. Tables with synthetic signs are never cached, nor streamed.
        observer: told of progress, why the cache could not be used, and where the images are kept instead.
        reserve_bytes: bytes that a new entry must leave free on its disk.

    Raises:
        SignsclfError: there is neither a cache, nor space for a temporary file.
    """
    observer, cache = observer or Observer(), cache or Cache()
    n_bytes, full = len(table) * size * size * 3, ""
    key = None if cache.folder is None or cache.streams else _key(table, size)
    if key is not None:
        cached = open_entry(cache.folder / key, size, observer)
        if cached is not None and len(cached.digests) == len(table):
            return cached
        full = "" if cache.streams is False else _lacks_disk(cache, n_bytes, reserve_bytes)
        cached = None if full else _make_entry(cache.folder, key, table, size, observer, reserve_bytes)
        if cached is not None:
            return cached
    if cache.streams is False or _is_rendered(table):
        return _decode(table, size, _allocate((len(table), size, size, 3)), observer)
    if cache.streams is None:
        lacks = _lacks_memory(n_bytes * cache.processes)
        if full:
            observer.say(f"cache: {full}" + ("" if lacks else "; decoding into memory for this run only"))
        if not lacks:
            return _decode(table, size, np.zeros((len(table), size, size, 3), np.uint8), observer)
        observer.say(f"memory: {lacks}")
    observer.say("images: streamed, decoded anew in every epoch")
    return _stream(table, size, cache.folder, observer)


def decode_some(
    table: np.ndarray, rows: Sequence[int], size: int, cache: Cache | None = None, observer: Observer | None = None
) -> Decoded:
    """Decode these rows of a table alone, unless the cache holds the whole table: then they are taken from there.

    Args:
        rows: positions in the table.

    Raises:
        SignsclfError: see `decode_all`.
    """
    key = None if cache is None or cache.folder is None or cache.streams else _key(table, size)
    whole = None if key is None else open_entry(cache.folder / key, size, observer)
    if whole is not None and len(whole.digests) == len(table):
        return whole.take(rows)
    return decode_all(table[rows], size, cache, observer)


def choose_cache(choice: str | Path, observer: Observer | None = None, processes: int = 1) -> Cache:
    """Resolve ``--cache``: "auto" and a folder stream what fits neither there nor in memory, "stream" all.

    Args:
        observer: see `cache_folder`.
        processes: how many train together.

    Raises:
        SignsclfError: see `cache_folder`.
    """
    streams = {OFF: False, STREAM: True}.get(str(choice))
    most = MAX_CACHE_BYTES if str(choice) == AUTO else None
    return Cache(folder=cache_folder(choice, observer), streams=streams, max_bytes=most, processes=processes)


def cache_folder(choice: str | Path, observer: Observer | None = None) -> Path | None:
    """Resolve the folder of ``--cache``: "auto" and "stream" have the user's cache folder, "off" has None.

    The folder gets a CACHEDIR.TAG, so that backups leave it out.

    Args:
        observer: told where the user has no folder of their own.

    Raises:
        SignsclfError: it is not a valid folder name.
    """
    if str(choice) == OFF:
        return None
    if str(choice) in (AUTO, STREAM):
        folder = users_folder()
        if folder is None and observer is not None:
            observer.say("cache: this user has no home folder, so decoded images are not kept; --cache DIR keeps them")
        return folder
    if not str(choice):
        raise SignsclfError(f"--cache is empty; give a folder, {AUTO}, {STREAM} or {OFF}")
    return user_path(choice).absolute()


def fingerprint(relative_paths: list[str], labels: list[str], digests: list[str]) -> str:
    """Hash path, label and content of all images with SHA-256, independent of their order: a data set's identity."""
    rows = sorted(zip(relative_paths, labels, digests, strict=True))
    text = "\n".join("\t".join(row) for row in rows)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _lacks_disk(cache: Cache, n_bytes: int, reserve_bytes: int) -> str:
    """Tell why a new entry does not fit in the cache; "" where it does."""
    if cache.max_bytes is not None and n_bytes > cache.max_bytes:
        most = size_text(cache.max_bytes)
        return f"{size_text(n_bytes)} of pixels are more than it keeps ({most}); --cache DIR keeps them"
    try:
        free = shutil.disk_usage(next(path for path in (cache.folder, *cache.folder.parents) if path.exists())).free
    except OSError:
        return ""
    if free >= n_bytes + reserve_bytes:
        return ""
    return f"{size_text(n_bytes)} of pixels do not fit on the disk of {cache.folder} ({size_text(free)} are free)"


def _lacks_memory(n_bytes: int) -> str:
    """Tell why so many bytes do not fit in memory; "" where they do."""
    available = available_memory()
    most = IN_MEMORY_BYTES if available is None else int(MEMORY_SHARE * available)
    if n_bytes <= most:
        return ""
    return f"{size_text(n_bytes)} of pixels are more than it may take ({size_text(most)})"


def _is_rendered(table: np.ndarray) -> bool:
    return len(table) > 0 and table["path"][0].startswith("synthetic:")


def _decode(table: np.ndarray, size: int, pixels: np.ndarray | None, observer: Observer) -> Decoded:
    """Decode all images: into ``pixels``, or to stream them later, when only their digests are wanted."""
    n = len(table)
    digests, inputs = [""] * n, [""] * n
    unreadable: dict[int, str] = {}
    paths = table["path"].tolist()
    rois = table["roi"].tolist()

    def work(start: int) -> int:
        stop = min(start + _CHUNK, n)
        for i in range(start, stop):
            try:
                image, seen = decode_image(paths[i], rois[i], size)
            except BadImageError as error:
                unreadable[i] = str(error)
                continue
            if pixels is not None:
                pixels[i] = seen
            inputs[i] = digest(seen)
            same = image.size == (size, size) and rois[i] is None
            digests[i] = inputs[i] if same else digest(np.asarray(image))
        return stop - start

    done = 0
    with ThreadPoolExecutor(threads_for(paths)) as pool:
        for count in pool.map(work, range(0, n, _CHUNK)):
            done += count
            observer.progress("decoding", done, n)
    return Decoded(
        pixels=StreamedPixels(paths, rois, size, inputs) if pixels is None else pixels,
        digests=digests,
        inputs=inputs,
        unreadable=dict(sorted(unreadable.items())),
    )


def _stream(table: np.ndarray, size: int, folder: Path | None, observer: Observer) -> Decoded:
    """Stream the images; their digests are those of an entry without pixels, which is made where there is none."""
    key = None if folder is None else _key(table, size, STREAM)
    if key is None:
        return _decode(table, size, None, observer)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        digests, inputs, unreadable = _read_index(folder / key / DIGESTS)
        if len(digests) == len(inputs) == len(table):
            pixels = StreamedPixels(table["path"].tolist(), table["roi"].tolist(), size, inputs)
            return Decoded(pixels=pixels, digests=digests, inputs=inputs, unreadable=unreadable, entry=folder / key)
    decoded = _decode(table, size, None, observer)
    tmp_dir = folder / f"{key}.{secrets.token_hex(4)}.tmp"
    try:
        make_space(folder, 0)
        delete(folder / key)
        tmp_dir.mkdir()
        _write_index(tmp_dir / DIGESTS, decoded)
        tmp_dir.rename(folder / key)
    except OSError as error:
        observer.say(f"cache: {folder} cannot be written ({error.strerror or error}); digests are not kept")
        return decoded
    finally:
        shutil.rmtree(tmp_dir, ignore_errors=True)
    return replace(decoded, entry=folder / key)


def _key(table: np.ndarray, size: int, kind: str = "") -> str | None:
    """Hash all that decides the pixels: the files' current state, the boxes, the size and how images are read.

    None for synthetic signs, which depend on this package's code.

    Args:
        kind: of the entry, where it is not one with pixels.
    """
    state = hashlib.blake2b(f"{_FORMAT} {images.pixel_path()} {size}{kind}".encode(), digest_size=16)
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
    """Open an entry of the cache with pixels; None where there is none, or a damaged one, which is deleted."""
    if not entry.is_dir() or streamed_from(entry):
        return None
    try:
        digests, inputs, unreadable = _read_index(entry / INDEX)
        pixels = np.memmap(entry / PIXELS, np.uint8, "r", shape=(len(digests), size, size, 3))
        whole = len(digests) == len(inputs) and pixels.nbytes == (entry / PIXELS).stat().st_size
        if not whole or not all(_rows_intact(pixels, inputs, unreadable)):
            raise ValueError("digests differ")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if observer is not None:
            observer.say(f"cache: {entry} is damaged ({error}); decoding again")
        delete(entry)
        return None
    return Decoded(pixels=pixels, digests=digests, inputs=inputs, unreadable=unreadable, entry=entry)


def streamed_from(entry: Path) -> Cache | None:
    """Give the cache that streams by an entry; None where the entry has pixels, or is gone."""
    return Cache(folder=entry.parent, streams=True) if (entry / DIGESTS).is_file() else None


def _read_index(path: Path) -> tuple[list[str], list[str], dict[int, str]]:
    """Read digests, inputs and what is unreadable of an entry, and mark it as used, so that it is evicted last."""
    index = json.loads(path.read_text("utf-8"))
    unreadable = {int(row): str(reason) for row, reason in index["unreadable"].items()}
    # The cache may be read-only.
    with contextlib.suppress(OSError):
        os.utime(path)
    return index["digests"], index["inputs"], unreadable


def _write_index(path: Path, decoded: Decoded) -> None:
    index = {
        "digests": decoded.digests,
        "inputs": decoded.inputs,
        "unreadable": {str(row): reason for row, reason in decoded.unreadable.items()},
    }
    with path.open("w", encoding="utf-8") as file:
        json.dump(index, file)
        file.flush()
        os.fsync(file.fileno())


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
        try:
            pixels.flush()
            _write_index(tmp_dir / INDEX, decoded)
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
            f"{tempfile.gettempdir()}: no space for {size_text(n_bytes)} of decoded images "
            f"({error.strerror or error}); free space there, set TMPDIR, or give --cache stream or a smaller --size"
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
