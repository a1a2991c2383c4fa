from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signsclf.data import pixels as streamed
from signsclf.data.cache import decode_all
from signsclf.data.pixels import StreamedPixels
from signsclf.data.rows import make_table
from signsclf.errors import SourceError


@pytest.fixture
def table(tmp_path) -> np.ndarray:
    """Twenty images of odd sizes, each with a box of its own; the fourth is text."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(20):
        path = tmp_path / f"{number}.png"
        width, height = rng.integers(10, 30, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        rows.append((str(path), "label", None, None, (0, 0, int(width) - 1 - number % 2, int(height) - 1)))
    Path(rows[3][0]).write_text("no picture")
    return make_table(rows)


@pytest.fixture
def stream(table) -> StreamedPixels:
    return StreamedPixels(table["path"].tolist(), table["roi"].tolist(), 12, decode_all(table, 12).inputs)


@pytest.mark.parametrize("threads", [1, 4])
def test_it_is_indexed_like_the_array(table, stream, threads):
    array = decode_all(table, 12).pixels
    stream.threads = threads
    assert (stream.shape, len(stream)) == (array.shape, 20)
    mask = np.arange(20) % 3 == 0
    for key in (5, np.int64(-1), slice(None), slice(17, 40), slice(8, 2, -2), np.array([7, 3, 7]), [0, 19], mask):
        assert np.array_equal(stream[key], array[key]), key
    assert stream[np.arange(0)].shape == (0, 12, 12, 3)


def test_a_selection_is_decoded_when_it_is_taken(table, stream, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(streamed, "decode_image", None)
        taken = stream.take(np.array([9, 3, 4]))
    assert np.array_equal(taken[:], decode_all(table, 12).pixels[[9, 3, 4]])
    assert not taken[1].any()


@pytest.mark.parametrize("harm", ["gone", "other"])
def test_an_image_that_changed_is_refused_by_name(table, stream, harm):
    path = Path(table["path"][6])
    if harm == "gone":
        path.unlink()
    else:
        Image.new("RGB", (40, 40), "red").save(path)
    with pytest.raises(SourceError, match=rf"{path.name}.*put it back and run again"):
        stream[:]
    assert stream[[5, 7]].any()
