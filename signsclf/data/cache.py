"""Decodes every image of a table once, in parallel, into one uint8 array at the size that training reads, and keeps it
in a folder for the runs to come.

An entry of the cache is a folder named by what decided its pixels: it is written under another name and renamed into
place, so that it is whole or not there, whoever else writes it too; and each row is checked against its digest when it
is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import platformdirs
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, SignsclfError
from signsclf.paths import user_path
from signsclf.threads import usable_cores

IN_MEMORY_BYTES = 2 * 1024**3
"""Without a cache, a larger array lies in an unnamed temporary file and is mapped: the system drops its pages when
memory is short."""
KEPT_BYTES = 20 * 1024**3
"""The entries used last are kept up to this sum; older ones are deleted when a new one is written."""
AUTO, OFF = "auto", "off"
_FORMAT = 2
_PIXELS, _INDEX = "pixels.bin", "index.json"
_NAME = re.compile(r"[0-9a-f]{32}(\.[0-9a-f]{8}\.tmp)?")
_ABANDONED_SECONDS = 24 * 3600
_CHUNK = 64
_SMALL_SIDE = 100.0
"""With smaller images decoding is mostly Python, of which one thread runs at a time: two take a fifth longer."""


@dataclass(frozen=True)
class Decoded:
    """The images of a table, row for row.

    Attributes:
        pixels: uint8 (n, size, size, 3), RGB; rows of unreadable images are zero.
        digests: `digest` of each image's pixels as they are in the file; empty for unreadable images.
        inputs: `digest` of each image's row in ``pixels``: what the network sees; empty likewise.
        unreadable: row position to the reason.
    """

    pixels: np.ndarray
    digests: list[str]
    inputs: list[str]
    unreadable: dict[int, str]

    def take(self, rows: Sequence[int]) -> Decoded:
        """These rows alone, in this order; many of them in an unnamed file, as `decode_all` has them.

        Raises:
            SignsclfError: there is no room for that file.
        """
        pixels = _allocate((len(rows), *self.pixels.shape[1:]))
        np.take(self.pixels, rows, axis=0, out=pixels)
        return Decoded(
            pixels,
            [self.digests[i] for i in rows],
            [self.inputs[i] for i in rows],
            {place: self.unreadable[i] for place, i in enumerate(rows) if i in self.unreadable},
        )


def decode_all(
    table: pd.DataFrame,
    size: int,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Decoded:
    """Every image of the table, read, decoded and squashed, or taken from the cache, where this was done before.

    Args:
        table: ``path`` and ``roi`` are used.
        size: side in pixels.
        cache: folder of the cache; None keeps nothing. Tables with drawn signs are never kept.
        progress: called with (images done, images in all).
        say: told, in a line, why the cache could not be used.

    Raises:
        SignsclfError: there is no cache and no room for a temporary file either.
    """
    key = None if cache is None else _key(table, size)
    if key is None:
        return _decode(table, size, _allocate((len(table), size, size, 3)), progress)
    found = _open_entry(cache / key, len(table), size, say)
    if found is None:
        try:
            found = _make_entry(cache, key, table, size, progress)
        except OSError as error:
            say(f"cache: {cache} cannot be written ({error.strerror or error}); decoding for this run only")
            return _decode(table, size, _allocate((len(table), size, size, 3)), progress)
    return found


def cache_folder(choice: str | Path) -> Path | None:
    """The folder that ``--cache`` means: "auto" is the user's own, "off" none.

    The folder is marked (CACHEDIR.TAG) as one that backups need not keep.
    """
    if str(choice) == OFF:
        return None
    return user_path(platformdirs.user_cache_dir("signsclf", False) if str(choice) == AUTO else choice).absolute()


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


def _decode(table: pd.DataFrame, size: int, pixels: np.ndarray, progress: Callable[[int, int], None] | None) -> Decoded:
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
            if progress is not None:
                progress(done, n)
    return Decoded(pixels, digests, inputs, dict(sorted(unreadable.items())))


def _key(table: pd.DataFrame, size: int) -> str | None:
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


def _open_entry(entry: Path, n: int, size: int, say: Callable[[str], None]) -> Decoded | None:
    """What the cache has under that name; None where it has nothing, or something damaged, which is removed."""
    if not entry.is_dir():
        return None
    try:
        index = json.loads((entry / _INDEX).read_text("utf-8"))
        digests, inputs = index["digests"], index["inputs"]
        unreadable = {int(row): str(reason) for row, reason in index["unreadable"].items()}
        pixels = np.memmap(entry / _PIXELS, np.uint8, "r", shape=(n, size, size, 3))
        whole = len(digests) == len(inputs) == n and pixels.nbytes == (entry / _PIXELS).stat().st_size
        if not whole or not all(_rows_intact(pixels, inputs, unreadable)):
            raise ValueError("digests differ")
        # Used just now: the last to be deleted.
        os.utime(entry / _INDEX)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        say(f"cache: {entry} is damaged ({error}); decoding anew")
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return Decoded(pixels, digests, inputs, unreadable)


def _rows_intact(pixels: np.ndarray, inputs: list[str], unreadable: dict[int, str]) -> list[bool]:
    def work(start: int) -> bool:
        rows = range(start, min(start + _CHUNK, len(inputs)))
        return all(not inputs[i] if i in unreadable else digest(pixels[i]) == inputs[i] for i in rows)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(work, range(0, len(inputs), _CHUNK)))


def _make_entry(
    cache: Path, key: str, table: pd.DataFrame, size: int, progress: Callable[[int, int], None] | None
) -> Decoded:
    """Decodes into a new entry.

    Raises:
        OSError: there is no room for it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    _tidy(cache, len(table) * size * size * 3)
    with contextlib.suppress(FileExistsError), (cache / "CACHEDIR.TAG").open("x") as tag:
        tag.write("Signature: 8a477f597d28d172789f06886806bc55\n# Images decoded by signsclf; may be deleted.\n")
    making = cache / f"{key}.{secrets.token_hex(4)}.tmp"
    making.mkdir()
    try:
        with (making / _PIXELS).open("w+b") as file:
            pixels = _map(file, (len(table), size, size, 3))
        decoded = _decode(table, size, pixels, progress)
        pixels.flush()
        index = {
            "digests": decoded.digests,
            "inputs": decoded.inputs,
            "unreadable": {str(row): reason for row, reason in decoded.unreadable.items()},
        }
        (making / _INDEX).write_text(json.dumps(index), "utf-8")
        # Of two made at once the later finds the name taken: its pages stay mapped, though they have no name any more.
        with contextlib.suppress(OSError):
            making.rename(cache / key)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    pixels.flags.writeable = False
    return decoded


def _tidy(cache: Path, wanted: int) -> None:
    """Deletes what was abandoned half-made a day ago, and the entries unused for longest beyond `KEPT_BYTES`."""
    kept = []
    for entry in cache.iterdir():
        if not _NAME.fullmatch(entry.name):
            continue
        with contextlib.suppress(OSError):
            if entry.suffix == ".tmp":
                if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
            else:
                kept.append(((entry / _INDEX).stat().st_mtime, (entry / _PIXELS).stat().st_size, entry))
    total = wanted
    for _, n_bytes, entry in sorted(kept, reverse=True):
        total += n_bytes
        if total > KEPT_BYTES:
            shutil.rmtree(entry, ignore_errors=True)


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
    # A mapped page that finds the disk full kills the process: take the room now, or say that there is none.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
    return np.memmap(file, np.uint8, "w+", shape=shape)
