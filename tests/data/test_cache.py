from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from PIL import Image
from tinysource import Watched

from signsclf import images
from signsclf.data import cache
from signsclf.data.cache import Cache, cache_folder, decode_all, fingerprint
from signsclf.data.pixels import digest
from signsclf.data.rows import make_table
from signsclf.errors import SignsclfError
from signsclf.imagefiles import cachefolder


@pytest.fixture
def source(tmp_path) -> np.ndarray:
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
    return make_table([(str(path), "label", None, None, roi) for path, roi in zip(paths, rois, strict=True)])


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
    source["roi"][0] = (0, 0, 500, 500)
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
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    large = decode_all(source, 12)
    assert not isinstance(small.pixels, np.memmap)
    assert isinstance(large.pixels, np.memmap)
    assert np.array_equal(small.pixels, large.pixels)
    assert list(scratch.iterdir()) == []


def test_no_room_for_the_mapped_file_is_one_line(source, tmp_path, monkeypatch):
    def full(**kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(SignsclfError, match=r"no space for .* MB .*No space left.*free space"):
        decode_all(source, 12)


# -- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "a cache"


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def same(one, other) -> bool:
    return np.array_equal(one.pixels, other.pixels) and (one.digests, one.inputs, one.unreadable) == (
        other.digests,
        other.inputs,
        other.unreadable,
    )


def test_a_second_run_decodes_nothing_and_reads_the_same(source, folder, monkeypatch):
    first = decode_all(source, 12, Cache(folder=folder))
    assert same(first, decode_all(source, 12))
    assert len(entries(folder)) == 1
    monkeypatch.setattr(images, "decode", None)
    second = decode_all(source, 12, Cache(folder=folder))
    assert isinstance(second.pixels, np.memmap)
    assert same(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first.pixels[0] = 1


@pytest.mark.parametrize("change", ["content", "roi", "size", "order", "member"])
def test_what_decides_the_pixels_makes_a_new_entry(source, folder, tmp_path, change):
    decode_all(source, 12, Cache(folder=folder))
    size = 12
    if change == "content":
        # Of the same length, at a time that says nothing: as a tool that keeps times would.
        before = Path(source["path"][0]).stat()
        data = bytearray(Path(source["path"][0]).read_bytes())
        Image.fromarray(np.zeros((11, 20, 3), np.uint8)).save(tmp_path / "black.png")
        data = (tmp_path / "black.png").read_bytes().ljust(len(data), b"\0")[: len(data)]
        Path(source["path"][0]).write_bytes(data)
        os.utime(source["path"][0], ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "roi":
        source["roi"][0] = (0, 0, 4, 4)
    elif change == "order":
        source = source[::-1]
    elif change == "member":
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.write(source["path"][1], "in/one.png")
    else:
        size = 13
    assert same(decode_all(source, size, Cache(folder=folder)), decode_all(source, size))
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("harm", ["pixel", "short", "long", "index", "nonsense", "gone", "other table"])
def test_a_damaged_entry_is_told_and_made_anew(source, folder, harm):
    whole = decode_all(source, 12)
    decode_all(source, 12, Cache(folder=folder))
    pixels, index = entries(folder)[0] / "pixels.bin", entries(folder)[0] / "index.json"
    if harm == "pixel":
        data = bytearray(pixels.read_bytes())
        data[5] ^= 1
        pixels.write_bytes(data)
    elif harm == "short":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif harm == "long":
        pixels.write_bytes(pixels.read_bytes() + b"\0")
    elif harm == "index":
        index.write_text(index.read_text()[:-9])
    elif harm == "nonsense":
        index.write_text("[1, 2]")
    elif harm == "gone":
        pixels.unlink()
    else:
        index.write_text('{"digests": [], "inputs": [], "unreadable": {}}')
    watched = Watched()
    assert same(decode_all(source, 12, Cache(folder=folder), observer=watched), whole)
    assert len(watched.lines) == 1
    assert "damaged" in watched.lines[0]
    watched.lines.clear()
    assert same(decode_all(source, 12, Cache(folder=folder), observer=watched), whole)
    assert watched.lines == []


def test_two_at_once_both_read_the_same(source, folder):
    whole = decode_all(source, 12)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: decode_all(source, 12, Cache(folder=folder)), range(24)))
    assert all(same(one, whole) for one in found)
    assert len(entries(folder)) == 1


def test_killed_half_way_the_next_run_makes_it_anew(source, folder, tmp_path):
    whole = decode_all(source, 12)
    (tmp_path / "table.pkl").write_bytes(pickle.dumps(source))
    code = f"""
import pickle, sys, time
from pathlib import Path
from signsclf import images
from signsclf.data.cache import Cache, decode_all
plain = images.decode
def slow(*args):
    print("decoding", flush=True)
    time.sleep(60)
images.decode = slow
decode_all(pickle.loads(Path({str(tmp_path / "table.pkl")!r}).read_bytes()), 12, Cache(folder=Path({str(folder)!r})))
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"decoding\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    [abandoned] = entries(folder)
    assert abandoned.suffix == ".tmp"
    assert same(decode_all(source, 12, Cache(folder=folder)), whole)
    assert len(entries(folder)) == 2
    # A day later it is nobody's work any more, and the next entry's maker sweeps it away.
    os.utime(abandoned, (time.time() - 2 * 86_400,) * 2)
    decode_all(source, 13, Cache(folder=folder))
    assert not abandoned.exists()


def test_a_full_disk_is_told_and_the_run_goes_on_without(source, folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    watched = Watched()
    assert same(decode_all(source, 12, Cache(folder=folder), observer=watched), decode_all(source, 12))
    assert len(watched.lines) == 1
    assert "No space left on device" in watched.lines[0]
    assert entries(folder) == []


def test_a_folder_that_cannot_be_made_is_told(source, tmp_path):
    (tmp_path / "file").write_text("")
    watched = Watched()
    decode_all(source, 12, Cache(folder=tmp_path / "file" / "cache"), observer=watched)
    assert len(watched.lines) == 1
    assert "cannot be written" in watched.lines[0]


def test_the_entries_used_last_are_kept(source, folder, monkeypatch):
    (folder / "mine").mkdir(parents=True)
    # Pixels of three sizes, and the indexes of two entries beside what the third will have.
    decode_all(source, 8, Cache(folder=folder))
    index = next(entry / "index.json" for entry in entries(folder) if entry.name != "mine").stat().st_size
    monkeypatch.setattr(cachefolder, "MAX_CACHE_BYTES", 7 * 3 * (8 * 8 + 9 * 9 + 10 * 10) + 2 * index)
    for size, age in ((8, 300), (9, 200)):
        decode_all(source, size, Cache(folder=folder))
        newest = max((e for e in entries(folder) if e.name != "mine"), key=lambda e: (e / "index.json").stat().st_mtime)
        os.utime(newest / "index.json", (time.time() - age,) * 2)
    decode_all(source, 8, Cache(folder=folder))  # used again, so that the other one is the oldest
    decode_all(source, 10, Cache(folder=folder))
    decode_all(source, 11, Cache(folder=folder))
    sizes = {(e / "pixels.bin").stat().st_size // 21 for e in entries(folder) if e.name != "mine"}
    assert sizes == {100, 121}
    assert (folder / "mine").is_dir()


def test_a_cache_that_may_only_be_read_is_read(source, folder, monkeypatch):
    first = decode_all(source, 12, Cache(folder=folder))

    def refuse(*args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    for call in ("utime", "rename", "mkdir"):
        monkeypatch.setattr(os, call, refuse)
    watched = Watched()
    monkeypatch.setattr(images, "decode", None)
    assert same(decode_all(source, 12, Cache(folder=folder), observer=watched), first)
    assert watched.lines == []
    monkeypatch.undo()
    assert len(entries(folder)) == 1


@pytest.mark.parametrize("call", ["flush", "fsync"])
def test_a_disk_that_is_full_at_the_end_does_not_cost_the_decoding(source, folder, monkeypatch, call):
    whole = decode_all(source, 12)
    decoded = []
    plain = images.decode
    monkeypatch.setattr(images, "decode", lambda *args: decoded.append(args) or plain(*args))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((np.memmap, "flush") if call == "flush" else (os, "fsync")), full)
    watched = Watched()
    found = decode_all(source, 12, Cache(folder=folder), observer=watched)
    assert same(found, whole)
    assert found.entry is None
    assert len(decoded) == 6  # once each of those that can be read as files
    assert [line for line in watched.lines if "No space left on device" in line] == watched.lines != []
    assert entries(folder) == []


def test_space_that_the_run_needs_is_left_free(source, folder):
    watched = Watched()
    assert decode_all(source, 12, Cache(folder=folder), observer=watched, reserve_bytes=10**18).entry is None
    assert len(watched.lines) == 1
    assert "the run itself needs the space" in watched.lines[0]
    assert decode_all(source, 12, Cache(folder=folder), reserve_bytes=1).entry in entries(folder)


def test_a_folder_with_a_mapped_file_is_never_renamed(source, folder, monkeypatch):
    """As on Windows, where that fails."""
    open_files = set()
    plain_map, plain_rename = np.memmap, Path.rename

    class Mapped(np.memmap):
        def __new__(cls, file, *args, **kwargs):
            made = plain_map.__new__(cls, file, *args, **kwargs)
            path = Path(file.name if hasattr(file, "fileno") else file)
            open_files.add(path)
            weakref.finalize(made._mmap, open_files.discard, path)
            return made

    def rename(self, target):
        if any(path.parent == self for path in open_files):
            raise PermissionError(13, "Access is denied")
        return plain_rename(self, target)

    monkeypatch.setattr(np, "memmap", Mapped)
    monkeypatch.setattr(Path, "rename", rename)
    first = decode_all(source, 12, Cache(folder=folder))
    assert entries(folder) == [first.entry]
    assert cachefolder.clear(folder) == (0, 1)
    assert {path.name for path in first.entry.iterdir()} == {"pixels.bin", "index.json"}
    assert same(first, decode_all(source, 12, Cache(folder=folder)))
    del first
    assert cachefolder.clear(folder)[1] == 0


@pytest.mark.parametrize("error", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_space_cannot_be_taken_ahead_it_is_written(source, folder, monkeypatch, error):
    def refuse(*args):
        raise OSError(error, "not here")

    if error is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    monkeypatch.setattr(cache, "_fill", lambda *args, plain=cache._fill: filled.append(args[1]) or plain(*args))
    filled = []
    found = decode_all(source, 12, Cache(folder=folder))
    assert same(found, decode_all(source, 12))
    assert found.entry is not None
    assert filled == ([] if os.name == "nt" else [7 * 12 * 12 * 3])


def test_clearing_takes_what_is_its_own(source, folder, tmp_path):
    decode_all(source, 12, Cache(folder=folder))
    decode_all(source, 13, Cache(folder=folder))
    (folder / ("0" * 32 + ".01234567.tmp")).mkdir()
    (folder / ("1" * 32)).symlink_to(tmp_path, target_is_directory=True)
    (folder / ("2" * 32)).mkdir()
    (folder / ("2" * 32) / "mine.txt").write_text("mine")
    (folder / "notes").mkdir()
    n, n_bytes = cachefolder.measure(folder)
    assert n == 3
    assert n_bytes > 7 * 3 * (12**2 + 13**2)
    assert cachefolder.clear(folder) == (n_bytes, 0)
    assert {path.name for path in folder.iterdir()} == {"CACHEDIR.TAG", "1" * 32, "2" * 32, "notes"}
    assert (folder / ("2" * 32) / "mine.txt").read_text() == "mine"
    assert cachefolder.clear(folder) == cachefolder.measure(folder) == cachefolder.measure(tmp_path / "none") == (0, 0)


def test_taking_rows_keeps_the_entry(source, folder):
    decoded = decode_all(source, 12, Cache(folder=folder))
    taken = decoded.take([4, 0, 3])
    assert np.array_equal(taken.pixels, decoded.pixels[[4, 0, 3]])
    assert (taken.inputs, list(taken.unreadable)) == ([decoded.inputs[4], decoded.inputs[0], ""], [2])
    assert taken.entry == decoded.entry


def test_synthetic_signs_are_not_cached(folder):
    from signsclf.data.synthetic import table

    synthetic_signs = table(per_class=1)[:4]
    decode_all(synthetic_signs, 12, Cache(folder=folder))
    assert not folder.exists()


def test_the_folder_by_choice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache_folder("off") is None
    assert cache_folder("auto").name == "signsclf"
    assert cache_folder("here") == tmp_path / "here"
    with pytest.raises(SignsclfError, match="--cache is empty"):
        cache_folder("")
    with pytest.raises(SignsclfError, match="no user"):
        cache_folder("~nobody-of-that-name/cache")


@pytest.mark.parametrize("home", ["empty", "none", "unknown"])
def test_without_a_home_there_is_no_cache_and_that_is_said(monkeypatch, home):
    def nobody(*args):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "empty":
        monkeypatch.setenv("HOME", "")
    else:
        result = nobody if home == "none" else lambda *args: "~/.cache/signsclf"
        monkeypatch.setattr(platformdirs, "user_cache_dir", result)
        monkeypatch.setattr(Path, "expanduser", nobody if home == "none" else lambda path: path)
    watched = Watched()
    assert cache_folder("auto", watched) is None
    assert watched.lines == [
        "cache: this user has no home folder, so decoded images are not kept; --cache DIR keeps them"
    ]


def test_progress_ends_at_all(source):
    watched = Watched()
    decode_all(source, 8, observer=watched)
    assert watched.progressed[-1] == ("decoding", 7, 7)
    assert watched.progressed == sorted(watched.progressed)


def test_fingerprint_is_of_the_data_not_of_its_order():
    paths, labels, digests = ["a/1", "a/2", "b/1"], ["a", "a", "b"], ["x", "y", "z"]
    mark = fingerprint(paths, labels, digests)
    assert mark == fingerprint(paths[::-1], labels[::-1], digests[::-1])
    assert mark != fingerprint(paths, ["a", "b", "b"], digests)
    assert mark != fingerprint(paths, labels, ["x", "y", "other"])
    assert mark != fingerprint(["a/1", "a/3", "b/1"], labels, digests)
    assert mark != fingerprint(paths[:2], labels[:2], digests[:2])
    assert len(mark) == 64
