from __future__ import annotations

import io
import multiprocessing
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError
from signsclf.imagefiles import tiff

HEIGHT, WIDTH = 21, 35


def picture() -> np.ndarray:
    """Noise of uint8 (H, W, 3) that has 0 and 255 in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    return pixels


def written(
    values: np.ndarray,
    *,
    order: str = "<",
    big: bool = False,
    planar: bool = False,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    deflated: bool = False,
    predictor: int = 1,
    photometric: int | None = None,
    extra: Sequence[int] = (),
    more: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """A TIFF of (H, W, bands), unsigned, signed or float, as the standard has it."""
    values = values if values.ndim == 3 else values[..., None]
    height, width, bands = values.shape
    planes = [values[..., b : b + 1] for b in range(bands)] if planar else [values]
    blocks = []
    for plane in planes:
        down, across = tile or (rows or height, width)
        padded = np.pad(plane, ((0, -height % down if tile else 0), (0, -width % across), (0, 0)))
        for y in range(0, padded.shape[0], down):
            for x in range(0, padded.shape[1], across):
                block = padded[y : y + down, x : x + across]
                if predictor == 2:
                    whole = np.ascontiguousarray(block).view(f"u{block.dtype.itemsize}")
                    block = np.diff(whole, axis=1, prepend=whole.dtype.type(0))
                raw = block.astype(block.dtype.newbyteorder(order)).tobytes()
                if predictor == 3:
                    n, size = block.shape[2], block.dtype.itemsize
                    by = np.ascontiguousarray(block.astype(block.dtype.newbyteorder(">"))).view(np.uint8)
                    by = by.reshape(len(block), across * n, size).swapaxes(1, 2).reshape(len(block), -1, n)
                    raw = np.diff(by, axis=1, prepend=np.uint8(0)).tobytes()
                blocks.append(zlib.compress(raw) if deflated else raw)
    start = 16 if big else 8
    offsets = [start + sum(map(len, blocks[:i])) for i in range(len(blocks))]
    sizes = tuple(map(len, blocks))
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: (width,),
        257: (height,),
        258: (values.dtype.itemsize * 8,) * bands,
        259: (8 if deflated else 1,),
        262: (photometric if photometric is not None else 2 if bands >= 3 else 1,),
        277: (bands,),
        284: (2 if planar else 1,),
        317: (predictor,),
        339: (kind,) * bands,
    }
    tags |= {322: (tile[1],), 323: (tile[0],), 324: tuple(offsets), 325: sizes} if tile else {}
    tags |= {} if tile else {278: (rows or height,), 273: tuple(offsets), 279: sizes}
    tags |= {338: tuple(extra)} if extra else {}
    tags |= more or {}
    at = start + sum(sizes)
    layout, room = (f"{order}HHQ", 8) if big else (f"{order}HHI", 4)
    behind = at + (8 if big else 2) + len(tags) * (20 if big else 12) + room
    entries, lists = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        field = packed
        if len(packed) > room:
            field = struct.pack(f"{order}{'Q' if big else 'I'}", behind + len(lists))
            lists += packed
        entries += struct.pack(layout, tag, 4, len(numbers)) + field.ljust(room, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, at) if big else struct.pack(f"{order}HI", 42, at)
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    return mark + head + b"".join(blocks) + count + entries + bytes(room) + lists


LAYOUTS = {
    "whole": {},
    "strips": {"rows": 4},
    "tiles": {"tile": (16, 16)},
    "deflate": {"rows": 5, "deflated": True},
    "differences": {"tile": (16, 32), "deflated": True, "predictor": 2},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_every_way_to_lay_samples_out_gives_the_same_pixels(layout: str, planar: bool, order: str, big: bool) -> None:
    pixels = picture()
    grey = pixels[..., 1]
    ways = {"order": order, "big": big, **LAYOUTS[layout]}
    deep = {
        "u1": pixels,
        "u2": pixels.astype("u2") * 257,
        "u4": pixels.astype("u4") * 16_843_009,
        "u8": pixels.astype("u8") * 257,
        "i2": pixels.astype("i2"),
    }
    for name, values in deep.items():
        got = np.asarray(images.decode(written(values, planar=planar, **ways)))
        assert np.array_equal(got, pixels), name
        one = np.asarray(images.decode(written(values[..., 1], **ways)))
        assert np.array_equal(one, grey[..., None].repeat(3, 2)), name


@pytest.mark.parametrize("size", ["f2", "f4", "f8"])
@pytest.mark.parametrize("predictor", [1, 2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_of_every_size_and_predictor(size: str, predictor: int, order: str) -> None:
    values = (picture() / 255).astype(size)
    for ways in ({"rows": 4}, {"tile": (16, 16)}):
        data = written(values, order=order, deflated=True, predictor=predictor, **ways)
        assert np.array_equal(np.asarray(images.decode(data)), picture())


@pytest.mark.parametrize("factor", [1, 257])
def test_white_may_be_zero(factor: int) -> None:
    grey = picture()[..., 0]
    values = (255 - grey).astype("u2" if factor > 1 else "u1") * factor
    assert np.array_equal(np.asarray(images.decode(written(values, photometric=0)))[..., 0], grey)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("planar", [False, True])
def test_bands_beside_the_colours(dtype: str, planar: bool) -> None:
    pixels, factor = picture(), 257 if dtype == "u2" else 1
    alpha = np.full_like(pixels[..., :1], 255)
    alpha[0, 0] = 0

    def read(bands: list[np.ndarray], **ways: object) -> np.ndarray:
        values = np.concatenate(bands, axis=2).astype(dtype) * factor
        return np.asarray(images.decode(written(values, planar=planar, **ways)))

    on_white = np.where(alpha == 0, 255, pixels)
    assert np.array_equal(read([pixels, alpha], extra=[2]), on_white)
    assert np.array_equal(read([pixels, alpha], extra=[0]), pixels)
    assert np.array_equal(read([pixels, alpha, alpha], extra=[0, 0]), pixels)
    black = np.zeros_like(alpha)
    assert np.array_equal(read([255 - pixels, black], photometric=5), pixels)


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_samples_that_share_bytes(depth: int) -> None:
    grey = picture()[..., 0]
    values = grey.astype(np.int64) << (depth - 8)
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(HEIGHT, -1).astype(np.uint8), axis=1)
    data = written(rows, more={256: (WIDTH,), 258: (depth,)})
    assert np.array_equal(np.asarray(images.decode(data))[..., 0], grey)


def test_16_bit_values_that_fit_8_or_10_bits_are_not_black() -> None:
    pixels = picture()
    for factor in (1, 4):
        for planar in (False, True):
            data = written(pixels.astype("u2") * factor, planar=planar, deflated=planar)
            assert np.array_equal(np.asarray(images.decode(data)), pixels)


BYTES = [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"]


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        *((mode, way) for mode in ("L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA") for way in BYTES),
        *((mode, "jpeg") for mode in ("L", "RGB", "CMYK")),
        *(("1", way) for way in (*BYTES, "group4")),
    ],
)
def test_8_bits_and_less_are_as_they_were_saved(mode: str, compression: str | None) -> None:
    file = io.BytesIO()
    source = Image.fromarray(picture()).resize((90, 60))
    source = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    source.save(file, "TIFF", compression=compression)
    expected = np.asarray(images.to_rgb(source)).astype(int)
    difference = np.abs(np.asarray(images.decode(file.getvalue())) - expected)
    if compression == "jpeg":
        assert difference.mean() < 20
    else:
        assert difference.max() <= (3 if mode == "YCbCr" else 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (written(np.zeros((8, 8, 13), "u2"), photometric=1), "13 bands"),
        (written(np.zeros((8, 8, 13), "u2"), photometric=1, planar=True), "13 bands"),
        (written(np.zeros((8, 8, 3), "u2"), photometric=1), "3 bands that does not say which are colours"),
        (written(np.zeros((8, 8, 5), "u1"), photometric=2), "5 bands"),
        (written(np.zeros((8, 8), "u2"), photometric=2), "damaged"),
        (written(np.zeros((8, 8), "i1")), "8-bit signed samples"),
        (written(np.full((8, 8), -1, "i2")), "integers below 0"),
        (written(np.full((8, 8), 2**40, "u8")), "integers up to 1,099,511,627,776"),
        (written(np.zeros((8, 8, 3), "u2"), photometric=8), "16-bit unsigned samples"),
        (written(np.zeros((8, 8, 3), "u1"), more={258: (5, 6, 5)}), "bands differ in depth .5, 6, 5 bits."),
        (written(np.zeros((8, 8), "u1"), more={259: (34887,)}), r"unsupported compression \(LERC\)"),
        (written(np.zeros((8, 8), "u2"), more={259: (7,)}), "16 bits in a compression for 8 bits"),
        (written(np.zeros((8, 8), "u1"), more={50706: (1,)}), "RAW photo"),
        (written(np.zeros((8, 8), "u1"), more={254: (1,), 330: (8, 8)}), "RAW photo"),
        (written(np.zeros((8, 8), "u1"), photometric=32803), "raw sensor"),
        (written(np.zeros((8, 8), "u1"), more={258: (3,)}), "3-bit"),
        (
            written(np.zeros((4, 12), "u1"), photometric=6, more={256: (8,), 258: (8,) * 3, 277: (3,)}),
            "subsampled YCbCr",
        ),
        (written(np.zeros((8, 8), "u1"), more={322: (2**31,), 323: (2**31,), 324: (8,)}), "damaged .*tiles of"),
        (written(np.zeros((8, 8), "u1"), more={273: (2**32 - 1,)}), "damaged"),
        (written(np.zeros((8, 8), "u1"), rows=4, more={273: (8, 0)}), "damaged .*parts of its pixels are missing"),
        (written(np.zeros((8, 8), "u1"), more={256: (0,)}), "damaged"),
        (written(np.zeros((8, 8), "u1"), more={256: (2**31,)}), "damaged"),
        (written(np.zeros((8, 8), "u1"), more={256: (50_000,), 257: (50_000,)}), "too many pixels"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused_and_named(
    data: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadImageError, match=f"deep.tif: .*{reason}"):
        images.decode(data, "deep.tif")
    assert capfd.readouterr() == ("", "")


def test_a_list_of_tags_that_never_ends_is_refused() -> None:
    data = b"II*\0" + struct.pack("<IH", 8, 0xFFFF) + struct.pack("<HHII", 273, 4, 2**32 - 1, 8) * 0xFFFF
    with pytest.raises(BadImageError, match="damaged"):
        images.decode(data)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "lzma"])
def test_damage_is_an_error_and_nothing_on_standard_error(
    compression: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    file = io.BytesIO()
    image = Image.fromarray(picture())
    image = image.convert("1") if compression == "group4" else image
    image.save(file, "TIFF", compression=compression)
    whole = file.getvalue()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(8, len(whole), 8):
            damaged[place] = rng.integers(0, 256)
        try:
            images.decode(bytes(damaged))
        except BadImageError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5
    assert capfd.readouterr() == ("", "")
    assert not [str(one.message) for one in recwarn.list]


def test_libtiff_speaks_to_others_again_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "TIFF", compression="tiff_lzw")
    damaged = bytearray(file.getvalue())
    damaged[8:200] = bytes(192)

    def speak() -> str:
        with pytest.raises(OSError):
            Image.open(io.BytesIO(bytes(damaged))).load()
        return capfd.readouterr().err

    before = speak()
    with pytest.raises(BadImageError):
        images.decode(bytes(damaged))
    assert capfd.readouterr().err == ""
    assert speak() == before


def _decode_here(data: bytes, answers: multiprocessing.SimpleQueue) -> None:
    answers.put(images.decode(data).size)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_decodes_does_not_wait_for_it() -> None:
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "TIFF", compression="tiff_lzw")
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    with tiff._libtiff_mute(), tiff._muting:
        process = fork.Process(target=_decode_here, args=(file.getvalue(), answers))
        process.start()
        process.join(20)
    process.kill()
    assert process.exitcode == 0
    assert answers.get() == (WIDTH, HEIGHT)


def test_the_header_tells_size_and_orientation() -> None:
    data = written(picture(), more={274: (6,)})
    header = tiff.read_header(io.BytesIO(data))
    assert header.size == (WIDTH, HEIGHT)
    assert header.orientation == 6
    assert images.decode(data).size == (HEIGHT, WIDTH)
    assert tiff.exif_orientation(b"Exif\0\0" + data) == 6
    assert tiff.exif_orientation(b"Exif\0\0MM\0*") == 1
