"""Decode images to the training size: one, or those of a table whenever they are taken, never held all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, SourceError
from signsclf.files import is_remote
from signsclf.machine import usable_cores

_WAITING_THREADS = 16  # for images in stores, which spend most time on the way
_SMALL_SIDE = 100.0
"""Smaller images spend most time in Python code, which holds the GIL: two threads take a fifth longer than one."""
_AT_ONCE = 8

Roi = tuple[int, int, int, int]


class StreamedPixels:
    """Images of files, indexed like a uint8 array (n, size, size, 3); they are decoded whenever they are taken.

    Each image that is taken has the pixels that it had when its digest was computed. Indexed by an integer, a slice, or
    an array of integers or booleans.

    Args:
        paths, rois: of each image, see `signsclf.data.rows`.
        size: side in pixels.
        inputs: `digest` of each image at that size; rows without one are zero.
    """

    def __init__(self, paths: Sequence[str], rois: Sequence[Roi | None], size: int, inputs: Sequence[str]) -> None:
        self.paths, self.rois, self.size, self.inputs = paths, rois, size, inputs
        self.threads = threads_for(paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of an array."""
        return len(self.paths), self.size, self.size, 3

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Decode some images.

        Raises:
            SourceError: a file has changed, or can no longer be read.
        """
        if isinstance(key, (int, np.integer)):
            return self._decode(np.array([key]))[0]
        if isinstance(key, slice):
            return self._decode(np.arange(*key.indices(len(self))))
        rows = np.asarray(key)
        return self._decode(np.flatnonzero(rows) if rows.dtype == bool else rows)

    def take(self, rows: Sequence[int]) -> StreamedPixels:
        """Select images, in this order; none is decoded."""
        taken = StreamedPixels.__new__(StreamedPixels)
        taken.paths, taken.rois, taken.inputs = ([of[i] for i in rows] for of in (self.paths, self.rois, self.inputs))
        taken.size, taken.threads = self.size, self.threads
        return taken

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        pixels = np.zeros((len(rows), self.size, self.size, 3), np.uint8)

        def work(start: int) -> None:
            for place in range(start, min(start + _AT_ONCE, len(rows))):
                row = int(rows[place])
                if self.inputs[row]:
                    pixels[place] = self._image(row)

        starts = range(0, len(rows), _AT_ONCE)
        if self.threads == 1 or len(starts) <= 1:
            for start in starts:
                work(start)
        else:
            with ThreadPoolExecutor(min(self.threads, len(starts))) as pool:
                list(pool.map(work, starts))
        return pixels

    def _image(self, row: int) -> np.ndarray:
        path = self.paths[row]
        try:
            pixels = decode_image(path, self.rois[row], self.size)[1]
            reason = "" if digest(pixels) == self.inputs[row] else f"{path}: other pixels than at the start"
        except BadImageError as error:
            reason = str(error)
        if reason:
            raise SourceError(
                f"{reason}; streamed images must stay as they are: put it back and run again, a training with --resume"
            )
        return pixels


Pixels = np.ndarray | StreamedPixels
"""Decoded images, uint8 (n, size, size, 3): an array in memory, one mapped from a file, or streamed."""


def decode_image(path: str, roi: Roi | None, size: int) -> tuple[Image.Image, np.ndarray]:
    """Decode one image: the whole as it is in the file, and what the network sees, uint8 (size, size, 3).

    Raises:
        BadImageError: it cannot be read, or the box lies outside of it.
    """
    image = images.decode(images.read(path), path)
    try:
        return image, images.resize(image, (size, size), roi or None)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error


def digest(pixels: np.ndarray) -> str:
    """Hash uint8 (H, W, 3) pixels and their shape with 128-bit BLAKE2b, in hexadecimal: an image's identity."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(pixels))
    return state.hexdigest()


def threads_for(paths: Sequence[str]) -> int:
    """Choose how many threads decode these images together, by where they are and how large some of them are."""
    if is_remote(paths[0]):
        return _WAITING_THREADS
    # Synthetic images have no header to look at: each one looked at is rendered.
    in_python = images.has_scheme(paths[0]) or images.median_side(paths) < _SMALL_SIDE
    return 1 if in_python else usable_cores()
