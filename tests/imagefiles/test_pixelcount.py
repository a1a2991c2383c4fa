"""Sizes from the first bytes agree with what the image is decoded to, or are not told."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from signsclf.imagefiles.pixelcount import quick_size
from signsclf.images import header_wh


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    data = BytesIO()
    Image.new(mode, (31, 17)).save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded("PNG"),
        encoded("JPEG"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", exif=b"Exif\0\0" + b"x" * 60_000, icc_profile=b"y" * 200_000),
        encoded("GIF"),
        encoded("BMP"),
        encoded("PPM"),
        encoded("PPM", "L"),
        encoded("PPM", "1"),
        encoded("WEBP"),
        encoded("WEBP", lossless=True),
        encoded("WEBP", "RGBA"),
        b"P6\n# made by hand\n31 17\n255\n" + bytes(31 * 17 * 3),
    ],
)
def test_the_usual_formats_tell(data):
    assert quick_size(data) == header_wh(data) == (31, 17)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000"])
def test_other_formats_do_not(kind):
    assert quick_size(encoded(kind)) is None
    assert header_wh(encoded(kind)) == (31, 17)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP"])
def test_whatever_is_cut_or_changed_gives_a_size_or_none(kind):
    whole = encoded(kind)
    for length in range(min(len(whole), 700)):
        assert quick_size(whole[:length]) in (None, (31, 17))
    for at in range(min(len(whole), 200)):
        found = quick_size(whole[:at] + b"\xff" + whole[at + 1 :])
        assert found is None or min(found) > 0
