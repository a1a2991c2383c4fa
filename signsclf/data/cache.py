"""Decodes every image of a table once, in parallel, into one uint8 array at the size that training reads."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, SignsclfError

IN_MEMORY_BYTES = 2 * 1024**3
"""A larger array lies in an unnamed temporary file and is mapped: the system drops its pages when memory is short."""
_CHUNK = 64


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


def decode_all(
    table: pd.DataFrame,
    size: int,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decoded:
    """Reads, decodes and squashes every image of the table.

    Args:
        table: ``path`` and ``roi`` are used.
        size: side in pixels.
        scratch: folder for the temporary file of an array over `IN_MEMORY_BYTES`; None takes the system's.
        progress: called with (images done, images in all).

    Raises:
        SignsclfError: there is no room for that file.
    """
    n = len(table)
    pixels = _allocate((n, size, size, 3), scratch)
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
                digests[i] = digest(np.asarray(image))
                inputs[i] = digest(pixels[i])
        return stop - start

    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for count in pool.map(work, range(0, n, _CHUNK)):
            done += count
            if progress is not None:
                progress(done, n)
    return Decoded(pixels, digests, inputs, dict(sorted(unreadable.items())))


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


def _allocate(shape: tuple[int, ...], scratch: Path | None) -> np.ndarray:
    n_bytes = math.prod(shape)
    if n_bytes <= IN_MEMORY_BYTES:
        return np.zeros(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            # A mapped page that finds the disk full kills the process: take the room now, or say that there is none.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise SignsclfError(
            f"{scratch or tempfile.gettempdir()}: no room for {n_bytes / 1e9:.1f} GB of decoded images "
            f"({error.strerror or error}); make room there, set TMPDIR, or give a smaller --size"
        ) from error
