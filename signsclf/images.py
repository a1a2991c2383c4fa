"""The one pixel path: training, the parity check, evaluate and predict all open and resize images here.

NumPy and Pillow only, so that a program that only predicts loads nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import struct
import threading
import weakref
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import PIL
from PIL import Image

from signsclf.errors import BadImageError, SignsclfError
from signsclf.files import is_remote
from signsclf.imagefiles import remote, tiff
from signsclf.imagefiles.depth import to_8_bits
from signsclf.imagefiles.kinds import HEAD, SUFFIXES, describe_kind, image_class, is_image_name, kind_of
from signsclf.imagefiles.pixelcount import webp_size

if TYPE_CHECKING:
    from signsclf.imagefiles.tars import TarArchive

__all__ = ["SUFFIXES", "is_image_name"]

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded, unless `limit_pixels` sets another limit. Pillow takes 4 bytes a
pixel, so this is 400 MB for each decoding thread."""
MAX_BYTES = 256 * 1024 * 1024
"""Larger files, and larger members of an archive, are refused before they are read; a higher limit of pixels raises
this one in proportion."""
PIXELS_VARIABLE = "SIGNSCLF_MAX_PIXELS"

RESIZING = "squash, bilinear; deep samples by their largest value"
"""Identifies how `decode` and `resize` turn a file into the network's pixels; to be changed whenever they change."""

BOUNDED_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""Compression methods of zip archives that are read. Python decompresses the others (bzip2, LZMA) without a limit: 4 KB
of bzip2 can become gigabytes in one step."""

SCHEMES = {"parquet": "signsclf.data.parquetimages", "synthetic": "signsclf.data.synthetic"}
"""Scheme (the text before ``:``) to the module whose ``read`` returns such a path's bytes; imported when needed."""

_CRLF_HEADER = re.compile(rb"P([56])\s+([0-9]{1,9})\s+([0-9]{1,9})\s+255\r\n")
_GAP = rb"(?:\s+|#[^\n]*\n)+"
_DEEP_PIXMAP = re.compile(rb"P([2356])%s([0-9]+)%s([0-9]+)%s(?!255\s)([0-9]{3,5})\s" % (_GAP, _GAP, _GAP))
_XMP_ORIENTATION = re.compile(r'tiff:Orientation(?:="|>)([2-8])')
_EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ARCHIVE = r"\.(?:zip|tgz|tar(?:\.gz)?)"
_ARCHIVE_NAME = re.compile(rf"{_ARCHIVE}\Z", re.IGNORECASE)
_IN_ARCHIVE = re.compile(rf"{_ARCHIVE}(?=/)", re.IGNORECASE)
_archives: OrderedDict[str, tuple[tuple[int, ...], zipfile.ZipFile | TarArchive]] = OrderedDict()
_archives_lock = threading.Lock()
_ARCHIVES_KEPT = 4
_MEMBERS_KEPT = 500_000
"""More archives than these are kept open while they have fewer members in all, as the shards of one data set have."""
_MOST_ARCHIVES = 128  # systems allow a process 256 open files at least
_SIZES_SAMPLED = 400
_NO_IMAGE = "not an image that can be read"
# What reading files raises, and what zipfile raises for damaged archives and members.
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


def max_pixels() -> int:
    """Return how many pixels an image may have: ``$SIGNSCLF_MAX_PIXELS`` where it is set, else `MAX_PIXELS`.

    Raises:
        SignsclfError: the variable is not a whole number of 1 or more.
    """
    text = os.environ.get(PIXELS_VARIABLE)
    if not text:
        return MAX_PIXELS
    try:
        limit = int(text)
    except ValueError:
        limit = 0
    if limit < 1:
        raise SignsclfError(f"${PIXELS_VARIABLE} is {text!r}, where it should be a number of pixels, 1 or more")
    return limit


def max_bytes() -> int:
    """Return how many bytes a file may have: `MAX_BYTES`, and proportionally more where `max_pixels` is raised."""
    return max(MAX_BYTES, MAX_BYTES * max_pixels() // MAX_PIXELS)


def limit_pixels(limit: int) -> None:
    """Set how many pixels an image may have, for this process and for those that it starts from now on.

    Raises:
        SignsclfError: it is not 1 or more.
    """
    if limit < 1:
        raise SignsclfError(f"the limit of pixels is {limit}, where it should be 1 or more")
    os.environ[PIXELS_VARIABLE] = str(limit)


def refuse_pixels(width: int, height: int) -> None:
    """Check an image's size against `max_pixels`, before memory is allocated for it.

    Raises:
        BadImageError: it has too many pixels.
    """
    limit = max_pixels()
    if width * height > limit:
        raise BadImageError(
            f"too many pixels ({width}×{height}, at most {limit:,}); "
            f"--max-pixels or ${PIXELS_VARIABLE} raises the limit"
        )


def pixel_path() -> str:
    """Describe everything but the file that decides an image's pixels, or whether it can be read: for cache keys."""
    decoders = [kind for kind in ("AVIF", "HEIF") if image_class(kind)]
    return f"Pillow {PIL.__version__}; {RESIZING}; at most {max_pixels()} pixels; {' '.join(decoders)}"


def has_scheme(path: str) -> bool:
    """Tell whether a path has one of `SCHEMES`, and so does not name a file."""
    scheme, _, rest = path.partition(":")
    return bool(rest) and scheme in SCHEMES


def is_archive(name: str) -> bool:
    """Tell whether a file's name is that of an archive that is read in place: .zip, .tar, .tar.gz or .tgz."""
    return bool(_ARCHIVE_NAME.search(name))


def split_archive(path: str) -> tuple[str, str] | None:
    """Split ``A.zip/member`` into (``A.zip``, ``member``) where ``A.zip`` is an archive; None for any other path."""
    for suffix in _IN_ARCHIVE.finditer(path):
        archive = path[: suffix.end()]
        # Unlike Path.is_file, os.path.isfile is False for names that are too long.
        if remote.is_object(archive) if is_remote(path) else os.path.isfile(archive):  # noqa: PTH113
            return archive, path[suffix.end() + 1 :]
    return None


def open_archive(archive: str) -> zipfile.ZipFile | TarArchive:
    """Return this process's handle of an archive, shared by all threads; a new one if a file on disk has changed.

    Raises:
        BadImageError: the archive cannot be opened.
    """
    # One handle for all threads: the directory of a million members takes half a gigabyte. Reading is thread-safe,
    # since zipfile holds a lock while it seeks and reads.
    with _archives_lock:
        try:
            # With the process id: after a fork, parent and child would share one file position.
            stat_key: tuple[int, ...] = (os.getpid(),)
            if not is_remote(archive):
                stat = os.stat(archive)  # noqa: PTH116 - once for every image read
                stat_key += (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            entry = _archives.get(archive)
            if entry and entry[0] == stat_key:
                _archives.move_to_end(archive)
                return entry[1]
            handle = _opened(archive)
        except OSError as error:
            raise _unreadable(archive, error) from error
        except _READ_ERRORS as error:
            kind = "zip" if archive.lower().endswith(".zip") else "tar"
            raise BadImageError(f"{archive}: not a {kind} archive that can be read ({error})") from error
        _archives[archive] = (stat_key, handle)
        _archives.move_to_end(archive)
        while len(_archives) > _ARCHIVES_KEPT and (len(_archives) > _MOST_ARCHIVES or _members() > _MEMBERS_KEPT):
            # Dropped, not closed: other threads may still read from it; it closes with the last reference.
            _archives.popitem(last=False)
        return handle


def _members() -> int:
    return sum(len(handle.NameToInfo) for _, handle in _archives.values())


def _opened(archive: str) -> zipfile.ZipFile | TarArchive:
    from signsclf.imagefiles.localcopies import decompressed, fetched
    from signsclf.imagefiles.tars import TarArchive

    on_disk = fetched(archive) if is_remote(archive) else Path(archive)
    file = (decompressed(on_disk, archive) if archive.lower().endswith("gz") else on_disk).open("rb")
    try:
        # Given a file and not a name: zipfile counts references to files that it opened itself without a lock.
        handle = zipfile.ZipFile(file) if archive.lower().endswith(".zip") else TarArchive(file)
    except BaseException:
        file.close()
        raise
    weakref.finalize(handle, file.close)
    return handle


def _forget_archives() -> None:
    """Reset the archives in a forked process: another thread may have held the lock."""
    global _archives_lock
    _archives_lock = threading.Lock()
    _archives.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_archives)


def read(path: str | Path) -> bytes:
    """Read the encoded bytes of one image: a file, an object in a store, a member of an archive, or one of `SCHEMES`.

    Raises:
        BadImageError: it does not exist, cannot be read, or is larger than `max_bytes`.
    """
    path = str(path)
    try:
        file, limit = _open(path)
        with file:
            data = file.read(limit)
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error
    _refuse_bytes(path, len(data))
    return data


def head(path: str, length: int) -> bytes:
    """Read the first bytes of what `read` returns.

    Raises:
        BadImageError: as `read`.
    """
    try:
        with _open(path)[0] as file:
            return file.read(length)
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def image_wh(path: str | Path) -> tuple[int, int]:
    """Read the width and height in pixels, as stored before any EXIF rotation, from the header alone.

    Raises:
        BadImageError: it does not exist, cannot be read, or is not an image.
    """
    path = str(path)
    try:
        file, _ = _open(path)
        with file, _own_limit():
            return _open_header(file)[1]
    except BadImageError as error:
        raise _named(path, error) from error
    except SignsclfError:
        raise
    except Exception as error:  # As in `decode`.
        raise _unreadable(path, error) from error


def header_wh(data: bytes, name: str = "image") -> tuple[int, int]:
    """Read the width and height in pixels, as stored, from the header of encoded bytes; see `image_wh`.

    Raises:
        BadImageError: they are not an image, or their header is damaged.
    """
    try:
        with _own_limit():
            return _open_header(io.BytesIO(data))[1]
    except BadImageError as error:
        raise _named(name, error) from error
    except SignsclfError:
        raise
    except Exception as error:  # As in `decode`.
        raise _unreadable(name, error, "damaged or truncated") from error


def median_side(paths: list[str]) -> float:
    """Estimate the median side in pixels (geometric mean of width and height) from an even sample of the paths."""
    step = max(1, len(paths) // _SIZES_SAMPLED)
    sides = []
    for path in paths[::step]:
        try:
            width, height = image_wh(path)
        # Reported with its name when all images are decoded.
        except BadImageError:
            continue
        sides.append((width * height) ** 0.5)
    return float(np.median(sides)) if sides else 224.0


def decode(data: bytes, name: str = "image") -> Image.Image:
    """Decode an image to upright RGB: EXIF orientation applied, alpha laid on white; see `to_rgb`.

    The format is detected from the content, whatever the file's name. Of animations, and of files with several images,
    the first image is taken. Safe to call from several threads; Pillow's own limit of pixels does not apply.

    Args:
        data: the bytes of an image file.
        name: what to call the image in an error.

    Raises:
        BadImageError: not an image, truncated, over `max_pixels` pixels, or of samples that cannot be converted to 8
            bits correctly.
    """
    try:
        with _own_limit():
            return _decode(_line_ends_restored(data))
    except BadImageError as error:
        raise _named(name, error) from error
    except SignsclfError:
        raise
    # Pillow's plugins raise many types of error for damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        raise _unreadable(name, error, "damaged or truncated") from error


def _decode(data: bytes) -> Image.Image:
    found, _ = _open_header(io.BytesIO(data))
    if isinstance(found, tiff.Header):
        return _rgb(tiff.decode(data, found), found.orientation)
    declared = None
    if found.format == "PNG":
        significant = _png_significant_bits(data)
        declared = 2**significant - 1 if significant else None
        if (whole := _whole_png_samples(found, data, declared)) is not None:
            return _rgb(whole, _orientation(found))
    elif found.format == "PPM" and (head := _DEEP_PIXMAP.match(data)):
        found.load()
        if int(head[4]) < 65535 and found.mode == "I":
            # Pillow has scaled such values to the full range of 16 bits.
            return _rgb(Image.fromarray((np.asarray(found) >> 8).astype(np.uint8)), 1)
        if head[1] == b"6" and int(head[4]) == 65535 and _is_low(found):
            values = np.frombuffer(data, ">u2", found.width * found.height * 3, head.end())
            return _scaled(values.astype(np.uint16).reshape(found.height, found.width, 3), None, None)
    elif found.format == "JPEG2000" and found.mode != "I;16" and _jpeg2000_bits(data) > 8:
        # When Pillow rounds such samples, white overflows to black.
        raise BadImageError("a JPEG 2000 with colours of more than 8 bits a sample; save it as an 8-bit PNG")
    found.load()
    return _rgb(found, _orientation(found), declared)


def _open_header(file: IO[bytes]) -> tuple[Any, tuple[int, int]]:
    """Open a file without decoding it, as a Pillow image or a TIFF header; return it and its checked size in pixels."""
    head = file.read(1024)
    if not head:
        raise BadImageError("the file is empty")
    kind = kind_of(head[:HEAD])
    opened = image_class(kind) if kind else None
    if opened is None:
        described = describe_kind(head)
        raise BadImageError(f"{_NO_IMAGE}: {described}" if described else _NO_IMAGE)
    file.seek(0)
    if kind == "TIFF":
        found = tiff.read_header(file)
    else:
        if kind == "WEBP":
            # Some releases of Pillow allocate the whole canvas when they open the file.
            refuse_pixels(*webp_size(head))
        found = opened(file)
    refuse_pixels(*found.size)
    return found, found.size


def _png_significant_bits(data: bytes) -> int | None:
    """Read the largest number of significant bits from a PNG's sBIT chunk; None where it has no such chunk."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"sBIT":
            return max(data[at + 8 : at + 8 + min(length, 4)], default=0) or None
        if kind in (b"PLTE", b"IDAT"):
            return None
        at += 12 + length
    return None


def _whole_png_samples(image: Any, data: bytes, declared: int | None) -> Image.Image | None:
    """Decode a 16-bit PNG of several bands whose low bytes matter, and convert it to 8 bits; None for all others.

    Pillow drops the low bytes. They matter where all values are small, and where a transparent colour has 16 bits.
    """
    args = image.tile[0][3] if image.tile else None
    rawmode = args[0] if isinstance(args, tuple) else args
    if rawmode not in ("RGB;16B", "RGBA;16B", "LA;16B"):
        return None
    image.load()
    transparent = image.info.get("transparency")
    if transparent is None and not _is_low(image):
        return None
    low = type(image)(io.BytesIO(data))
    # With the byte order swapped, Pillow keeps the low bytes. Grey with alpha is read as four bytes a pixel.
    swapped = "RGBA" if rawmode == "LA;16B" else rawmode.replace("16B", "16L")
    if rawmode == "LA;16B":
        low._mode = "RGBA"
    first = low.tile[0]
    low.tile = [(first[0], first[1], first[2], swapped)]
    low.load()
    small = np.asarray(low).astype(np.uint16)
    if rawmode == "LA;16B":
        values = small[..., 0::2] << 8 | small[..., 1::2]
    else:
        values = np.asarray(image).astype(np.uint16) << 8 | small
    return _scaled(values, declared, transparent)


def _is_low(image: Image.Image) -> bool:
    """Tell from the high bytes of 16-bit samples, truncated or rounded, whether the samples have at most 12 bits."""
    return max(high for _, high in cast("tuple[tuple[float, float], ...]", image.getextrema())) <= 16


def _jpeg2000_bits(data: bytes) -> int:
    """Read the bits a sample of the first band from the codestream's header; 0 where there is none."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 0


def _scaled(values: np.ndarray, declared: int | None, transparent: Any) -> Image.Image:
    """Convert deep samples (H, W) or (H, W, bands) to an 8-bit image, white where they are the transparent colour."""
    pixels = to_8_bits(values, declared)
    if isinstance(transparent, int | tuple):
        same = values == np.array(transparent)
        pixels = pixels.copy()
        pixels[same.all(axis=2) if values.ndim == 3 else same] = 255
    return Image.fromarray(pixels)


def _line_ends_restored(data: bytes) -> bytes:
    """Undo the conversion of LF to CR LF in a binary PPM or PGM file; return any other data unchanged.

    Git on Windows converts files that it takes for text. Pillow then reads the header's last LF as the first sample,
    and every colour from the channel before its own: red signs turn green.
    """
    head = _CRLF_HEADER.match(data)
    if head is None:
        return data
    wanted = int(head[2]) * int(head[3]) * (3 if head[1] == b"6" else 1)
    header = head[0].replace(b"\r\n", b"\n")
    # Only where the length proves it: either the header alone was converted, or the pixels too.
    for pixels in (data[head.end() :], data[head.end() :].replace(b"\r\n", b"\n")):
        if len(pixels) == wanted:
            return header + pixels
    return data


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to upright 8-bit RGB: EXIF orientation applied, alpha laid on white, deep grey scaled.

    Grey of 16 or 32 bits and floats are scaled by the largest value in the image, see `imagefiles.depth`: 16-bit
    samples lose their low byte (65535 becomes 255), unless all values fit in 8, 10 or 12 bits, which then set the
    scale. So a 16-bit image whose brightest pixel is under a sixteenth of the range is brightened.

    Raises:
        BadImageError: the deep samples fit no usual scale.
    """
    return _rgb(image, _orientation(image))


def _rgb(image: Image.Image, orientation: int, declared: int | None = None) -> Image.Image:
    if orientation in _EXIF_TURNS:
        image = image.transpose(_EXIF_TURNS[orientation])
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _scaled(np.asarray(image), declared, image.info.get("transparency"))
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        # The result is None only when converting in place.
        return cast(Image.Image, ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))
    return image if image.mode == "RGB" else image.convert("RGB")


def crop(image: Image.Image, roi: tuple[int, int, int, int] | None) -> Image.Image:
    """Crop an RGB image to x1, y1, x2, y2 in pixels, inclusive as in GTSRB's files; None takes the whole image.

    Raises:
        BadImageError: the roi does not lie inside the image.
    """
    if roi is None:
        return image
    x1, y1, x2, y2 = (int(v) for v in roi)
    # Pillow would fill the outside with black.
    if not (0 <= x1 <= x2 < image.width and 0 <= y1 <= y2 < image.height):
        raise BadImageError(f"the roi {x1},{y1},{x2},{y2} is not inside the {image.width}×{image.height} image")
    # Image.crop applies Pillow's own limit of pixels.
    box = Image.new("RGB", (x2 + 1 - x1, y2 + 1 - y1))
    box.paste(image, (-x1, -y1))
    return box


def resize(image: Image.Image, input_hw: tuple[int, int], roi: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Resize an RGB image to a uint8 array (height, width, 3), bilinear, ignoring its aspect ratio.

    Args:
        input_hw: (height, width) in pixels.
        roi: the box to `crop` first.

    Raises:
        BadImageError: the roi does not lie inside the image.
    """
    image = crop(image, roi)
    height, width = input_hw
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def load(path: str | Path, input_hw: tuple[int, int], roi: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Read, decode and resize one image to a uint8 array (height, width, 3); see `read`, `decode` and `resize`."""
    image = decode(read(path), str(path))
    try:
        return resize(image, input_hw, roi)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error


def thumbnail(path: str | Path, roi: tuple[int, int, int, int] | None = None, side: int = 256) -> np.ndarray:
    """Make a thumbnail to show to people: uint8 (height, width, 3) in its own aspect ratio, at most ``side`` pixels.

    Raises:
        BadImageError: it cannot be read, or the roi does not lie inside it.
    """
    image = crop(decode(read(path), str(path)), roi)
    image.thumbnail((side, side))
    return np.array(image, dtype=np.uint8)


def _open(path: str) -> tuple[IO[bytes], int]:
    """Open a path's encoded bytes as a file; return it and how many bytes to read: one more than its declared size."""
    if has_scheme(path):
        data = importlib.import_module(SCHEMES[path.partition(":")[0]]).read(path)
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
            raise BadImageError(f"{path}: encrypted, so it cannot be read; unpack the archive first")
        if info.compress_type not in BOUNDED_METHODS:
            raise BadImageError(f"{path}: compressed by a method that is not read; zip it with deflate")
        # Without a limit, zipfile decompresses up to 2 GB before it checks the declared size.
        return handle.open(member), info.file_size + 1
    if is_remote(path):
        file, length = remote.open_object(path)
        _refuse_bytes(path, length)
        return file, length + 1
    # os.stat, not Path: constructing a Path would take a tenth of a small image's time.
    length = os.stat(path).st_size  # noqa: PTH116
    limit = max_bytes()
    if length > limit:
        # For a video or an archive its type is more helpful than its size.
        with Path(path).open("rb") as file:
            if described := describe_kind(file.read(1024)):
                raise BadImageError(f"{path}: {_NO_IMAGE}: {described}")
        _refuse_bytes(path, length)
    # Pipes and devices have length 0.
    return open(path, "rb"), (length or limit) + 1  # noqa: PTH123


def _named(name: str, error: BadImageError) -> BadImageError:
    text = str(error)
    return error if text.startswith(f"{name}: ") else BadImageError(f"{name}: {text}")


def _unreadable(name: str, error: Exception, what: str = "cannot be read") -> BadImageError:
    if isinstance(error, MemoryError):
        return BadImageError(f"{name}: too large for the free memory")
    # Pillow wraps it in a SyntaxError.
    if struct.error in (type(error), type(error.__cause__)):
        return BadImageError(f"{name}: {what} (it ends too early)")
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return BadImageError(f"{name}: {what} ({reason})")


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 for upright: from the EXIF block, else from XMP, else from the tags of a TIFF."""
    info = image.info
    exif = info.get("exif")
    if exif is None and "Raw profile type exif" in info:
        with contextlib.suppress(ValueError, TypeError):
            exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
    turn = tiff.exif_orientation(exif) if isinstance(exif, bytes) else 1
    if turn == 1:
        xmp = info.get("xmp", info.get("XML:com.adobe.xmp", ""))
        xmp = xmp.decode("utf-8", "ignore") if isinstance(xmp, bytes) else str(xmp)
        found = _XMP_ORIENTATION.search(xmp)
        turn = int(found[1]) if found else getattr(image, "tag_v2", {}).get(274, 1)
    return turn


_limits = threading.local()
_pillows_check: Any = getattr(Image, "_decompression_bomb_check", None)


def _check_pixels(*args: Any, **options: Any) -> None:
    """Replace Pillow's check of image sizes by `refuse_pixels` while this module decodes an image.

    Pillow's limit is a global that belongs to the program that imports this package, so it is left as it is.
    """
    if getattr(_limits, "own", False):
        refuse_pixels(*args[0])
    else:
        _pillows_check(*args, **options)


if _pillows_check is not None:
    Image._decompression_bomb_check = _check_pixels


@contextlib.contextmanager
def _own_limit() -> Iterator[None]:
    before = getattr(_limits, "own", False)
    _limits.own = True
    try:
        yield
    finally:
        _limits.own = before


def _refuse_bytes(path: str, size: int) -> None:
    limit = max_bytes()
    if size > limit:
        raise BadImageError(f"{path}: too large ({size:,} bytes, at most {limit:,})")
