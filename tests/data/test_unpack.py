"""Zip archives made to do harm, and those that are merely damaged."""

from __future__ import annotations

import stat
import struct
import zipfile

import pytest

from signsclf.data.unpack import unpack
from signsclf.errors import DownloadError


def make(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def refused(archive, into, match, **limits):
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(DownloadError, match=match) as error:
        unpack(archive, into, **limits)
    assert "\n" not in str(error.value)
    assert sorted(into.parent.rglob("*")) == before, "something was left behind"


def test_all_files_and_folders_arrive(tmp_path):
    archive = make(tmp_path / "a.zip", [("top.txt", b"1"), ("ä b/c/d.txt", b"2"), ("empty/", b"")])
    unpack(archive, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert (out / "top.txt").read_bytes() == b"1"
    assert (out / "ä b" / "c" / "d.txt").read_bytes() == b"2"
    assert (out / "empty").is_dir()
    assert {path.name for path in out.iterdir()} == {"top.txt", "ä b", "empty"}


def test_folders_there_are_added_to_and_files_of_the_same_name_replaced(tmp_path):
    (tmp_path / "out" / "x").mkdir(parents=True)
    (tmp_path / "out" / "x" / "kept").write_text("kept")
    (tmp_path / "out" / "x" / "old").write_text("old")
    unpack(make(tmp_path / "a.zip", [("x/old", b"new"), ("x/y/z", b"z")]), tmp_path / "out")
    found = {path.name: path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"kept": "kept", "old": "new", "z": "z"}


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "a/..",
        "/etc/evil",
        "//host/share/evil",
        "C:/evil",
        "C:evil",
        "a:stream",
        "..\\evil",
        "a\\b",
        "\\\\host\\evil",
        "a/.. /evil",
        "a/.../evil",
        "./evil",
        "a//evil",
        "a\nb",
        "a\x7fb",
    ],
)
def test_an_entry_that_may_lead_outside_refuses_the_archive(tmp_path, name):
    refused(make(tmp_path / "a.zip", [("good", b"1"), (name, b"2")]), tmp_path / "out", "may lead outside")


def test_a_name_cut_at_nul_is_refused(tmp_path):
    archive = make(tmp_path / "a.zip", [("good.txt", b"1")])
    archive.write_bytes(archive.read_bytes().replace(b"good.txt", b"good\0txt"))
    refused(archive, tmp_path / "out", "may lead outside")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    entry = zipfile.ZipInfo("innocent")
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    refused(make(tmp_path / "a.zip", [(entry, b"/etc")]), tmp_path / "out", "no plain file")


def test_expansion_is_bounded_by_what_is_written(tmp_path):
    archive = make(tmp_path / "bomb.zip", [("a", bytes(600_000)), ("b", bytes(600_000))])
    assert archive.stat().st_size < 10_000
    refused(archive, tmp_path / "out", "more than 1,000,000 bytes", max_bytes=1_000_000)
    unpack(archive, tmp_path / "out", max_bytes=1_200_000)


def test_a_header_that_understates_the_size_gets_no_more_through(tmp_path):
    archive = make(tmp_path / "bomb.zip", [("a", bytes(5_000_000))])
    data = archive.read_bytes()
    archive.write_bytes(data.replace(struct.pack("<L", 5_000_000), struct.pack("<L", 10)))
    refused(archive, tmp_path / "out", "damaged|more than", max_bytes=1_000_000)


def test_the_number_of_entries_is_bounded(tmp_path):
    archive = make(tmp_path / "a.zip", [(str(i), b"") for i in range(11)])
    refused(archive, tmp_path / "out", "11 entries are too many", max_files=10)
    unpack(archive, tmp_path / "out", max_files=11)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/"), ("a", "a/b"), ("a/b", "a")])
def test_two_entries_of_one_name_are_refused(tmp_path, names):
    archive = make(tmp_path / "a.zip", [(name, b"") for name in names])
    refused(archive, tmp_path / "out", "twice")


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compressions_that_may_ask_for_much_memory_are_refused(tmp_path, compression):
    refused(make(tmp_path / "a.zip", [("a", b"1")], compression), tmp_path / "out", "deflate")


def test_damage_anywhere_leaves_nothing_behind(tmp_path):
    whole = make(tmp_path / "a.zip", [("good", b"1"), ("later", bytes(range(256)) * 8)], zipfile.ZIP_STORED)
    data = whole.read_bytes()
    at = data.index(bytes(range(256)))
    cases = {
        "a bit": data[:at] + b"\xff" + data[at + 1 :],
        "cut": data[: len(data) // 2],
        "text": b"not a zip",
        "empty": b"",
        "encrypted": data.replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"),
    }
    assert len(set(cases.values())) == 5 and data not in cases.values()
    for name, content in cases.items():
        archive = tmp_path / f"{name}.zip"
        archive.write_bytes(content)
        refused(archive, tmp_path / "out", "damaged")


def test_what_was_there_stays_when_an_archive_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    refused(make(tmp_path / "a.zip", [("mine", b"2"), ("../x", b"")]), tmp_path / "out", "may lead outside")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_leavings_of_a_killed_run_are_cleared(tmp_path):
    stale = tmp_path / "out" / ".a.zip.unpacking" / "half"
    stale.parent.mkdir(parents=True)
    stale.write_text("half")
    unpack(make(tmp_path / "a.zip", [("whole", b"1")]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_no_such_archive_is_one_line(tmp_path):
    refused(tmp_path / "none.zip", tmp_path / "out", "none.zip")
