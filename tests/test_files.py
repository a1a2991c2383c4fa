"""Files are written whole or not at all, and devices, pipes and links stay what they are."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from signsclf import files
from signsclf.errors import ModelError, SignsclfError
from signsclf.files import csv_bytes, file_hash, json_bytes, open_output, write_atomic

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


def test_a_file_is_written_and_nothing_else_is_left(tmp_path):
    write_atomic(tmp_path / "a.csv", b"one")
    write_atomic(str(tmp_path / "a.csv"), b"two")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.csv": b"two"}


@posix
def test_the_mode_of_what_was_there_is_kept_and_a_new_file_has_the_usual_one(tmp_path):
    (tmp_path / "old").write_bytes(b"")
    (tmp_path / "old").chmod(0o640)
    (tmp_path / "plain").write_bytes(b"")
    for name in ("old", "new"):
        write_atomic(tmp_path / name, b"data")
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


@posix
def test_links_stay_and_their_targets_are_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("far/real.csv")
    (tmp_path / "link of link").symlink_to("link.csv")
    write_atomic(tmp_path / "link of link", b"new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "link of link").is_symlink()
    assert (tmp_path / "far" / "real.csv").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("far/made.csv")
    write_atomic(tmp_path / "dangling", b"made")
    assert (tmp_path / "far" / "made.csv").read_bytes() == b"made"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(SignsclfError, match="round: cannot be written"):
        write_atomic(tmp_path / "round", b"x")


@posix
@pytest.mark.parametrize("text", [False, True])
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path, text):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with open_output(pipe, text=text) as file:
        file.write("a\n" if text else b"a\n")
    reader.join(10)
    assert read == [b"a\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@posix
def test_each_line_goes_into_a_pipe_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    handle = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with open_output(tmp_path / "pipe", text=True) as file:
            file.write("first\n")
            assert os.read(handle, 100) == b"first\n"
    finally:
        os.close(handle)


@posix
def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    before = Path("/dev/null").stat()
    write_atomic("/dev/null", b"data")
    (tmp_path / "link").symlink_to("/dev/null")
    write_atomic(tmp_path / "link", b"data")
    after = Path("/dev/null").stat()
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux")
def test_an_open_file_of_the_process_stays_the_same_file(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        write_atomic(f"/proc/self/fd/{file.fileno()}", b"data")
    assert (tmp_path / "log").read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_device_is_one_line_that_names_it(tmp_path):
    for text in (False, True):
        with pytest.raises(SignsclfError, match=r"^/dev/full: cannot be written \(No space left on device\)"):  # noqa: SIM117
            with open_output("/dev/full", text=text) as file:
                for _ in range(10_000):
                    file.write("a line\n" if text else b"a line\n")


@posix
def test_a_file_that_cannot_grow_leaves_what_was_there(tmp_path):
    import resource

    (tmp_path / "a").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(ModelError, match=r"a: cannot be written \(File too large\)"):
            write_atomic(tmp_path / "a", bytes(1000), ModelError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_what_was_there_and_no_tmp_file(tmp_path, monkeypatch, fails):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(fails, full)
    with pytest.raises(ModelError, match=r"a: cannot be written \(No space left on device\)"):
        write_atomic(tmp_path / "a", b"new", ModelError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


@pytest.mark.parametrize("error", [OSError(5, "of something else"), KeyboardInterrupt(), ModelError("mine")])
def test_an_error_of_the_body_is_its_own_and_what_was_there_stays(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)) as caught:  # noqa: SIM117
        with open_output(tmp_path / "a") as file:
            file.write(b"half")
            raise error
    assert caught.value is error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_what_cannot_be_written_is_named(tmp_path):
    for path, why in (("no/such/folder.csv", "No such file"), ("a\0b", "null"), ("n" * 300, "")):
        with pytest.raises(SignsclfError, match=f"cannot be written.*{why}"):
            write_atomic(tmp_path / path, b"")
    with pytest.raises(SignsclfError, match="is a folder; name a file"):
        write_atomic(tmp_path, b"")
    write_atomic(tmp_path / ("n" * 250), b"the tmp file's name is not longer")
    assert len(list(tmp_path.iterdir())) == 1


def test_tmp_files_are_known_by_their_names(tmp_path):
    with open_output(tmp_path / "a"):
        names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 1
    assert files.is_tmp_name(names[0])
    assert not files.is_tmp_name("a.tmp")


def test_digests_csv_and_json(tmp_path):
    write_atomic(tmp_path / "a", b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert csv_bytes([("path", "label"), ("a,b", None), ("=1+1", "é")]) == 'path,label\n"a,b",\n=1+1,é\n'.encode()
    assert csv_bytes([["\udcff"]]) == b"\\udcff\n"
    assert json.loads(json_bytes({"é\udcff": [1.5]})) == {"é\udcff": [1.5]}
    with pytest.raises(ValueError, match="JSON"):
        json_bytes(float("nan"))


def test_the_remedy_is_of_the_reason(tmp_path):
    with pytest.raises(SignsclfError, match=r"\(No such file or directory\); create its folder first, or name"):
        write_atomic(tmp_path / "none" / "a.csv", b"x")
    (tmp_path / "file").touch()
    with pytest.raises(SignsclfError, match=r"\(Not a directory\); name another place"):
        write_atomic(tmp_path / "file" / "a.csv", b"x")
