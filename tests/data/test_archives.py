"""Zip archives under any encoding of names; other archives are refused with what makes a source of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from smalltables import refusal

from signsclf import images
from signsclf.choices import Layout, Reading
from signsclf.data.table import read_source
from signsclf.data.zipnames import ENCODINGS


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    return data.getvalue()


def pack(archive: Path, names: list[str], encoding: str | None = None, **files: str) -> Path:
    """A zip of images and other files; with an encoding, images' names are in it and not marked as UTF-8."""
    raws = {f"{i:03}".ljust(len(raw), "-"): raw for i, raw in enumerate(n.encode(encoding or "utf-8") for n in names)}
    with zipfile.ZipFile(archive, "w") as file:
        for name in names if encoding is None else raws:
            file.writestr(zipfile.ZipInfo(name), picture())
        for name, text in files.items():
            file.writestr(f"{name}.csv", text)
    if encoding is not None:
        data = archive.read_bytes()
        for placeholder, raw in raws.items():
            assert data.count(placeholder.encode()) == 2
            data = data.replace(placeholder.encode(), raw)
        archive.write_bytes(data)
    return archive


LEGACY = [
    ("cp932", ["表_止まれ", "表_徐行", "歩行者"]),
    ("cp932", ["ソフト", "犬", "リンゴ"]),
    ("gbk", ["红灯", "绿灯", "停车"]),
    ("gbk", ["汽车", "火车", "飞机"]),
    ("cp949", ["고양이", "강아지", "정지"]),
    ("cp950", ["紅燈", "功能", "停車"]),
    ("cp866", ["Стоп", "Дорога", "машина"]),
    ("cp1251", ["Стоп", "дом", "собака"]),
    ("cp850", ["Größe", "Straße", "Übergang"]),
    ("cp850", ["été", "forêt", "hiver"]),
    ("cp1252", ["Möwe", "Bär", "señal"]),
    ("cp737", ["γάτα", "σκύλος", "σπίτι"]),
    ("utf-8", ["Größe", "表_止まれ", "дом"]),
]


class TestNames:
    @pytest.mark.parametrize(("encoding", "classes"), LEGACY)
    def test_legacy_encodings_are_told_from_the_names(self, tmp_path, encoding, classes):
        archive = pack(tmp_path / "a.zip", [f"{label}/{i}.png" for label in classes for i in range(2)], encoding)
        source = read_source(archive)
        assert set(source.classes) == set(classes)
        assert len(source.table) == 6
        assert {source.relative(path) for path in source.table["path"]} >= {f"{label}/1.png" for label in classes}
        assert all(images.load(path, (4, 4)).any() for path in source.table["path"])
        notes = [note for note in source.notes if "--zip-encoding" in note]
        assert len(notes) == (encoding != "utf-8")
        assert all("not marked as UTF-8" in note for note in notes)

    def test_the_encoding_asked_for(self, tmp_path):
        archive = pack(tmp_path / "a.zip", ["žluť/0.png", "modř/0.png"], "cp1250")
        source = read_source(archive, Reading(zip_encoding="cp1250"))
        assert source.classes == ("modř", "žluť")
        assert source.notes == ()
        assert "a name in it is not utf-8" in refusal(archive, Reading(zip_encoding="utf-8"))
        assert read_source(archive, Reading(zip_encoding="cp437")).classes != source.classes
        assert "is not one line of printable text" in refusal(archive, Reading(zip_encoding="latin-1"))

    def test_the_encoding_of_no_archive(self, tmp_path):
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "0.png").write_bytes(picture())
        assert "leave it out" in refusal(tmp_path, Reading(zip_encoding="cp932"))

    def test_all_encodings_are_there(self):
        for encoding in ENCODINGS:
            assert b"a".decode(encoding) == "a"

    @pytest.mark.parametrize("encoding", [None, "cp850"])
    def test_one_name_in_two_spellings_loses_no_image(self, tmp_path, encoding):
        names = ["a/0.png", "a\\0.png", "./a/0.png", "b/1.png"]
        if encoding is None:
            names += ["b/\u00e9.png", "b/e\u0301.png"]
        source = read_source(pack(tmp_path / "a.zip", names, encoding))
        assert not any("without images" in note for note in source.notes)
        assert len(source.table) == len({source.relative(path) for path in source.table["path"]}) == len(names)
        assert source.classes == ("a", "b")

    def test_a_table_finds_its_images(self, tmp_path):
        names = ["写真/表1.png", "写真/表2.png"]
        table = f"path,label\n{names[0]},止まれ\n{names[1]},徐行\n"
        archive = pack(tmp_path / "a.zip", names, "cp932", labels=table)
        source = read_source(archive)
        assert source.layout is Layout.TABLE
        assert [source.relative(path) for path in source.table["path"]] == names

    def test_the_name_in_the_extra_field(self, tmp_path):
        name = "表/0.png".encode()
        info = zipfile.ZipInfo("x/0.png")
        extra = b"\1" + zipfile.crc32(b"x/0.png").to_bytes(4, "little") + name
        info.extra = (0x7075).to_bytes(2, "little") + len(extra).to_bytes(2, "little") + extra
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(info, picture())
        source = read_source(tmp_path / "a.zip")
        assert source.classes == ("表",)
        assert images.read(source.table["path"][0])


class TestMembers:
    def test_all_outside(self, tmp_path):
        archive = pack(tmp_path / "evil.zip", ["../a/0.png", "b/../../1.png"])
        said = refusal(archive)
        assert "lead outside the archive are left out (2): '../a/0.png'" in said
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr("cat/0.png", picture())
        assert any("(2)" in note for note in read_source(archive).notes)

    def test_encrypted_ones_are_counted(self, tmp_path):
        archive = pack(tmp_path / "a.zip", ["cat/0.png", "cat/1.png", "dog/0.png"])
        data = bytearray(archive.read_bytes())
        for start, flag in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.rfind(start) + flag] |= 1
        archive.write_bytes(data)
        assert "1 of 3 members are encrypted; unpack it with its password" in refusal(archive)

    def test_named_twice(self, tmp_path):
        with pytest.warns(UserWarning, match="Duplicate"):
            archive = pack(tmp_path / "a.zip", ["cat/0.png", "cat/0.png", "dog/0.png"])
        source = read_source(archive)
        assert len(source.table) == 2
        assert any("(1)" in note and "'cat/0.png'" in note for note in source.notes)


class TestTars:
    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "A.TGZ"])
    def test_are_read_in_place(self, tmp_path, name):
        with tarfile.open(tmp_path / name, "w:gz" if name.lower().endswith("gz") else "w") as archive:
            for label in ("cat", "dog"):
                add(archive, f"./photos/{label}/0.png", picture())
            add(archive, "../cat/1.png", picture())
            link = tarfile.TarInfo("photos/cat/2.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        for place in (tmp_path / name, tmp_path):
            source = read_source(place)
            assert source.classes == ("cat", "dog") and source.layout is Layout.FOLDERS
            assert source.table["path"].tolist() == [
                f"{tmp_path}/{name}/photos/{each}/0.png" for each in source.classes
            ]
            assert source.relative(source.table["path"][0]) == "cat/0.png"
            assert all(images.load(path, (4, 4)).any() for path in source.table["path"])
            assert any("lead outside the archive are left out (1): '../cat/1.png'" in note for note in source.notes)
            assert any("links in the archive are not followed (1)" in note for note in source.notes)
        assert "--zip-encoding does not fit" in refusal(tmp_path / name, Reading(zip_encoding="cp932"))

    def test_a_table_in_it(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            add(archive, "labels.csv", b"path,label\n0.png,cat\n1.png,dog\n")
            for i in range(2):
                add(archive, f"{i}.png", picture())
        source = read_source(tmp_path / "a.tar")
        assert source.layout is Layout.TABLE and source.classes == ("cat", "dog")
        assert images.load(source.table["path"][1], (4, 4)).any()

    @pytest.mark.parametrize("name", ["a.tgz", "a.tar", "a.TAR.GZ"])
    def test_broken(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"x" * 5_000)
        said = refusal(tmp_path / name)
        assert f"{name}: not a tar archive, but" in said or f"{name}: cannot be read (Not a gzipped file" in said


class TestOthers:
    def test_archives_in_an_archive(self, tmp_path):
        for part in ("train", "test"):
            pack(tmp_path / f"{part}.zip", [f"{part}/a/0.png", f"{part}/b/0.png"])
        with zipfile.ZipFile(tmp_path / "nested.zip", "w") as file:
            for part in ("train", "test"):
                file.write(tmp_path / f"{part}.zip", f"{part}.zip")
        said = refusal(tmp_path / "nested.zip")
        assert "2 archives in it ('test.zip', 'train.zip')" in said
        assert "unpack it, and them in it, and give the folder" in said
        (tmp_path / "nested.zip").unlink()
        source = read_source(tmp_path)
        assert Counter(source.table["split"]) == {"train": 2, "test": 2}
        assert source.classes == ("a", "b")
        assert all(images.read(path) for path in source.table["path"])

    def test_an_archive_beside_images_is_told(self, tmp_path):
        archive = pack(tmp_path / "a.zip", ["cat/0.png", "dog/0.png"])
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr("more.tar.gz", b"")
        assert any("not looked into (1): 'more.tar.gz'" in note for note in read_source(archive).notes)

    @pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
    def test_tar_of_another_compression(self, tmp_path, mode):
        name = "my photos.tar" + mode[1:].replace(":", ".")
        with tarfile.open(tmp_path / name, mode) as archive:
            add(archive, "a/0.png", picture())
        said = refusal(tmp_path / name)
        assert f"not read compressed like this: unpack it (mkdir photos && tar -xf '{name}'" in said
        assert "1 archive in it" in refusal(tmp_path)
        assert f"tar -xf '{name}'" in refusal(tmp_path)

    @pytest.mark.parametrize("name", ["a.7z", "a.rar", "a.gz"])
    def test_others(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"x")
        assert f"a .{name[2:]} archive, which is not read: unpack it" in refusal(tmp_path / name)

    def test_other_files_are_counted(self, tmp_path):
        (tmp_path / "x_train.dat").write_bytes(b"")
        (tmp_path / "y_train.dat").write_bytes(b"")
        assert "2 .dat" in refusal(tmp_path)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
