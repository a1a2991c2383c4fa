from __future__ import annotations

import io
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from signsclf import images
from signsclf.errors import BadImageError, SignsclfError

WIDTH, HEIGHT = 24, 16

pytestmark = pytest.mark.filterwarnings("error")


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Noise: no side, corner or channel like another."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth() -> Image.Image:
    """Four flat quarters, red, green, blue and grey, that survive a JPEG."""
    quarters = [[(220, 30, 30), (30, 200, 30)], [(30, 30, 220), (120, 120, 120)]]
    return Image.fromarray(np.array(quarters, np.uint8).repeat(32, 0).repeat(32, 1))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    return np.asarray(images.decode(encoded(image, kind, **options)))


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def patched(path: Path, local: int, central: int, layout: str, value: int) -> None:
    """Changes one field of the first member in both of its headers."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, local, value)
    struct.pack_into(layout, data, data.index(b"PK\x01\x02") + central, value)
    path.write_bytes(data)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Kinds of image


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "TIFF"])
def test_lossless_kinds_give_the_pixels_that_were_saved(kind: str) -> None:
    assert np.array_equal(decoded(Image.fromarray(picture()), kind), picture())


def test_lossless_webp_gives_the_pixels_that_were_saved() -> None:
    assert np.array_equal(decoded(Image.fromarray(picture()), "WEBP", lossless=True), picture())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    upright = np.asarray(smooth().resize((64, 96)))
    # How a camera stores it: the reverse of the turn that the orientation asks for.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    assert got.shape == (96, 64, 3)
    assert np.abs(got.astype(int) - upright).mean() < 6


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*"])
def test_damaged_exif_does_not_cost_the_picture(exif: bytes) -> None:
    plain, damaged = decoded(smooth(), "JPEG"), decoded(smooth(), "JPEG", exif=exif)
    assert np.array_equal(plain, damaged)


def test_alpha_is_laid_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    assert decoded(Image.fromarray(pixels)).tolist() == [[[255] * 3, [127] * 3, [0] * 3]]


def test_grey_with_alpha_is_laid_on_white() -> None:
    grey = Image.merge("LA", (Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 0)))
    opaque = Image.merge("LA", (Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 255)))
    assert decoded(grey).tolist() == [[[255] * 3]]
    assert decoded(opaque).tolist() == [[[100] * 3]]


def test_palette_gives_its_colours() -> None:
    flat = Image.new("P", (2, 1))
    flat.putpalette([10, 20, 30, 200, 100, 50])
    flat.putpixel((1, 0), 1)
    assert decoded(flat).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decoded(flat, "GIF").tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize(
    ("transparency", "expected"),
    [(0, [[255] * 3, [200, 100, 50]]), (b"\xff\x00", [[10, 20, 30], [255] * 3])],
    ids=["one colour", "alpha table"],
)
def test_transparent_palette_colours_become_white(transparency: object, expected: list) -> None:
    flat = Image.new("P", (2, 1))
    flat.putpalette([10, 20, 30, 200, 100, 50])
    flat.putpixel((1, 0), 1)
    assert decoded(flat, transparency=transparency).tolist() == [expected]


def test_a_transparent_colour_of_an_rgb_png_becomes_white() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decoded(image, transparency=(1, 2, 3)).tolist() == [[[255] * 3, [4, 5, 6]]]


@pytest.mark.parametrize("factor", [1, 4, 16, 257])
def test_16_bit_pixmaps_of_colours_are_scaled_like_grey(factor: int) -> None:
    pixels = picture()
    pixels[0, 0] = 255
    data = (
        f"P6\n# made by hand\n{WIDTH} {HEIGHT}\n65535\n".encode()
        + (pixels.astype(">u2") * factor).astype(">u2").tobytes()
    )
    assert np.array_equal(images.decode(data), pixels)


def test_a_jpeg_2000_of_deep_colours_is_refused() -> None:
    data = bytearray(encoded(Image.fromarray(picture()), "JPEG2000"))
    assert images.decode(bytes(data)).size == (WIDTH, HEIGHT)
    data[data.index(b"\xff\x4f\xff\x51") + 42] = 15
    with pytest.raises(BadImageError, match="JPEG 2000 with colours of more than 8 bits"):
        images.decode(bytes(data))


def test_a_transparent_colour_of_16_bits_becomes_white() -> None:
    grey = np.array([[[1000], [1001], [60_000]]], np.uint16)
    data = with_chunk(deep_png(grey), b"tRNS", struct.pack(">H", 1000))
    assert np.asarray(images.decode(data))[0, :, 0].tolist() == [255, 3, 234]
    colours = np.array([[[1000, 2000, 3000], [1000, 2000, 3001], [60_000, 0, 0]]], np.uint16)
    data = with_chunk(deep_png(colours), b"tRNS", struct.pack(">3H", 1000, 2000, 3000))
    assert np.asarray(images.decode(data)).tolist() == [[[255] * 3, [3, 7, 11], [234, 0, 0]]]


def test_lab_has_the_colours_of_the_rgb_one() -> None:
    from PIL import ImageCms

    profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
    lab = ImageCms.profileToProfile(smooth(), *profiles, outputMode="LAB")
    for compression in (None, "tiff_lzw"):
        got = decoded(lab, "TIFF", compression=compression)
        assert np.abs(got.astype(int) - np.asarray(smooth())).max() < 12


def test_first_frame_of_an_animated_png_or_webp_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        got = decoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
        assert np.array_equal(got, np.full((4, 4, 3), (255, 0, 0)))


def test_an_orientation_in_xmp_alone_counts() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    got = decoded(Image.fromarray(picture()), pnginfo=notes)
    assert np.array_equal(got, np.rot90(picture(), -1))


def test_grey_and_one_bit_become_rgb() -> None:
    assert decoded(Image.fromarray(np.array([[0, 77]], np.uint8))).tolist() == [[[0] * 3, [77] * 3]]
    assert decoded(Image.fromarray(np.array([[False, True]]))).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 257, 32768, 65535], [0, 1, 128, 255]),
        ([0, 15, 4096, 8191], [0, 0, 16, 31]),
        ([0, 16, 1024, 4095], [0, 1, 64, 255]),
        ([0, 4, 512, 1023], [0, 1, 128, 255]),
        ([0, 1, 100, 255], [0, 1, 100, 255]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
    ids=["bright", "dark", "12 bits", "10 bits", "8 bits", "black"],
)
def test_16_bit_grey_is_on_the_scale_of_the_least_depth_that_holds_it(
    kind: str, values: list[int], expected: list[int]
) -> None:
    grey = Image.fromarray(np.array([values], np.uint16))
    pgm = b"P5 4 1 65535\n" + np.array(values, ">u2").tobytes()  # which not every Pillow writes
    got = np.asarray(images.decode(pgm)) if kind == "PPM" else decoded(grey, kind)
    assert got[0].tolist() == [[value] * 3 for value in expected]
    assert np.array_equal(np.asarray(images.to_rgb(grey)), got)


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one chunk more behind its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:33] + chunk + data[33:]


def test_a_depth_that_the_file_declares_counts_where_it_is_more() -> None:
    dark = np.array([[0, 100, 200]], np.uint16)
    png = encoded(Image.fromarray(dark))
    assert np.asarray(images.decode(with_chunk(png, b"sBIT", b"\x0a")))[0, :, 0].tolist() == [0, 25, 50]
    # The whole range is what every 16-bit PNG may hold.
    assert np.asarray(images.decode(with_chunk(png, b"sBIT", b"\x10")))[0, :, 0].tolist() == [0, 100, 200]
    assert decoded(Image.fromarray(dark), "TIFF", tiffinfo={281: 4095})[0, :, 0].tolist() == [0, 6, 12]
    assert decoded(Image.fromarray(dark), "TIFF", tiffinfo={281: 65535})[0, :, 0].tolist() == [0, 100, 200]


def deep_png(values: np.ndarray, interlaced: bool = False) -> bytes:
    """A 16-bit PNG of uint16 (H, W, bands); 2 bands are grey with alpha."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, bands = values.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for x, y, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        part = values[y::dy, x::dx].astype(">u2")
        if part.size:
            lines = part.reshape(len(part), -1).view(np.uint8)
            # Every second row by its difference from the one above it.
            for number, line in enumerate(lines):
                filtered = line - lines[number - 1] if number % 2 else line
                rows += bytes([2 * (number % 2)]) + filtered.astype(np.uint8).tobytes()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("factor", "ids"), [(1, "8"), (4, "10"), (16, "12"), (257, "16")])
def test_16_bit_colour_is_scaled_like_grey(factor: int, ids: str, interlaced: bool) -> None:
    pixels = picture()
    pixels[0, 0] = 255
    assert np.array_equal(images.decode(deep_png(pixels.astype(np.uint16) * factor, interlaced)), pixels)
    opaque = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2).astype(np.uint16) * factor
    assert np.array_equal(images.decode(deep_png(opaque, interlaced)), pixels)
    grey = opaque[..., 2:]
    assert np.array_equal(images.decode(deep_png(grey, interlaced)), pixels[..., 2:].repeat(3, 2))


def test_16_bit_pgm_scales_by_its_own_maximum() -> None:
    data = b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023)
    assert np.asarray(images.decode(data))[0, :, 1].tolist() == [0, 128, 255]


def test_16_bit_big_endian_tiff_is_not_byte_swapped() -> None:
    grey = Image.fromarray(np.array([[0, 0x1234, 0xFF00]], np.uint16))
    big = Image.frombytes("I;16B", grey.size, np.asarray(grey).byteswap().tobytes())
    assert np.asarray(images.to_rgb(big))[0, :, 0].tolist() == [0, 0x12, 0xFF]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 200], [0, 200]),
        ([0, 1023], [0, 255]),
        ([0, 65535], [0, 255]),
        ([2**30, 2**31 - 1], [128, 255]),
        ([0, 70000], "integers up to 70,000"),
        ([-5, 200], "integers below 0"),
    ],
)
def test_32_bit_integers_are_scaled_or_refused(values: list[int], expected: list[int] | str) -> None:
    data = encoded(Image.fromarray(np.array([values], np.int32)), "TIFF")
    if isinstance(expected, list):
        assert np.asarray(images.decode(data))[0, :, 0].tolist() == expected
    else:
        with pytest.raises(BadImageError, match=f"deep.tif: {expected}.*; save it as"):
            images.decode(data, "deep.tif")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 0.999, 1], [0, 128, 255, 255]),
        ([np.nan, 0.2, 0.4, 0.6], [0, 51, 102, 153]),
        ([0, 1.4, 200.6, 254.9], [0, 1, 201, 255]),
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 16, 512, 4095], [0, 1, 32, 255]),
        ([0, 256.5, 32768.5, 65535], [0, 1, 128, 255]),
        ([0, 0.5, 1, 1.5], "floats up to 1.5"),
        ([0, 0.5, 1, 300.5], "floats up to 300.5"),
        ([-0.5, 0, 0.5, 1], "floats from -0.5 to 1"),
        ([np.nan, np.nan], "only NaN"),
        ([0, 0.5, 1, np.inf], "floats from 0 to inf"),
        ([0, 0.5, 1, 1e9], "floats up to 1e\\+09"),
    ],
)
def test_floats_are_scaled_or_refused(values: list[float], expected: list[int] | str) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    if isinstance(expected, list):
        assert decoded(image, "TIFF")[0, :, 0].tolist() == expected
        return
    with pytest.raises(BadImageError, match=f"deep.tif: {expected}"):
        images.decode(encoded(image, "TIFF"), "deep.tif")


def test_a_png_that_ends_within_its_header_says_so_in_words() -> None:
    with pytest.raises(BadImageError, match=r"x.png: damaged or truncated \(it ends too early\)"):
        images.decode(b"\x89PNG\r\n\x1a\n", "x.png")


def test_cmyk_jpeg_has_the_colours_of_the_rgb_one() -> None:
    got = decoded(smooth().convert("CMYK"), "JPEG", quality=95)
    assert np.abs(got.astype(int) - np.asarray(smooth())).mean() < 4


def test_first_frame_of_an_animated_gif_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    got = decoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(got, np.full((4, 4, 3), (255, 0, 0)))


def test_multi_picture_jpeg_gives_its_first_picture() -> None:
    got = decoded(smooth(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    assert np.array_equal(got, decoded(smooth(), "JPEG"))


def test_kind_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "really a png.jpg"
    path.write_bytes(encoded(Image.fromarray(picture())))
    assert np.array_equal(images.load(path, (HEIGHT, WIDTH)), picture())


# Damaged files


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "BMP", "TIFF", "GIF", "WEBP"])
def test_a_file_cut_off_anywhere_is_refused_or_whole(kind: str) -> None:
    data = encoded(smooth() if kind in ("JPEG", "GIF") else Image.fromarray(picture()), kind)
    whole = np.asarray(images.decode(data))
    refused = 0
    for cut in range(0, len(data), max(1, len(data) // 60)):
        try:
            got = np.asarray(images.decode(data[:cut], "cut.img"))
        except BadImageError as error:
            assert str(error).startswith("cut.img: ")
            refused += 1
        else:
            # Only what follows the pixels is missing.
            assert np.array_equal(got, whole)
    assert refused > 40


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_photo_is_called_damaged(kind: str, share: float) -> None:
    data = encoded(Image.fromarray(picture(0, 64, 64)), kind)
    with pytest.raises(BadImageError, match="sign: damaged or truncated"):
        images.decode(data[: int(len(data) * share)], "sign")


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(Image.fromarray(picture())))
    data[data.index(b"IDAT") + 200] ^= 4
    with pytest.raises(BadImageError, match="damaged"):
        images.decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"just words, no picture", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"P5 0 0 255\n", "not an image|damaged"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=reason) as caught:
        images.load(path, (8, 8))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_postscript_never_reaches_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(smooth(), "EPS")
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("started a program"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a program"))
    with pytest.raises(BadImageError, match="not an image"):
        images.decode(data, "sign.png")


def test_decoding_leaves_the_callers_warning_filters_alone() -> None:
    # warnings.catch_warnings in several threads at once leaves the filters of one behind for good.
    import warnings

    before = list(warnings.filters)
    data = encoded(smooth(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(images.decode, [data] * 200))
    assert list(warnings.filters) == before


# Sizes


def test_size_is_told_from_the_header_alone(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(picture()))
    (tmp_path / "a.png").write_bytes(data[:60])
    archive = zipped(tmp_path / "a.zip", {"a.png": data[:60], "b.png": b"", "c.png": png_claiming(50_000, 50_000)})
    assert images.image_wh(tmp_path / "a.png") == (WIDTH, HEIGHT)
    assert images.image_wh(f"{archive}/a.png") == (WIDTH, HEIGHT)
    for name, reason in (
        ("b.png", "the file is empty"),
        ("c.png", "too many pixels"),
        ("d.png", "no such member"),
    ):
        with pytest.raises(BadImageError, match=rf"{name}: {reason}"):
            images.image_wh(f"{archive}/{name}")


def test_size_is_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(smooth().resize((64, 96)), "JPEG", exif=exif))
    assert images.image_wh(tmp_path / "a.jpg") == (64, 96)


# Bombs


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(width: int, height: int) -> None:
    def refuse() -> None:
        with pytest.raises(BadImageError, match="too many"):
            images.decode(png_claiming(width, height), "bomb.png")

    assert peak_of(refuse) < 2**20


def huge_gif(disposal: int) -> bytes:
    """One pixel for a canvas, and a first frame of 65535×65535 on it."""
    control = b"\x21\xf9\x04" + bytes([disposal << 2 | 1, 0, 0, 0, 0])
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + control + frame + b"\x3b"


def huge_webp() -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + (16_000).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("data", [huge_gif(1), huge_gif(2), huge_gif(3), huge_webp()])
def test_canvases_and_frames_that_claim_too_many_pixels_take_no_memory(data: bytes) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImageError, match="too many pixels"):
        images.decode(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_an_animation_of_many_frames_costs_its_first_one() -> None:
    frames = [Image.new("P", (64, 64), i % 2) for i in range(300)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    assert peak_of(lambda: images.decode(data)) < 2**21


# Pillow's limit, which is the host's


def all_kinds() -> dict[str, bytes]:
    source = Image.fromarray(picture())
    found = {kind: encoded(source, kind) for kind in ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "JPEG2000", "GIF")}
    frames = [source.convert("P"), Image.new("P", source.size, 3)]
    return found | {
        "LZW": encoded(source, "TIFF", compression="tiff_lzw"),
        "animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2),
        "MPO": encoded(source, "MPO", save_all=True, append_images=[source]),
    }


def test_pillows_limit_of_pixels_has_no_say_and_stays_the_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = {kind: np.asarray(images.decode(data)) for kind, data in all_kinds().items()}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, data in all_kinds().items():
            assert np.array_equal(np.asarray(images.decode(data)), expected[kind]), kind
            path = tmp_path / kind
            path.write_bytes(data)
            assert images.image_wh(path) == (WIDTH, HEIGHT)
            assert images.load(path, (8, 8), (1, 1, 20, 12)).shape == (8, 8, 3)
        assert Image.MAX_IMAGE_PIXELS == 10
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(all_kinds()["PNG"]))


def test_a_hosts_thread_keeps_its_limit_while_others_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    data = all_kinds()["TIFF"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    def host(_: int) -> bool:
        try:
            Image.open(io.BytesIO(data))
        except Image.DecompressionBombError:
            return True
        return False

    with ThreadPoolExecutor(4) as pool:
        own = pool.map(lambda _: images.decode(data).size, range(200))
        assert all(pool.map(host, range(200)))
        assert set(own) == {(WIDTH, HEIGHT)}


def test_the_limit_can_be_raised_and_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(picture()))
    monkeypatch.setenv(images.PIXELS_VARIABLE, str(WIDTH * HEIGHT - 1))
    with pytest.raises(BadImageError, match=r"too many pixels \(24×16, at most 383\); --max-pixels or \$SIGNSCLF_MAX"):
        images.decode(data)
    images.limit_pixels(WIDTH * HEIGHT)
    assert images.decode(data).size == (WIDTH, HEIGHT)
    assert os.environ[images.PIXELS_VARIABLE] == "384"
    images.limit_pixels(10**9)
    with pytest.raises(BadImageError, match=r"too many pixels \(50000×50000, at most 1,000,000,000\)"):
        images.decode(png_claiming(50_000, 50_000))
    for wrong in ("abc", "0", "-3", "1e8"):
        monkeypatch.setenv(images.PIXELS_VARIABLE, wrong)
        with pytest.raises(SignsclfError, match=r"\$SIGNSCLF_MAX_PIXELS is '.*', where it should be a number"):
            images.decode(data)
    with pytest.raises(SignsclfError):
        images.limit_pixels(0)


def test_a_raised_limit_lets_larger_files_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    monkeypatch.setenv(images.PIXELS_VARIABLE, str(2 * images.MAX_PIXELS))
    assert len(images.head(str(path), 10)) == 10


def test_the_limit_is_part_of_what_decides_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    before = images.pixel_path()
    monkeypatch.setenv(images.PIXELS_VARIABLE, "123456")
    assert images.pixel_path() != before


def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(encoded(smooth()))
        file.truncate(images.MAX_BYTES + 1)

    def refuse() -> None:
        with pytest.raises(BadImageError, match=r"too large \("):
            images.read(path)

    assert peak_of(refuse) < 2**20


def test_a_large_film_is_told_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.write(b"\0\0\0\x18ftypmp42")
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(BadImageError, match=r"large\.jpg: not an image that can be read: a video; extract its frames"):
        images.read(path)


def test_reading_a_small_file_asks_for_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    path.write_bytes(bytes(1000))
    assert peak_of(lambda: images.read(path)) < 2**17


def test_a_member_that_claims_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    zipped(path, {"a.png": bytes(2**20)})
    patched(path, 22, 24, "<I", 3 * 2**30)

    def refuse() -> None:
        with pytest.raises(BadImageError, match=r"too large \("):
            images.read(f"{path}/a.png")

    assert peak_of(refuse) < 2**20


def test_a_member_that_grows_beyond_what_it_claims_is_refused_without_unpacking_it(tmp_path: Path) -> None:
    path = tmp_path / "liar.zip"
    zipped(path, {"a.png": bytes(64 * 2**20)})
    patched(path, 22, 24, "<I", 1000)

    def refuse() -> None:
        with pytest.raises(BadImageError, match=r"cannot be read .*CRC"):
            images.read(f"{path}/a.png")

    assert peak_of(refuse) < 4 * 2**20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bound_are_refused(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "bomb.zip", {"a.png": bytes(64 * 2**20)}, method)

    def refuse() -> None:
        for look in (images.read, images.image_wh):
            with pytest.raises(BadImageError, match="zip it with deflate"):
                look(f"{path}/a.png")

    assert peak_of(refuse) < 2**20


# Files and folders


@pytest.mark.parametrize("name", ["SIGN.PNG", "Sign.Png", "a sign of 100 %.png", "Straße 道路標識.png", "-n.png"])
def test_any_name_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "Übung 1" / name
    path.parent.mkdir()
    path.write_bytes(encoded(Image.fromarray(picture())))
    assert images.is_image_name(name)
    assert np.array_equal(images.load(str(path), (HEIGHT, WIDTH)), picture())


def test_names_of_other_files_are_no_image_names() -> None:
    assert not any(map(images.is_image_name, ["GT-00000.csv", "png", ".png", "a.png.txt", "a"]))


def test_a_symlink_is_followed_and_a_broken_one_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(picture())))
    try:
        (tmp_path / "link.png").symlink_to("a.png")
        (tmp_path / "broken.png").symlink_to("gone.png")
    except OSError:
        pytest.skip("this system lets no one make symbolic links")
    assert np.array_equal(images.load(tmp_path / "link.png", (HEIGHT, WIDTH)), picture())
    with pytest.raises(BadImageError, match=r"broken\.png: cannot be read"):
        images.load(tmp_path / "broken.png", (8, 8))


def test_a_folder_called_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(BadImageError, match=r"x\.png: cannot be read"):
        images.read(tmp_path / "x.png")


@pytest.mark.parametrize("path", ["gone.png", "nul\0byte.png", "x" * 5000 + ".png", "gone.zip/a.png"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(BadImageError, match="cannot be read"):
        images.read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = encoded(Image.fromarray(picture(0, 200, 200)))
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert images.read(pipe) == data
    writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_of_a_pipe_as_many_bytes_are_read_as_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    monkeypatch.setenv(images.PIXELS_VARIABLE, str(2 * images.MAX_PIXELS))
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(bytes(1500),))
    writer.start()
    assert len(images.read(tmp_path / "pipe")) == 1500
    writer.join()


def test_the_module_of_a_scheme_gives_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(read=lambda path: path.encode())
    monkeypatch.setitem(sys.modules, "own_reader", module)
    monkeypatch.setitem(images.SCHEMES, "own", "own_reader")
    assert images.read("own:3/7") == b"own:3/7"


@pytest.mark.parametrize("path", ["synthetic:0/00014/00000_00000.ppm", "parquet:/none.parquet/image/000001"])
def test_the_module_of_a_scheme_is_imported_when_it_is_needed(path: str) -> None:
    code = (
        "import sys; from signsclf import images; from signsclf.errors import BadImageError\n"
        "before = {module in sys.modules for module in images.SCHEMES.values()}\n"
        "try: data = images.read(sys.argv[1])\n"
        "except BadImageError as error: data = str(error).encode()\n"
        "print(before, data[:3])"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() in ("{False} b'P6\\n'", "{False} b'par'")


# Archives


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_an_archive_are_read_in_place(tmp_path: Path, method: int) -> None:
    data = encoded(Image.fromarray(picture()))
    path = zipped(tmp_path / "Schilder 1.ZIP", {"Straße/a b.PNG": data}, method)
    assert np.array_equal(images.load(f"{path}/Straße/a b.PNG", (HEIGHT, WIDTH)), picture())
    with pytest.raises(BadImageError, match="no such member"):
        images.read(f"{path}/b.png")


def test_zip_in_the_name_of_folders_misleads_no_one(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(picture()))
    (tmp_path / "old.zip").mkdir()
    (tmp_path / "old.zip" / "a.png").write_bytes(data)
    inner = zipped(tmp_path / "old.zip" / "new.zip", {"more.zip/b.png": data})
    assert images.read(tmp_path / "old.zip" / "a.png") == data
    assert images.split_archive(f"{inner}/more.zip/b.png") == (inner, "more.zip/b.png")
    assert images.read(f"{inner}/more.zip/b.png") == data


def test_letters_that_grow_in_lower_case_do_not_shift_the_archives_name(tmp_path: Path) -> None:
    (tmp_path / "İİ").mkdir()
    path = zipped(tmp_path / "İİ" / "a.zip", {"b.png": b"x"})
    assert images.split_archive(f"{path}/b.png") == (path, "b.png")


def test_an_encrypted_member_is_refused_and_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "secret.zip"
    zipped(path, {"a.png": encoded(smooth())})
    patched(path, 6, 8, "<H", 1)
    with pytest.raises(BadImageError, match=r"encrypted, .* unpack the archive first"):
        images.read(f"{path}/a.png")


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {"a.ppm": encoded(Image.fromarray(picture()), "PPM")}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=r"a\.ppm: cannot be read .*CRC"):
        images.read(f"{path}/a.ppm")


def test_an_archive_damaged_at_any_byte_gives_the_image_or_a_clear_error(tmp_path: Path) -> None:
    image = encoded(Image.fromarray(picture(0, 4, 4)), "PPM")
    original = Path(zipped(tmp_path / "a.zip", {"a.ppm": image})).read_bytes()
    for position in range(len(original)):
        for value in (0, 0xFF):
            data = bytearray(original)
            data[position] = value
            damaged = tmp_path / f"{position}-{value}.zip"
            damaged.write_bytes(data)
            try:
                assert images.read(f"{damaged}/a.ppm") == image
            except BadImageError as error:
                assert str(error).startswith(str(damaged))


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x05\x06" + bytes(10)])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BadImageError, match=r"a\.zip: not a zip archive"):
        images.read(f"{tmp_path}/a.zip/a.png")


def test_an_archive_replaced_on_disk_is_opened_anew(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": b"old"})
    assert images.read(f"{path}/a.png") == b"old"
    zipped(tmp_path / "new.zip", {"0.png": b"more", "a.png": b"new"})
    (tmp_path / "new.zip").replace(path)
    assert images.read(f"{path}/a.png") == b"new"


def test_more_archives_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MOST_ARCHIVES", images._ARCHIVES_KEPT)
    paths = [zipped(tmp_path / f"{i}.zip", {"a.png": bytes([i])}) for i in range(10)]
    first = images.open_archive(paths[0])
    for _ in range(2):
        assert [images.read(f"{path}/a.png")[0] for path in paths] == list(range(10))
    assert len(images._archives) <= images._ARCHIVES_KEPT
    assert first.read("a.png") == b"\0", "closed while its user still held it"


def test_threads_that_read_one_archive_at_once_get_each_its_own_member(tmp_path: Path) -> None:
    members = {f"{i}.png": np.random.default_rng(i).bytes(3000) for i in range(300)}
    path = zipped(tmp_path / "a.zip", members)
    with ThreadPoolExecutor(8) as pool:
        handles = set(pool.map(images.open_archive, [path] * 100))
    assert len(handles) == 1, "a directory in memory for every thread"
    names = list(members) * 4
    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda name: images.read(f"{path}/{name}"), names))
    finally:
        sys.setswitchinterval(switched)
    assert got == [members[name] for name in names]


def _read_all(path: str, names: list[str], answers: multiprocessing.SimpleQueue) -> None:
    answers.put([zlib.crc32(images.read(f"{path}/{name}")) for name in names])


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(),
    reason="this system starts processes without forking",
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_do_not_share_one_file_position(tmp_path: Path) -> None:
    members = {f"{i}.png": np.random.default_rng(i).bytes(9000) for i in range(300)}
    path = zipped(tmp_path / "a.zip", members, zipfile.ZIP_STORED)
    images.read(f"{path}/0.png")
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    names = list(members) * 5
    processes = [fork.Process(target=_read_all, args=(path, names, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    expected = [zlib.crc32(members[name]) for name in names]
    assert all(answers.get() == expected for _ in processes)


# Resizing


@pytest.mark.parametrize("size", [(32, 32), (8, 40), (200, 7), (HEIGHT, WIDTH)])
def test_resizing_is_pillows_bilinear_squash_bit_for_bit(size: tuple[int, int]) -> None:
    image = Image.fromarray(picture())
    expected = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    got = images.resize(image, size)
    assert got.dtype == np.uint8
    assert got.shape == (*size, 3)
    assert np.array_equal(got, expected)


@pytest.mark.slow
def test_resizing_is_fastais_squish_bit_for_bit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of its own functions
        from fastai.vision.all import PILImage, Resize

    for seed, (width, height) in enumerate([(24, 16), (15, 15), (131, 90), (250, 243)]):
        image = Image.fromarray(picture(seed, width, height))
        expected = np.asarray(Resize(32, method="squish")(PILImage.create(np.asarray(image))))
        assert np.array_equal(images.resize(image, (32, 32)), expected)


def test_roi_is_inclusive_and_cut_before_resizing() -> None:
    image = Image.fromarray(picture())
    assert np.array_equal(images.resize(image, (4, 6), (3, 2, 8, 5)), picture()[2:6, 3:9])
    assert np.array_equal(images.resize(image, (1, 1), (5, 7, 5, 7)), picture()[7:8, 5:6])
    full = (0, 0, WIDTH - 1, HEIGHT - 1)
    assert np.array_equal(images.resize(image, (32, 32), full), images.resize(image, (32, 32)))
    apart = images.resize(Image.fromarray(picture()[2:6, 3:9].copy()), (32, 32))
    assert np.array_equal(images.resize(image, (32, 32), (3, 2, 8, 5)), apart), "pixels outside leaked in"


@pytest.mark.parametrize("roi", [(0, 0, WIDTH, 5), (0, 0, 5, HEIGHT), (-1, 0, 5, 5), (6, 0, 5, 5), (99, 99, 120, 120)])
def test_a_roi_that_leaves_the_image_is_refused(tmp_path: Path, roi: tuple[int, int, int, int]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(picture())))
    with pytest.raises(BadImageError, match=rf"a\.png: the roi {roi[0]},.* is not inside the 24×16 image"):
        images.load(path, (8, 8), roi)


def test_it_needs_numpy_and_pillow_alone() -> None:
    code = "import sys, json, signsclf.images; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert not {"torch", "fastai", "pandas", "matplotlib", "onnxruntime"} & set(loaded)


def test_text_chunks_do_not_trouble_a_png() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "x" * 1000, zip=True)
    assert np.array_equal(decoded(Image.fromarray(picture()), pnginfo=notes), picture())


@pytest.mark.parametrize(("kind", "channels"), [(b"P6", 3), (b"P5", 1)])
def test_pixmaps_whose_line_ends_were_converted_keep_their_colours(kind, channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 8, channels), np.uint8)
    pixels[2, 3:5] = ord("\n")
    whole = kind + b"\n8 6\n255\n" + pixels.tobytes()
    converted = whole.replace(b"\n", b"\r\n")
    header_only = kind + b"\r\n8 6\r\n255\r\n" + pixels.tobytes()
    for data in (whole, converted, header_only):
        assert np.array_equal(np.asarray(images.decode(data)), np.broadcast_to(pixels, (6, 8, 3)))


def test_a_pixmap_of_no_provable_line_ends_is_left_as_it_is():
    # One byte too many for either reading: what Pillow makes of it stands.
    data = b"P6\r\n2 1\r\n255\r\n" + bytes([9, 8, 7, 6, 5, 4, 3])
    assert np.asarray(images.decode(data)).tolist() == [[[10, 9, 8], [7, 6, 5]]]
