"""The one pixel path: every image, for training, the export gate, evaluate and predict, is opened and resized here.

NumPy and Pillow only, so that a program which merely predicts loads nothing else.
"""

from __future__ import annotations

import io
import threading
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from signsclf.errors import BadImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".pnm", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: at three bytes a pixel this is 300 MB."""
MAX_BYTES = 256 * 1024 * 1024
"""Larger files, and larger members of a zip archive, are refused before they are read."""

READERS: dict[str, Callable[[str], bytes]] = {}
"""Scheme (the text before ``:``) to a function that gives the encoded bytes of such a path: drawn signs register here."""

# Opened once a thread: a ZipFile's file position is shared, and its directory is slow to read again for every image.
_archives = threading.local()
_ARCHIVES_KEPT = 4


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like that of an image that is read (upper case counts)."""
    return Path(name).suffix.lower() in SUFFIXES


def split_archive(path: str) -> tuple[str, str] | None:
    """``A.zip/member`` as (``A.zip``, ``member``) where ``A.zip`` is a file; None for any other path."""
    lower = path.lower()
    start = lower.find(".zip/")
    while start >= 0:
        archive = path[: start + 4]
        if Path(archive).is_file():
            return archive, path[start + 5 :]
        start = lower.find(".zip/", start + 1)
    return None


def open_archive(archive: str) -> zipfile.ZipFile:
    """This thread's open handle of a zip archive.

    Raises:
        BadImageError: the archive cannot be opened.
    """
    handles: OrderedDict[str, zipfile.ZipFile] = _archives.__dict__.setdefault("handles", OrderedDict())
    if archive in handles:
        handles.move_to_end(archive)
        return handles[archive]
    try:
        handle = zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadImageError(f"{archive}: not a zip archive that can be read ({error})") from error
    handles[archive] = handle
    if len(handles) > _ARCHIVES_KEPT:
        handles.popitem(last=False)[1].close()
    return handle


def read(path: str | Path) -> bytes:
    """The encoded bytes of one image: a file, a member of a zip archive, or a registered scheme.

    Raises:
        BadImageError: it is not there, cannot be read, or is larger than `MAX_BYTES`.
    """
    path = str(path)
    scheme, _, rest = path.partition(":")
    if rest and scheme in READERS:
        return READERS[scheme](path)
    if inside := split_archive(path):
        archive, member = inside
        try:
            handle = open_archive(archive)
            info = handle.getinfo(member)
            _refuse_bytes(path, info.file_size)
            return handle.read(info)
        except KeyError as error:
            raise BadImageError(f"{path}: no such member in the archive") from error
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
            raise BadImageError(f"{path}: cannot be read from the archive ({error})") from error
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    _refuse_bytes(path, len(data))
    return data


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImageError(f"{name}: {width}×{height} pixels are too many (at most {MAX_PIXELS:,})")
            image.load()
            return to_rgb(image)
    except BadImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"{name}: not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"{name}: too many pixels (at most {MAX_PIXELS:,})") from error
    # Pillow's plugins raise many kinds of error for damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        raise BadImageError(f"{name}: damaged or truncated ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as upright 8-bit RGB: EXIF orientation applied, 16 bits scaled to 8, alpha laid on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode == "I":
        values = np.asarray(image)
        # Pillow gives 16-bit PGM, and some PNG, as 32-bit integers.
        image = Image.fromarray((np.clip(values, 0, 65535) >> (8 if values.max() > 255 else 0)).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        image = Image.fromarray(np.clip(values * (255 if values.max() <= 1 else 1), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(image: Image.Image, size: tuple[int, int], roi: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """An RGB image as a uint8 array (height, width, 3), squashed to ``size`` = (height, width) with bilinear filtering.

    Args:
        roi: x1, y1, x2, y2 in pixels, inclusive as in GTSRB's files: cut out first. None takes the whole image.
    """
    if roi is not None:
        x1, y1, x2, y2 = (int(v) for v in roi)
        image = image.crop((x1, y1, x2 + 1, y2 + 1))
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def load(path: str | Path, size: tuple[int, int], roi: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """One image from its path to a uint8 array (height, width, 3); see `read`, `decode` and `resize`."""
    return resize(decode(read(path), str(path)), size, roi)


def _refuse_bytes(path: str, size: int) -> None:
    if size > MAX_BYTES:
        raise BadImageError(f"{path}: {size:,} bytes are too many (at most {MAX_BYTES:,})")
