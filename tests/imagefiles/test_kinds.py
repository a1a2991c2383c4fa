from __future__ import annotations

import io
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from signsclf import images
from signsclf.errors import BadImageError
from signsclf.imagefiles import kinds as imagekinds

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
AVIF = HEIC.replace(b"heic", b"avif")


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def no_decoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither AVIF nor HEIF can be decoded."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    imagekinds._image_class.cache_clear()
    yield
    imagekinds._image_class.cache_clear()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000"])
def test_images_are_told_by_their_first_bytes(kind: str) -> None:
    data = encoded(kind)
    assert imagekinds.kind_of(data[: imagekinds.HEAD]) == kind
    assert imagekinds.describe_kind(data) is None
    assert images.decode(data).size == (30, 20)


def test_a_bitmap_without_its_file_header_is_one() -> None:
    data = encoded("BMP")
    assert np.array_equal(images.decode(data[14:]), images.decode(data))


@pytest.mark.parametrize(
    ("data", "what", "remedy"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 48213\n",
            "Git LFS pointer",
            "git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html><head><title>403</title></head></html>\n", "HTML page", "download it again"),
        (b"/annex/objects/SHA256E-s48213--4d7a.png\n", "git-annex", "git annex get"),
        (b"../.git/annex/objects/x/SHA256E-s48213--4d7a.png", "git-annex", "git annex get"),
        (b"a.png".ljust(257, b"\0") + b"ustar\x0000", "tar archive", "unpack it"),
        (b"qoif\0\0\0\x10\0\0\0\x10\3\0", "QOI", "convert it"),
        (b"\xef\xbb\xbf\r\n<HTML lang='en'>", "HTML page", "download it again"),
        ("<!doctype html><html>".encode("utf-16"), "HTML page", "download it again"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML", "download it again"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG", "convert it"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='4'/>", "SVG", "convert it"),
        (b'{"error": "rate limit exceeded"}', "JSON", "download it again"),
        (b"[]", "JSON", "download it again"),
        (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "PDF", "convert it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript", "convert it"),
        (b"8BPS\0\1", "Photoshop", "convert it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "convert it"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "video", "extract its frames"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "video", "extract its frames"),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0", "video", "extract its frames"),
        (b"RIFF\0\0\1\0AVI LIST", "video", "extract its frames"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "RAW photo", "convert it"),
        (b"FUJIFILMCCD-RAW 0201", "RAW photo", "convert it"),
        (b"PK\x03\x04\x14\0\0\0", "zip archive", "unpack it"),
        (b"\x1f\x8b\x08\0", "gzip", "unpack it"),
        (b"\0\0\1\0\1\0\x10\x10", "icon", "convert it"),
        (bytes(4000), "zero bytes", "download it again"),
        (b"\x89PNG\n\x1a\n\0\0\0\rIHDR", "damaged", "download it again"),
        (b"data:image/png;base64,iVBORw0KGgo=", "base64", "decode it"),
        (b"\x93NUMPY\1\0v\0", "NumPy", "save it as PNG"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "AppleDouble", "remove it"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM", "convert it"),
        (b"Not found\n", "text", "download it again"),
    ],
)
def test_what_is_no_image_is_told_with_what_helps(
    data: bytes, what: str, remedy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadImageError, match=r"x\.jpg: not an image that can be read: ") as caught:
        images.decode(data, "x.jpg")
    assert what in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", [b"\xd1\xfe\x99\x01" * 50, b"B", b"\xff\xd8"])
def test_of_what_is_unknown_nothing_is_said(data: bytes) -> None:
    with pytest.raises(BadImageError) as caught:
        images.decode(data, "x.jpg")
    assert str(caught.value) == "x.jpg: not an image that can be read" or data == b"B"


@pytest.mark.usefixtures("no_decoders")
def test_without_a_decoder_the_kind_and_what_to_install_are_told(tmp_path: Path) -> None:
    for data, kind, package in ((HEIC, "HEIC", "pillow-heif"), (AVIF, "AVIF", "-U pillow")):
        path = tmp_path / f"{kind}.jpg"
        path.write_bytes(data)
        for look in (images.image_wh, lambda path: images.load(path, (8, 8))):
            with pytest.raises(BadImageError, match=f"{kind}.jpg: .*{kind}, no decoder: pip install {package},"):
                look(path)
    assert not any(map(imagekinds.is_image_name, ("a.heic", "a.HEIF", "a.avif")))
    assert imagekinds.why_unread(".heic").startswith("no decoder: pip install pillow-heif")


def test_heic_is_read_where_pillow_heif_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    png = encoded("PNG")

    class HeifImageFile(PngImagePlugin.PngImageFile):
        def __init__(self, file: io.BytesIO) -> None:
            assert file.read() == HEIC
            super().__init__(io.BytesIO(png))

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(HeifImageFile=HeifImageFile))
    imagekinds._image_class.cache_clear()
    try:
        assert imagekinds.is_image_name("IMG_1.HEIC")
        assert imagekinds.why_unread(".heic") is None
        assert np.array_equal(images.decode(HEIC), images.decode(png))
    finally:
        imagekinds._image_class.cache_clear()


def test_avif_is_read_by_pillows_that_have_it() -> None:
    if imagekinds.image_class("AVIF") is None:
        pytest.skip("this Pillow has no AVIF")
    file = io.BytesIO()
    smooth = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(file, "AVIF", quality=95, exif=exif)
    got = np.asarray(images.decode(file.getvalue()))
    upright = np.asarray(smooth.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(got - upright).mean() < 3
    assert imagekinds.is_image_name("a.avif")


def test_a_container_without_its_own_brand_is_told_by_the_compatible_ones() -> None:
    assert imagekinds.kind_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    assert imagekinds.kind_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf") == "HEIF"
    assert imagekinds.kind_of(b"\0\0\0\x1cftypisom\0\0\0\0mp41") is None


def test_a_png_needs_no_other_plugin() -> None:
    import subprocess

    code = (
        "import io, sys; from PIL import Image; data = sys.stdin.buffer.read(); from signsclf import images;"
        "images.decode(data); print([m for m in sys.modules if m.endswith('ImagePlugin') or 'heif' in m])"
    )
    found = subprocess.run([sys.executable, "-c", code], input=encoded("PNG"), capture_output=True, check=True)
    assert found.stdout.decode().strip() == "['PIL.PngImagePlugin']"


def test_files_of_an_unknown_suffix_are_not_looked_into_for_ever() -> None:
    looked = []

    def read_head() -> bytes:
        looked.append(1)
        return b"nothing"

    sniffer = imagekinds.Sniffer()
    assert not any(sniffer.look(f"{i}.xyz", read_head) for i in range(2000))
    assert len(looked) < 500
    assert not any(sniffer.look(name, read_head) for name in ("a.csv", "a.png~", "a.jpg.bak"))
    assert len(looked) < 500
    assert sniffer.look("a.jpg", read_head)
    assert sniffer.look("a", lambda: encoded("JPEG")[:64])


def test_a_file_that_cannot_be_opened_is_no_image(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise PermissionError

    assert not imagekinds.Sniffer().look("a", fail)


def test_members_of_archives_are_told_by_content(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", encoded("JPEG"))
    assert imagekinds.kind_of(images.head(f"{tmp_path}/a.zip/x", imagekinds.HEAD)) == "JPEG"


def test_suffixes_are_those_of_pathlib_in_lower_case() -> None:
    for name in ("a.JPG", "a/b.c/d", "a/.png", ".png", "a.b.PnG", "a.", "", "x/", "a.jpg_large", "ä.ÄÖ", "a/b.c.d"):
        assert imagekinds.suffix_of(name) == (Path(name).suffix.lower() if not name.endswith(".") else "")
