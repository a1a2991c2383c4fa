"""Tar archives in place: what is in them, and what is refused before it is read into memory."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from signsclf import images
from signsclf.errors import BadImageError
from signsclf.imagefiles.tars import TarArchive


def packed(path: Path, members: dict[str, bytes], **options: int) -> str:
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.as_posix()


def opened(data: bytes) -> TarArchive:
    return TarArchive(io.BytesIO(data))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_and_long_names(tmp_path, form):
    long = "x/" * 60 + "é.png"
    members = {"a/0.png": b"zero", "b/1.png": b"one" * 1000, **({} if form == tarfile.USTAR_FORMAT else {long: b"two"})}
    path = packed(tmp_path / "a.tar", members, format=form)
    assert images.open_archive(path).namelist() == list(members)
    assert {name: images.read(f"{path}/{name}") for name in members} == members
    with pytest.raises(BadImageError, match="no such member"):
        images.read(f"{path}/c.png")


def test_a_member_is_a_seekable_file():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, text in (("a", b"0123456789"), ("b", b"next")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    with opened(data.getvalue()).open("a") as file:
        assert file.read(4) == b"0123"
        assert file.seek(-2, io.SEEK_END) == 8 and file.read() == b"89" and file.read() == b""
        assert file.seek(20) == 20 and file.read() == b"", "the next member's bytes"


def test_links_devices_and_sparse_files_are_no_members(tmp_path):
    kinds = {"s": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "f": tarfile.FIFOTYPE, "c": tarfile.CHRTYPE}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("0.png"))
    archive = images.open_archive(str(tmp_path / "a.tar"))
    assert archive.namelist() == ["0.png"]
    assert archive.links == 2


def test_threads_get_each_its_own_member(tmp_path):
    members = {f"{i}.png": np.random.default_rng(i).bytes(3000) for i in range(100)}
    path = packed(tmp_path / "a.tar", members)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda name: images.read(f"{path}/{name}"), list(members) * 4))
    assert got == list(members.values()) * 4


def test_a_damaged_archive_is_refused_wherever_it_is_cut(tmp_path):
    data = Path(packed(tmp_path / "a.tar", {"0.png": b"a" * 600, "1.png": b"b" * 600})).read_bytes()
    whole = opened(data).namelist()
    for length in range(0, len(data), 100):
        try:
            assert opened(data[:length]).namelist() in (whole, whole[:1]), length
        except ValueError:
            continue
    with pytest.raises(ValueError, match="damaged header"):
        opened(data[:1536] + b"x" * 512 + data[2048:])


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_of_gigabytes_is_not_read(kind, tmp_path):
    length = 1 << 28
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(header("bomb", length, kind))
        file.truncate(length + 2048)
    tracemalloc.start()
    try:
        with pytest.raises(BadImageError, match="over a million bytes"):
            images.open_archive(str(tmp_path / "a.tar"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [-512, -1024, 1 << 40])
def test_a_size_that_leads_elsewhere_is_refused(size):
    with pytest.raises(ValueError, match=r"ends too early|invalid|damaged|negative|million"):
        opened(header("0.png", 512) + bytes(512) + header("1.png", size) + bytes(2048))


def test_a_compressed_bomb_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    from signsclf.imagefiles import localcopies

    monkeypatch.setattr(localcopies, "_SLACK", 1 << 20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(1 << 25)))
    with pytest.raises(BadImageError, match="bytes when decompressed; if it is right, gunzip it"):
        images.read(f"{tmp_path}/a.tar.gz/0.png")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".bin"]


def test_a_compressed_one_is_copied_once_and_again_when_it_changes(tmp_path, monkeypatch):
    from signsclf.imagefiles import cachefolder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for content in (b"old", b"newer"):
        data = Path(packed(tmp_path / "a.tar", {"0.png": content})).read_bytes()
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
        images._archives.clear()
        for _ in range(2):
            assert images.read(f"{tmp_path}/a.tar.gz/0.png") == content
    folder = cachefolder.users_folder()
    assert folder.is_relative_to(tmp_path) and cachefolder.measure(folder)[0] == 2
    assert cachefolder.clear(folder)[1] == 0
    assert images.read(f"{tmp_path}/a.tar.gz/0.png") == b"newer"


def test_without_a_cache_folder_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(BadImageError, match="no cache folder; set XDG_CACHE_HOME"):
        images.read(f"{tmp_path}/a.tar.gz/0.png")
