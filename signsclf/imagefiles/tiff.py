"""Read TIFF files: first the header, which decides whether Pillow and libtiff read the file correctly, then the pixels.

Pillow gets a rewritten header with only those tags of the first image that its pixels need. So damaged metadata causes
no warnings, a hostile file cannot exploit it, and all releases of Pillow read alike. Samples of more than 8 bits are
read as bytes, since Pillow drops some of them or mixes up planes.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

import numpy as np
from PIL import Image

from signsclf.errors import BadImageError
from signsclf.imagefiles.depth import to_8_bits

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 256, 257, 258, 259, 262, 266
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _HIGHEST, _PLANAR = 273, 274, 277, 278, 279, 281, 284
_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 317, 322, 323, 324, 325
_EXTRA, _FORMAT, _RAW, _SUBFILE, _SUBIFDS = 338, 339, 50706, 254, 330
_COPIED = (_FILL, 292, 293, 320, 347, 529, 530, 531, 532)
"""Tags copied unchanged: bit order, fax options, palette, JPEG tables, parameters of YCbCr."""
_LONGS = {_OFFSETS, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS, 292, 293}
_NEEDED = {*range(256, 260), _PHOTOMETRIC, _OFFSETS, _ORIENTATION, *range(277, 280), _HIGHEST, _PLANAR, _PREDICTOR}
_NEEDED |= {*range(322, 326), _EXTRA, _FORMAT, _RAW, _SUBFILE, _SUBIFDS, *_COPIED}

_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_RATIONAL = 5
_MAX_VALUES = 2_000_000
"""A tag with more values is refused; the tallest image with a strip for every row has fewer."""

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Photometric interpretation to its number of bands: grey (white or black is 0), RGB, palette, CMYK, YCbCr, Lab."""
_BYTE_CODECS = {1, 5, 8, 32773, 32946, 34925, 50000}
"""Compressions of arbitrary bytes: none, LZW, Deflate, PackBits, LZMA, Zstandard."""
_PICTURE_CODECS = {2, 3, 4, 6, 7, 32771, 32809, 50001}
_CODEC_NAMES = {34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG"}
_FORMAT_NAMES = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}


@dataclass(frozen=True, kw_only=True)
class Header:
    """The tags of a TIFF file's first image.

    Attributes:
        order: the byte order, "<" or ">".
        tags: number of each tag that the pixels need to its values.
    """

    order: str
    tags: dict[int, tuple[int, ...]]

    def one(self, tag: int, default: int) -> int:
        """Return a tag's first value."""
        return self.tags.get(tag, (default,))[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""
        return self.one(_WIDTH, 0), self.one(_HEIGHT, 0)

    @property
    def orientation(self) -> int:
        """The orientation as in EXIF: 1 for upright."""
        return self.one(_ORIENTATION, 1)


def read_header(file: IO[bytes]) -> Header:
    """Read the first image's tags.

    Raises:
        BadImageError: the header is damaged.
    """
    try:
        header = _parse(file, _NEEDED)
    except (struct.error, KeyError, OverflowError) as error:
        raise BadImageError("damaged or truncated (its header)") from error
    width, height = header.size
    if width < 1 or height < 1 or max(width, height) >= 2**31:
        raise BadImageError(f"damaged or truncated ({width}×{height} pixels)")
    return header


def exif_orientation(exif: bytes) -> int:
    """Read the orientation from an EXIF block; 1 where it is damaged or has none."""
    try:
        return _parse(io.BytesIO(exif.removeprefix(b"Exif\0\0")), {_ORIENTATION}).orientation
    except (struct.error, KeyError, OverflowError, BadImageError):
        return 1


def decode(data: bytes, header: Header) -> Image.Image:
    """Decode the pixels to a Pillow image of 8 bits a sample, not yet turned upright.

    Args:
        header: of this file; its size in pixels has been checked.

    Raises:
        BadImageError: the file is damaged, or of a variant that cannot be read correctly, which the message names.
    """
    bits, sample, bands, colours = _refuse_unreadable(header)
    photometric = header.one(_PHOTOMETRIC, 0)
    planar = header.one(_PLANAR, 1) == 2 and bands > 1
    # Older releases of Pillow get the row length of uncompressed YCbCr wrong.
    is_bare_ycbcr = photometric == 6 and header.one(_COMPRESSION, 1) == 1
    if bits <= 8 and not planar and not is_bare_ycbcr:
        return _load(_rewritten(data, header, bands=bands))
    if header.one(_COMPRESSION, 1) not in _BYTE_CODECS:
        stored = "planes" if bits <= 8 else f"{bits} bits"
        raise BadImageError(f"a TIFF of {stored} in a compression for 8 bits; {_REMEDY}")
    if bits % 8:
        values, declared = _unpacked(data, header, bits, bands), None
    else:
        values, declared = _samples(data, header, bits // 8, sample, bands, planar), header.one(_HIGHEST, 0)
    # The first band after the colours may be transparency.
    values = values[..., : colours + (header.one(_EXTRA, 2) in (1, 2))]
    values = to_8_bits(values, declared)
    if photometric == 0:
        values[..., 0] = 255 - values[..., 0]
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours]
    mode = {6: "YCbCr", 8: "LAB"}.get(photometric, mode)
    if values.shape[2] > colours:
        if mode not in ("L", "RGB"):
            values = values[..., :colours]
        else:
            mode = {"L": "La", "RGB": "RGBa"}[mode] if header.one(_EXTRA, 2) == 1 else f"{mode}A"
    return Image.frombytes(mode, header.size, np.ascontiguousarray(values).tobytes())


_REMEDY = "save it as an uncompressed TIFF or a PNG of 8 bits"


def _refuse_unreadable(header: Header) -> tuple[int, int, int, int]:
    """Refuse a file that Pillow cannot read correctly; return bits a sample, sample format, bands, and colour bands.

    Raises:
        BadImageError: it cannot be read; the message names the variant.
    """
    # In a RAW photo the first image is only a small preview.
    if _RAW in header.tags or (header.one(_SUBFILE, 0) & 1 and _SUBIFDS in header.tags):
        raise BadImageError("a camera's RAW photo; convert it to JPEG or PNG")
    compression, photometric = header.one(_COMPRESSION, 1), header.one(_PHOTOMETRIC, 0)
    if compression == 6:
        photometric = 6
    if compression not in _BYTE_CODECS | _PICTURE_CODECS:
        name = _CODEC_NAMES.get(compression, f"number {compression}")
        raise BadImageError(f"a TIFF in an unsupported compression ({name}); {_REMEDY}")
    colours = _COLOURS.get(photometric)
    if colours is None:
        what = (
            "of raw sensor data" if photometric in (32803, 34892) else f"in an unsupported colour space ({photometric})"
        )
        raise BadImageError(f"a TIFF {what}; convert it to RGB")
    counts = header.tags.get(_COUNTS, header.tags.get(_TILE_COUNTS, ()))
    if photometric == 6 and compression == 1 and sum(counts) < 3 * header.size[0] * header.size[1]:
        raise BadImageError(f"an uncompressed TIFF of subsampled YCbCr colours; {_REMEDY}")
    bits, formats = header.tags.get(_BITS, (1,)), header.tags.get(_FORMAT, (1,))
    bands = header.one(_SAMPLES, 3 if compression in (6, 7) and photometric in (2, 6) else 1)
    extra = len(header.tags.get(_EXTRA, ())) or (1 if photometric == 2 and bands == 4 else 0)
    if bands > colours + extra or bands > colours + 3 or (photometric in (0, 1, 3) and bands > 2):
        raise BadImageError(f"a TIFF of {bands} bands that does not say which are colours; save three of them as RGB")
    if bands < colours:
        raise BadImageError(f"damaged ({bands} bands, where its colours need {colours})")
    if len(set(bits[:bands])) > 1 or len(set(formats[:bands])) > 1:
        raise BadImageError(f"a TIFF whose bands differ in depth ({', '.join(map(str, bits[:bands]))} bits); {_REMEDY}")
    depth, sample = bits[0], 1 if formats[0] == 4 else formats[0]
    planar = header.one(_PLANAR, 1) == 2 and bands > 1
    whole_bytes = depth in (16, 32, 64) and sample in (1, 2, 3)
    packed = depth in (10, 12, 14) and sample == 1 and not planar and _TILE_OFFSETS not in header.tags
    deep = (whole_bytes or (packed and header.one(_PREDICTOR, 1) == 1)) and photometric in (0, 1, 2, 5)
    if not deep and not (depth in (1, 2, 4, 8) and sample == 1):
        name = f"{depth}-bit {_FORMAT_NAMES.get(sample, 'unknown')} samples"
        raise BadImageError(f"a TIFF of {name}; {_REMEDY}")
    if planar and (depth < 8 or photometric in (3, 6)):
        raise BadImageError(f"a TIFF of separate planes of {depth} bits; {_REMEDY}")
    return depth, sample, bands, colours


def _samples(data: bytes, header: Header, width: int, sample: int, bands: int, planar: bool) -> np.ndarray:
    """Read all samples, (height, width, bands), of ``width`` bytes each, as rows of bytes."""
    columns, rows = header.size
    tile = header.one(_TILE_WIDTH, 0)
    block = tile or columns
    padded = -(-columns // block) * block
    dtype = np.dtype(f"{header.order}{' uif'[sample]}{width}")
    together = 1 if planar else bands
    planes = []
    for plane in range(bands if planar else 1):
        rewritten = _rewritten(
            data, header, scale=together * width, size=(padded, rows), plane=plane if planar else None
        )
        raw = np.asarray(_load(rewritten)).reshape(rows, padded, together * width)
        planes.append(_unpredicted(raw, header, dtype, together, block)[:, :columns])
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _unpacked(data: bytes, header: Header, depth: int, bands: int) -> np.ndarray:
    """Read the upper 8 bits of samples (height, width, bands) of 10, 12 or 14 bits, which are packed without gaps."""
    columns, rows = header.size
    length = (columns * bands * depth + 7) // 8
    raw = np.asarray(_load(_rewritten(data, header, scale=1, size=(length, rows))))
    values = np.empty((rows, columns * bands), np.uint8)
    for row in range(rows):
        bits = np.unpackbits(raw[row])[: columns * bands * depth].reshape(-1, depth)
        values[row] = np.packbits(bits[:, :8], axis=1)[:, 0]
    return values.reshape(rows, columns, bands)


def _unpredicted(raw: np.ndarray, header: Header, dtype: np.dtype, bands: int, block: int) -> np.ndarray:
    """Undo the predictor: bytes (rows, columns, bytes a pixel) to native samples (rows, columns, bands)."""
    rows, columns, _ = raw.shape
    predictor = header.one(_PREDICTOR, 1) if header.one(_COMPRESSION, 1) != 1 else 1
    native = dtype.newbyteorder("=")
    if predictor == 3 and dtype.kind == "f":
        # Differences of bytes along a block's row, in which all first bytes come first, then all second bytes.
        blocks = raw.reshape(rows, columns // block, -1, bands)
        blocks = np.add.accumulate(blocks, axis=2, dtype=np.uint8)
        blocks = blocks.reshape(rows, columns // block, dtype.itemsize, block * bands).swapaxes(2, 3)
        return np.ascontiguousarray(blocks).view(dtype.newbyteorder(">")).astype(native).reshape(rows, columns, bands)
    if predictor == 2:
        whole = np.dtype(f"u{dtype.itemsize}")
        blocks = np.ascontiguousarray(raw).view(whole.newbyteorder(header.order)).astype(whole)
        blocks = blocks.reshape(rows, columns // block, block, bands)
        return np.add.accumulate(blocks, axis=2, dtype=whole).reshape(rows, columns, bands).view(native)
    if predictor != 1:
        raise BadImageError(f"damaged or truncated (predictor {predictor})")
    return np.ascontiguousarray(raw).view(dtype).astype(native, copy=False).reshape(rows, columns, bands)


def _rewritten(
    data: bytes,
    header: Header,
    *,
    bands: int = 1,
    scale: int = 0,
    size: tuple[int, int] | None = None,
    plane: int | None = None,
) -> bytes:
    """Rewrite the header to describe only the pixels: as they are, or as grey rows of ``scale`` bytes a pixel."""
    width, height = size or header.size
    tiled = _TILE_OFFSETS in header.tags
    across, down = (
        (header.one(_TILE_WIDTH, 0), header.one(_TILE_LENGTH, 0))
        if tiled
        else (width, min(header.one(_ROWS, height), height))
    )
    if across < 1 or down < 1 or across * down > 4 * max(width * height, 2**20):
        raise BadImageError(f"damaged or truncated (tiles of {across}×{down} pixels)")
    offsets = header.tags.get(_TILE_OFFSETS if tiled else _OFFSETS, ())
    lengths = header.tags.get(_TILE_COUNTS if tiled else _COUNTS, ())
    parts = -(-width // across) * -(-height // down)
    first = parts * (plane or 0)
    offsets, lengths = offsets[first : first + parts], lengths[first : first + parts]
    if len(offsets) < parts:
        raise BadImageError("damaged or truncated (parts of its pixels are missing)")
    if header.one(_COMPRESSION, 1) == 1:
        # Computed from the size, since some writers store wrong lengths.
        samples = scale or header.one(_BITS, 1) * bands / 8
        stored = [down if tiled else min(down, height - i * down) for i in range(parts)]
        lengths = [math.ceil(across * samples) * rows for rows in stored]
    elif not lengths and parts == 1:
        lengths = (len(data) - offsets[0],)
    ends = [offset + length for offset, length in zip(offsets, lengths, strict=False)]
    # An offset inside the header is a part that was never written.
    if len(lengths) < parts or max(ends) > len(data) or min(offsets) < 8:
        raise BadImageError("damaged or truncated (parts of its pixels are missing)")
    tags = {tag: header.tags[tag] for tag in _COPIED if tag in header.tags}
    tags[_COMPRESSION] = (header.one(_COMPRESSION, 1),)
    if scale:
        tags |= {_PHOTOMETRIC: (1,), _BITS: (8,), _SAMPLES: (1,)}
    else:
        tags |= {tag: header.tags[tag] for tag in (_PHOTOMETRIC, _BITS, _PREDICTOR) if tag in header.tags}
        tags[_SAMPLES] = (bands,)
        if len(tags.get(_BITS, ())) == 1:
            tags[_BITS] *= bands
        if _EXTRA in header.tags:
            tags[_EXTRA] = header.tags[_EXTRA]
    tags |= {_WIDTH: (width * (scale or 1),), _HEIGHT: (height,)}
    if tiled:
        tags |= {
            _TILE_WIDTH: (across * (scale or 1),),
            _TILE_LENGTH: (down,),
            _TILE_OFFSETS: offsets,
            _TILE_COUNTS: lengths,
        }
    else:
        tags |= {_ROWS: (down,), _OFFSETS: offsets, _COUNTS: lengths}
    return _written(data, header.order, tags)


def _written(data: bytes, order: str, tags: dict[int, tuple[int, ...]]) -> bytes:
    """Write a classic TIFF: the same bytes, followed by a directory of these tags."""
    start = len(data) + len(data) % 2
    entries, overflow = b"", b""
    overflow_start = start + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        if tag in (529, 532):  # rationals, as pairs of numerator and denominator
            code, count, packed = _RATIONAL, len(values) // 2, struct.pack(f"{order}{len(values)}I", *values)
        elif tag == 347:
            code, count, packed = 7, len(values), bytes(values)
        else:
            code = 4 if max(values) > 0xFFFF or tag in _LONGS else 3
            count, packed = len(values), struct.pack(f"{order}{len(values)}{'HI'[code - 3]}", *values)
        if len(packed) > 4:
            field = struct.pack(f"{order}I", overflow_start + len(overflow))
            overflow += packed + bytes(len(packed) % 2)
        else:
            field = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, code, count) + field
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    body = struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + overflow
    return b"".join((head, memoryview(data)[8:], bytes(len(data) % 2), body))


def _load(data: bytes) -> Image.Image:
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        image = TiffImageFile(io.BytesIO(data))
    except SyntaxError as error:
        raise BadImageError(f"an unsupported TIFF ({error}); {_REMEDY}") from error
    with _libtiff_mute():
        image.load()
    return image


def _parse(file: IO[bytes], wanted: set[int]) -> Header:
    def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        data = file.read(length)
        if len(data) < length:
            raise struct.error("the file ends")
        return data

    order = {b"II": "<", b"MM": ">"}[read(0, 2)]
    (version,) = struct.unpack(f"{order}H", read(2, 2))
    if version == 43:
        (at,) = struct.unpack(f"{order}Q", read(8, 8))
        (number,) = struct.unpack(f"{order}Q", read(at, 8))
        at, entry, room = at + 8, f"{order}HHQ", 8
    else:
        (at,) = struct.unpack(f"{order}I", read(4, 4))
        (number,) = struct.unpack(f"{order}H", read(at, 2))
        at, entry, room = at + 2, f"{order}HHI", 4
    step = struct.calcsize(entry) + room
    if number > 0xFFFF:
        raise struct.error("too many tags")
    tags: dict[int, tuple[int, ...]] = {}
    directory = read(at, number * step)
    for start in range(0, number * step, step):
        tag, code, count = struct.unpack_from(entry, directory, start)
        if tag not in wanted or tag in tags or count == 0:
            continue
        if code == _RATIONAL:
            code, count = 4, 2 * count
        if code not in _TYPES:
            continue
        if count > _MAX_VALUES:
            raise struct.error("too many values")
        layout = f"{order}{count}{_TYPES[code]}"
        length = struct.calcsize(layout)
        field = start + step - room
        packed = directory[field : field + length]
        if length > room:
            (offset,) = struct.unpack_from(f"{order}{'I' if room == 4 else 'Q'}", directory, field)
            packed = read(offset, length)
        tags[tag] = struct.unpack(layout, packed)
    return Header(order=order, tags=tags)


_muting = threading.Lock()
_muted: list[Any] = []
"""libtiff's own error handler, once for each thread that is reading a TIFF."""


@contextlib.contextmanager
def _libtiff_mute() -> Iterator[None]:
    """Keep libtiff from writing errors to standard error while any thread is inside this context.

    Pillow reports them by an exception anyway. Where Pillow's libtiff cannot be reached nothing changes.
    """
    handler = _libtiff_handler()
    if handler is None:
        yield
        return
    with _muting:
        _muted.append(_muted[0] if _muted else handler(None))
    try:
        yield
    finally:
        with _muting:
            own = _muted.pop()
            if not _muted:
                handler(own)


def _unmute_after_fork() -> None:
    """Reset the handler in a forked process: another thread may have held the lock, and does not exist any more."""
    global _muting
    _muting = threading.Lock()
    if _muted and (handler := _libtiff_handler()):
        handler(_muted[0])
    _muted.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unmute_after_fork)


@cache
def _libtiff_handler() -> Callable[[Any], Any] | None:
    import ctypes

    try:
        function = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return function
