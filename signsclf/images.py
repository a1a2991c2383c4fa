"""The one pixel path: training, the export gate, evaluate and predict open and resize every image here.

NumPy and Pillow only, so that a program which merely predicts loads nothing else.
"""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image

from signsclf.errors import BadImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".pnm", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: at three bytes a pixel this is 300 MB."""
MAX_BYTES = 256 * 1024 * 1024
"""Larger files, and larger members of a zip archive, are refused before they are read."""

RESIZING = "squash, bilinear"
"""How `resize` goes from one size to another, in words that change with it."""

READERS: dict[str, Callable[[str], bytes]] = {}
"""Scheme (the text before ``:``) to a function that gives such a path's encoded bytes: for drawn signs."""

# Named one by one, the commonest first: left to itself Pillow also tries kinds that start other programs (EPS
# runs Ghostscript), and loads all its plugins to do so.
_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
_CRLF_HEADER = re.compile(rb"P([56])\s+([0-9]{1,9})\s+([0-9]{1,9})\s+255\r\n")
_EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Opened once a thread: a ZipFile is not meant for several, and its directory is slow to read for every image.
_archives = threading.local()
_ARCHIVES_KEPT = 4
_SIZES_SAMPLED = 400
# Python unpacks the others (bzip2, LZMA) without a bound: 4 KB of bzip2 can become gigabytes in one step.
_BOUNDED_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# What files, and zipfile for damaged archives and members, are seen to raise.
_READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like that of an image that is read (upper case counts)."""
    return Path(name).suffix.lower() in SUFFIXES


def has_scheme(path: str) -> bool:
    """Whether a path is one of `READERS`' and not a file's."""
    scheme, _, rest = path.partition(":")
    return bool(rest) and scheme in READERS


def split_archive(path: str) -> tuple[str, str] | None:
    """``A.zip/member`` as (``A.zip``, ``member``) where ``A.zip`` is a file; None for any other path."""
    for found in re.finditer(r"\.zip(?=/)", path, re.IGNORECASE):
        archive = path[: found.end()]
        if Path(archive).is_file():
            return archive, path[found.end() + 1 :]
    return None


def open_archive(archive: str) -> zipfile.ZipFile:
    """This thread's open handle of a zip archive; a fresh one when the file has been replaced since.

    Raises:
        BadImageError: the archive cannot be opened.
    """
    handles: OrderedDict[str, tuple[tuple[int, ...], zipfile.ZipFile]]
    handles = _archives.__dict__.setdefault("handles", OrderedDict())
    try:
        stat = os.stat(archive)  # noqa: PTH116 - once for every image read
        # With the process's number: after a fork both sides would move one shared file position.
        stamp = (os.getpid(), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        stamped = handles.get(archive)
        if stamped and stamped[0] == stamp:
            handles.move_to_end(archive)
            return stamped[1]
        handle = zipfile.ZipFile(archive)
    except _READ_ERRORS as error:
        raise BadImageError(f"{archive}: not a zip archive that can be read ({error})") from error
    handles[archive] = (stamp, handle)
    handles.move_to_end(archive)
    if len(handles) > _ARCHIVES_KEPT:
        # Forgotten, not closed: whoever still holds it reads on, and the last to let go closes it.
        handles.popitem(last=False)
    return handle


def read(path: str | Path) -> bytes:
    """The encoded bytes of one image: a file, a member of a zip archive, or a registered scheme.

    Raises:
        BadImageError: it is not there, cannot be read, or is larger than `MAX_BYTES`.
    """
    path = str(path)
    try:
        file, most = _open(path)
        with file:
            data = file.read(most)
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error
    _refuse_bytes(path, len(data))
    return data


def size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels as stored, before any EXIF turn, from the header alone.

    Raises:
        BadImageError: it is not there, cannot be read, or is no image.
    """
    path = str(path)
    try:
        file, _ = _open(path)
        with file, Image.open(file, formats=_FORMATS) as image:
            return image.size
    except BadImageError:
        raise
    except Exception as error:  # As in `decode`.
        raise _unreadable(path, error) from error


def median_side(paths: list[str]) -> float:
    """Median over a sample of the geometric mean of width and height, in pixels."""
    step = max(1, len(paths) // _SIZES_SAMPLED)
    sides = []
    for path in paths[::step]:
        try:
            width, height = size(path)
        # Told by name when everything is decoded.
        except BadImageError:
            continue
        sides.append((width * height) ** 0.5)
    return float(np.median(sides)) if sides else 224.0


def decode(data: bytes, name: str = "image") -> Image.Image:
    """Encoded bytes as a whole RGB image, turned as its EXIF orientation says, alpha laid on white.

    Args:
        data: the bytes of an image file of a kind that Pillow reads.
        name: what to call the image in an error.

    Raises:
        BadImageError: no image, a truncated one, or one of over `MAX_PIXELS` pixels.
    """
    if not data:
        raise BadImageError(f"{name}: the file is empty")
    try:
        image = Image.open(io.BytesIO(_line_ends_restored(data)), formats=_FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImageError(f"{name}: {width}×{height} pixels are too many (at most {MAX_PIXELS:,})")
        image.load()
        return to_rgb(image)
    except BadImageError:
        raise
    # Pillow's plugins raise many kinds of error for damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        raise _unreadable(name, error, "damaged or truncated") from error


def _line_ends_restored(data: bytes) -> bytes:
    """A binary PPM or PGM file whose line ends a tool for texts has made CR LF, as it was before; all else as it is.

    Git does so on Windows to files that it takes for text. Pillow then reads the header's last LF as the first red
    and every colour from the channel before its own: red signs turn green.
    """
    head = _CRLF_HEADER.match(data)
    if head is None:
        return data
    wanted = int(head[2]) * int(head[3]) * (3 if head[1] == b"6" else 1)
    header = head[0].replace(b"\r\n", b"\n")
    # Only where the length proves it: the header alone has been changed, or the pixels' LFs with it.
    for pixels in (data[head.end() :], data[head.end() :].replace(b"\r\n", b"\n")):
        if len(pixels) == wanted:
            return header + pixels
    return data


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as upright 8-bit RGB: EXIF orientation applied, alpha laid on white, deep grey scaled.

    16-bit grey loses its low byte (65535 becomes 255). 32-bit integers are taken for 16-bit grey, or for
    8-bit where none is over 255; floats for 0 to 1, or for 0 to 255 where one is over 1. The rest is clipped.
    """
    kind = image.format
    image = _upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image, kind)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(image: Image.Image, size: tuple[int, int], roi: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """An RGB image as a uint8 array (height, width, 3), squashed to ``size`` = (height, width), bilinear.

    Args:
        roi: x1, y1, x2, y2 in pixels, inclusive as in GTSRB's files: cut out first. None takes the whole.

    Raises:
        BadImageError: the roi does not lie inside the image.
    """
    if roi is not None:
        x1, y1, x2, y2 = (int(v) for v in roi)
        # Pillow would fill what lies outside with black.
        if not (0 <= x1 <= x2 < image.width and 0 <= y1 <= y2 < image.height):
            raise BadImageError(f"the roi {x1},{y1},{x2},{y2} leaves the image of {image.width}×{image.height} pixels")
        image = image.crop((x1, y1, x2 + 1, y2 + 1))
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def load(path: str | Path, size: tuple[int, int], roi: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """One image from its path to a uint8 array (height, width, 3); see `read`, `decode` and `resize`."""
    image = decode(read(path), str(path))
    try:
        return resize(image, size, roi)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error


def thumbnail(path: str | Path, side: int = 256) -> np.ndarray:
    """One image to be looked at by a person: uint8 (height, width, 3), its own proportions, at most ``side`` pixels."""
    image = decode(read(path), str(path))
    image.thumbnail((side, side))
    return np.array(image, dtype=np.uint8)


def _open(path: str) -> tuple[IO[bytes], int]:
    """The encoded bytes of a path as a file, and how many to read at most: one more than it says it has."""
    if has_scheme(path):
        data = READERS[path.partition(":")[0]](path)
        return io.BytesIO(data), len(data)
    if inside := split_archive(path):
        archive, member = inside
        handle = open_archive(archive)
        try:
            info = handle.getinfo(member)
        except KeyError as error:
            raise BadImageError(f"{path}: no such member in the archive") from error
        _refuse_bytes(path, info.file_size)
        if info.flag_bits & 1:
            raise BadImageError(f"{path}: encrypted, so it cannot be read: unpack the archive first")
        if info.compress_type not in _BOUNDED_METHODS:
            raise BadImageError(f"{path}: compressed by a method that is not read: zip it with deflate")
        # Read with no bound, zipfile unpacks up to 2 GB before it looks at the size that it was told.
        return handle.open(info), info.file_size + 1
    length = Path(path).stat().st_size
    _refuse_bytes(path, length)
    # Pipes and devices say 0, whatever they hold.
    return Path(path).open("rb"), (length or MAX_BYTES) + 1


def _unreadable(name: str, error: Exception, what: str = "cannot be read") -> BadImageError:
    if isinstance(error, Image.UnidentifiedImageError):
        return BadImageError(f"{name}: not an image that can be read")
    if isinstance(error, Image.DecompressionBombError):
        return BadImageError(f"{name}: too many pixels (at most {MAX_PIXELS:,})")
    return BadImageError(f"{name}: {what} ({getattr(error, 'strerror', None) or error})")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _EXIF_TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # A damaged EXIF block, for which Pillow raises many kinds of error, harms no pixel.
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_8_bits(image: Image.Image, kind: str | None) -> Image.Image:
    values = np.array(image)  # A copy, then changed in place: large images fit into memory once.
    if image.mode == "F":
        np.nan_to_num(values, copy=False)
        if values.max() <= 1:
            values *= 255
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=values)
    else:
        np.clip(values, 0, 65535, out=values)
        # Pillow gives 16-bit PGM as 32-bit integers, and older releases PNG too.
        if image.mode != "I" or kind in ("PNG", "PPM") or values.max() > 255:
            values >>= 8
    return Image.fromarray(values.astype(np.uint8))


def _refuse_bytes(path: str, size: int) -> None:
    if size > MAX_BYTES:
        raise BadImageError(f"{path}: {size:,} bytes are too many (at most {MAX_BYTES:,})")
