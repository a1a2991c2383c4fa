from __future__ import annotations

import tempfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from signsclf import images
from signsclf.data import cache
from signsclf.data.cache import decode_all, digest, fingerprint
from signsclf.errors import SignsclfError


@pytest.fixture
def source(tmp_path) -> pd.DataFrame:
    """Seven images: odd sizes, modes and places; the fourth is text, the sixth is not there."""
    rng = np.random.default_rng(0)
    paths = []
    for i, (width, height, mode) in enumerate([(20, 11, "RGB"), (9, 40, "L"), (16, 16, "RGBA")]):
        channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
        pixels = rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)
        paths.append(tmp_path / f"ä {i}.png")
        Image.fromarray(pixels).save(paths[-1])
    paths.append(tmp_path / "text.png")
    paths[-1].write_text("no picture")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(paths[0], "in/one.png")
    paths += [tmp_path / "all.zip" / "in/one.png", tmp_path / "missing.png", paths[0]]
    rois = [None] * 6 + [(2, 3, 10, 9)]
    return pd.DataFrame({"path": [str(p) for p in paths], "roi": pd.Series(rois, dtype=object)})


def test_rows_equal_the_one_pixel_path(source):
    decoded = decode_all(source, 12)
    assert decoded.pixels.shape == (7, 12, 12, 3)
    assert decoded.pixels.dtype == np.uint8
    for i in (0, 1, 2, 4, 6):
        expected = images.load(source["path"][i], (12, 12), source["roi"][i])
        assert np.array_equal(decoded.pixels[i], expected), i


def test_unreadable_rows_are_zero_and_told_with_the_reason(source):
    decoded = decode_all(source, 12)
    assert list(decoded.unreadable) == [3, 5]
    assert "text.png" in decoded.unreadable[3]
    assert "missing.png" in decoded.unreadable[5]
    assert not decoded.pixels[[3, 5]].any()
    assert decoded.digests[3] == decoded.inputs[5] == ""


def test_a_roi_outside_the_image_is_told_with_the_path(source):
    source["roi"] = pd.Series([(0, 0, 500, 500)] + [None] * 6, dtype=object)
    assert "ä 0.png" in decode_all(source, 12).unreadable[0]


def test_digests_know_an_image_again(source):
    decoded = decode_all(source, 12)
    assert decoded.digests[0] == decoded.digests[4] == decoded.digests[6]
    assert decoded.inputs[0] == decoded.inputs[4] != decoded.inputs[6]
    assert len({decoded.digests[i] for i in (0, 1, 2)}) == 3


def test_digest_knows_the_shape():
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert digest(pixels) != digest(pixels.reshape(6, 4, 3))
    assert digest(pixels) == digest(np.zeros((4, 12, 3), np.uint8)[:, ::2])


def test_a_large_array_is_mapped_and_the_same(source, tmp_path, monkeypatch):
    small = decode_all(source, 12)
    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 1000)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    large = decode_all(source, 12, scratch)
    assert not isinstance(small.pixels, np.memmap)
    assert isinstance(large.pixels, np.memmap)
    assert np.array_equal(small.pixels, large.pixels)
    assert list(scratch.iterdir()) == []


def test_no_room_for_the_mapped_file_is_one_line(source, tmp_path, monkeypatch):
    def full(**kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(SignsclfError, match=r"no room for .* GB .*No space left.*make room"):
        decode_all(source, 12, tmp_path)


def test_progress_ends_at_all(source):
    seen = []
    decode_all(source, 8, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (7, 7)
    assert seen == sorted(seen)


def test_fingerprint_is_of_the_data_not_of_its_order():
    paths, labels, digests = ["a/1", "a/2", "b/1"], ["a", "a", "b"], ["x", "y", "z"]
    mark = fingerprint(paths, labels, digests)
    assert mark == fingerprint(paths[::-1], labels[::-1], digests[::-1])
    assert mark != fingerprint(paths, ["a", "b", "b"], digests)
    assert mark != fingerprint(paths, labels, ["x", "y", "other"])
    assert mark != fingerprint(["a/1", "a/3", "b/1"], labels, digests)
    assert mark != fingerprint(paths[:2], labels[:2], digests[:2])
    assert len(mark) == 64
