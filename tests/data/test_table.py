"""Each layout of a source, as folder and as zip, gives the table that a user expects, or one clear line."""

from __future__ import annotations

import os
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from smalltables import refusal, zipped

from signsclf import images
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.data.table import Layout, Source, apply_crop, describe, read_source
from signsclf.errors import BadImageError, MissingExtraError, SourceError


def draw(*paths: Path, size: tuple[int, int] = (20, 16)) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "red").save(path)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path):
    """A folder that is deep enough for nothing of another test to lie above it."""
    folder = tmp_path / "a" / "b" / "c" / "source"
    folder.mkdir(parents=True)
    return folder


def relative(source: Source) -> list[str]:
    return [source.relative(path) for path in source.table["path"]]


def rows(source: Source) -> dict[str, tuple[str, str | None]]:
    table = source.table
    return {source.relative(row["path"]): (row["label"], row["split"]) for row in table}


HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


def official_training(root: Path, classes: tuple[int, ...] = (1, 14), csv: bool = True) -> None:
    for c in classes:
        folder = root / f"GTSRB/Final_Training/Images/{c:05d}"
        names = [f"{track:05d}_{frame:05d}.ppm" for track in range(2) for frame in range(2)]
        draw(*(folder / name for name in names))
        if csv:
            write(folder / f"GT-{c:05d}.csv", HEADER, *(f"{name};20;16;2;3;17;12;{c}" for name in names))


def numbered_training(root: Path, classes: Iterable[int], track: int) -> None:
    """Class folders with a csv each, as GTSRB and the Belgian signs have them."""
    for c in classes:
        name = f"{track:05}_00000.ppm"
        draw(root / f"{c:05}" / name)
        write(root / f"{c:05}" / f"GT-{c:05}.csv", HEADER, f"{name};20;16;2;3;17;12;{c}")


def official_test(root: Path) -> None:
    folder = root / "GTSRB/Final_Test/Images"
    draw(folder / "00000.ppm", folder / "00001.ppm")
    lines = [line.rpartition(";")[0] for line in (HEADER, *TRUTH)]
    write(folder / "GT-final_test.test.csv", *lines)


TRUTH = ("00000.ppm;20;16;2;3;17;12;14", "00001.ppm;20;16;2;3;17;12;1")


class TestGtsrb:
    def test_training_and_test(self, root, packed):
        official_training(root)
        official_test(root)
        write(root / "GT-final_test.csv", HEADER, *TRUTH)
        source = read_source(packed(root))
        assert source.layout is Layout.GTSRB
        assert source.is_gtsrb
        assert source.classes == (CLASS_NAMES[1], "Stop")
        table = source.table
        assert list(table.dtype.names) == ["path", "label", "split", "group", "roi"]
        assert rows(source)["Final_Training/Images/00014/00001_00000.ppm"] == ("Stop", "train")
        assert rows(source)["Final_Test/Images/00000.ppm"] == ("Stop", "test")
        assert len(set(table["group"][table["split"] == "train"])) == 4
        assert set(table["group"][table["split"] == "test"]) == {None}
        assert set(table["roi"]) == {(2, 3, 17, 12)}
        assert all(images.load(path, (8, 8)).shape == (8, 8, 3) for path in table["path"])

    def test_tracks_restart_in_each_class(self, root):
        official_training(root)
        groups = read_source(root).table["group"]
        assert set(groups) - {None} == {f"{CLASS_NAMES[c]}/0000{t}" for c in (1, 14) for t in (0, 1)}

    @pytest.mark.parametrize("given", ["", "GTSRB", "GTSRB/Final_Training", "GTSRB/Final_Training/Images"])
    def test_training_is_the_same_from_root_parent_and_images(self, root, given):
        official_training(root)
        source = read_source(root / given)
        assert source.layout is Layout.GTSRB
        assert relative(source)[0] == "00001/00000_00000.ppm"
        assert relative(source) == relative(read_source(zipped(root)))

    @pytest.mark.parametrize(
        "truth", ["GTSRB/Final_Test/Images", "GTSRB/Final_Test", "GTSRB", ".", "GTSRB_Final_Test_GT.zip"]
    )
    @pytest.mark.parametrize("given", ["", "GTSRB", "GTSRB/Final_Test/Images"])
    def test_ground_truth_wherever_it_lies(self, root, truth, given):
        official_test(root)
        if truth.endswith(".zip"):
            csv = write(root.parent / "GT-final_test.csv", HEADER, *TRUTH)
            with zipfile.ZipFile(root / truth, "w") as file:
                file.write(csv, csv.name)
            csv.unlink()
        else:
            write(root / truth / "GT-final_test.csv", HEADER, *TRUTH)
        source = read_source(root / given)
        assert rows(source) == {"00000.ppm": ("Stop", "test"), "00001.ppm": (CLASS_NAMES[1], "test")}

    def test_folder_of_the_archives(self, root, tmp_path):
        training, test, truth = tmp_path / "training", tmp_path / "test", tmp_path / "truth"
        official_training(training)
        official_test(test)
        write(truth / "GT-final_test.csv", HEADER, *TRUTH)
        zipped(training, root / "GTSRB_Final_Training_Images.zip")
        zipped(test, root / "GTSRB_Final_Test_Images.zip")
        zipped(truth, root / "GTSRB_Final_Test_GT.zip")
        source = read_source(root)
        assert Counter(source.table["split"]) == {"train": 8, "test": 2}
        assert rows(source)["Final_Test/Images/00000.ppm"] == ("Stop", "test")
        assert images.read(source.table["path"][-1])
        only_test = read_source(root / "GTSRB_Final_Test_Images.zip")
        assert set(only_test.table["split"]) == {"test"}
        # What is unpacked already is not read twice.
        official_training(root)
        official_test(root)
        assert len(read_source(root).table) == 10
        assert not any(".zip" in path for path in read_source(root).table["path"])

    def test_test_images_without_ground_truth(self, root, packed):
        official_test(root)
        assert "GT-final_test.csv" in refusal(packed(root))
        official_training(root)
        source = read_source(packed(root))
        assert set(source.table["split"]) == {"train"}
        assert any("GTSRB_Final_Test_GT.zip" in note for note in source.notes)

    def test_class_that_gtsrb_does_not_have(self, root):
        official_training(root, (43,))
        assert "00043" in refusal(root)
        assert "--layout folders" in refusal(root)
        assert read_source(root, Layout.FOLDERS).classes == ("00043",)

    @pytest.mark.parametrize(
        ("classes", "track", "says"),
        [
            ((0, 7, 13), 1153, "its tracks are not GTSRB's; --layout gtsrb takes them for that"),
            ((0, 7, 61), 0, "1 of 3 class folders, '00061', are not its classes"),
            ((0, 7, 13), 0, "it has 3 of 43 class folders; --layout gtsrb gives them GTSRB's names"),
        ],
    )
    def test_another_benchmark_that_lies_so(self, root, packed, classes, track, says):
        numbered_training(root / "Training", classes, track)
        source = read_source(packed(root))
        assert not source.is_gtsrb
        assert source.classes == tuple(f"{c:05}" for c in classes)
        (said,) = source.notes
        assert says in said
        assert "as with --layout folders" in said
        assert read_source(root, Layout.FOLDERS).notes == ()
        if 61 not in classes:
            assert read_source(root, Layout.GTSRB).classes == tuple(CLASS_NAMES[c] for c in classes)

    def test_another_benchmark_in_two_parts(self, root):
        for part in ("Training", "Testing"):
            numbered_training(root / f"Signs_{part}" / part, (0, 7, 13), 1153)
        source = read_source(root)
        assert source.classes == ("00000", "00007", "00013")
        assert Counter(source.table["split"]) == {"train": 3, "test": 3}

    def test_the_whole_set_wherever_it_lies(self, root, packed):
        numbered_training(root / "signs", range(43), 0)
        source = read_source(packed(root))
        assert source.layout is Layout.GTSRB
        assert source.classes == CLASS_NAMES

    def test_several_training_sets(self, root):
        for part in ("original", "augmented"):
            numbered_training(root / part, (0, 1, 2), 0)
        said = refusal(root)
        assert f"give one, such as {root.as_posix()}/augmented/" in said
        assert "--layout folders" in said
        assert read_source(root, Layout.FOLDERS).classes == ("augmented", "original")
        assert read_source(root / "original", Layout.GTSRB).classes == CLASS_NAMES[:3]

    @pytest.mark.parametrize(
        ("other", "says"), [("57", "its ClassId '57' is not one"), ("2", "nothing in it is GTSRB's")]
    )
    def test_a_table_like_that_of_kaggles_copy(self, root, packed, other, says):
        names = [f"Train/{c}/{i}.png" for c in ("0", "1", other) for i in range(2)]
        draw(*(root / name for name in names))
        write(root / "Train.csv", "Path,ClassId", *(f"{name},{name.split('/')[1]}" for name in names))
        source = read_source(packed(root))
        assert source.classes == ("0", "1", other)
        (said,) = source.notes
        assert says in said
        assert "--layout folders" in said
        if other == "57":
            assert "--layout folders" in refusal(root, Layout.KAGGLE)
        else:
            assert read_source(root, Layout.KAGGLE).classes == CLASS_NAMES[:3]

    def test_kaggle(self, root, packed):
        names = [f"Train/{c}/{c:05d}_{t:05d}_00000.png" for c in (2, 10) for t in (0, 1)]
        draw(*(root / name for name in [*names, "Test/00000.png", "Meta/2.png"]))
        header = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path"
        write(root / "Train.csv", header, *(f"20,16,2,3,17,12,{n.split('/')[1]},{n}" for n in names))
        write(root / "Test.csv", header, "20,16,2,3,17,12,10,Test/00000.png")
        source = read_source(packed(root))
        assert source.layout is Layout.KAGGLE
        assert source.classes == (CLASS_NAMES[2], CLASS_NAMES[10])
        assert Counter(source.table["split"]) == {"train": 4, "test": 1}
        assert len(set(source.table["group"]) - {None}) == 4
        assert source.has_roi
        assert source.notes == ()
        (root / "Train.csv").unlink()
        without = read_source(root)
        assert Counter(without.table["split"]) == {"train": 4, "test": 1}
        assert not without.has_roi

    @pytest.mark.parametrize("digits", [1, 5])
    def test_class_folders_by_number(self, root, packed, digits):
        draw(*(root / f"gtsrb/{c:0{digits}d}/{t:05d}_00000.ppm" for c in range(43) for t in range(2)))
        source = read_source(packed(root))
        assert source.layout is Layout.FOLDERS
        assert source.is_gtsrb
        assert source.classes == CLASS_NAMES
        assert len(set(source.table["group"]) - {None}) == 86

    def test_other_numbers_are_just_names(self, root):
        draw(*(root / f"{c}/x.png" for c in range(42)))
        source = read_source(root)
        assert not source.is_gtsrb
        assert source.classes == tuple(str(c) for c in range(42))


class TestCrop:
    def test_boxes_are_kept_only_when_asked_for(self, root):
        official_training(root)
        source = read_source(root)
        assert set(apply_crop(source, True).table["roi"]) == {(2, 3, 17, 12)}
        assert set(apply_crop(source, False).table["roi"]) == {None}
        assert source.has_roi

    def test_refused_without_boxes(self, root):
        official_training(root, csv=False)
        with pytest.raises(SourceError, match="no box"):
            apply_crop(read_source(root), True)

    def test_refused_when_the_images_were_resized(self, root):
        official_training(root)
        draw(root / "GTSRB/Final_Training/Images/00014/00001_00001.ppm", size=(32, 32))
        with pytest.raises(SourceError, match=r"32×32 pixels, its csv says 20×16"):
            apply_crop(read_source(root), True)


class TestFolders:
    def test_classes_in_natural_order(self, root, packed):
        draw(*(root / f"wrap/per/{name}/x.PNG" for name in ("img10", "img2", "Zebra", "ähre", "007")))
        source = read_source(packed(root))
        assert source.layout is Layout.FOLDERS
        assert source.classes == ("007", "img2", "img10", "Zebra", "ähre")
        assert rows(source)["img2/x.PNG"] == ("img2", None)
        assert set(source.table["group"]) == {None}
        assert set(source.table["roi"]) == {None}

    @pytest.mark.parametrize(
        "train, valid, test",
        [("train", "val", "test"), ("Training", "validation", "TESTING"), ("TRAIN", "valid", "Test")],
    )
    def test_splits(self, root, packed, train, valid, test):
        draw(*(root / f"data/{part}/{label}/1.jpg" for part in (train, valid, test) for label in ("cat", "dog")))
        source = read_source(packed(root))
        assert source.classes == ("cat", "dog")
        assert rows(source)[f"{train}/cat/1.jpg"] == ("cat", "train")
        assert rows(source)[f"{valid}/dog/1.jpg"] == ("dog", "valid")
        assert rows(source)[f"{test}/dog/1.jpg"] == ("dog", "test")

    def test_tracks_need_every_file(self, root, packed):
        draw(*(root / f"{label}/{t:05d}_{f:05d}.png" for label in "ab" for t in range(2) for f in range(3)))
        assert Counter(read_source(packed(root)).table["group"]) == {
            "a/00000": 3, "a/00001": 3, "b/00000": 3, "b/00001": 3,
        }  # fmt: skip
        draw(root / "b/photo.png")
        assert set(read_source(root).table["group"]) == {None}

    def test_tracks_in_training_and_test_are_told(self, root):
        draw(*(root / f"{part}/a/00000_0000{i}.png" for i, part in enumerate(("train", "test"))))
        assert any("(1)" in note and "tracks" in note for note in read_source(root).notes)

    def test_class_that_training_lacks(self, root, packed):
        draw(root / "train/cat/1.png", root / "train/dog/1.png", root / "test/emu/1.png")
        assert "'emu'" in refusal(packed(root))

    def test_test_alone(self, root):
        draw(root / "test/cat/1.png", root / "test/dog/1.png")
        assert set(read_source(root).table["split"]) == {"test"}

    def test_what_is_left_out_is_told(self, root, packed):
        draw(root / "cat/1.png", root / "dog/1.png", root / "stray.png")
        (root / "emu").mkdir()
        source = read_source(packed(root))
        assert source.classes == ("cat", "dog")
        assert any("'emu'" in note for note in source.notes)
        assert any("'stray.png'" in note for note in source.notes)

    def test_unlabelled_test_images_are_told(self, root, packed):
        draw(root / "train/cat/1.png", root / "train/dog/1.png", root / "test/1.png")
        source = read_source(packed(root))
        assert set(source.table["split"]) == {"train"}
        assert any("'test/1.png'" in note for note in source.notes)

    def test_hidden_files(self, root, packed):
        draw(root / "cat/1.png", root / "cat/._1.png", root / "__MACOSX/cat/1.png", root / ".cache/1.png")
        write(root / "cat/Thumbs.db", "x")
        assert relative(read_source(packed(root))) == ["cat/1.png"]

    def test_one_class_with_one_image(self, root, packed):
        draw(root / "cat/1.png")
        source = read_source(packed(root))
        assert source.classes == ("cat",)
        assert describe(source)

    def test_both_names_of_one_split(self, root):
        draw(root / "train/cat/1.png", root / "val/cat/1.png", root / "valid/cat/2.png")
        assert "val/ and valid/" in refusal(root)

    def test_labels_do_not_depend_on_the_form_of_unicode(self, root, packed):
        draw(root / unicodedata.normalize("NFD", "Grünes Licht") / "ä b.png", root / "rot/1.png")
        source = read_source(packed(root))
        assert source.classes == ("Grünes Licht", "rot")
        assert unicodedata.is_normalized("NFC", "".join(relative(source)))
        assert all(images.load(path, (4, 4)).any() for path in source.table["path"])

    def test_utf8_names_without_the_mark(self, root):
        draw(root / "1.png")
        archive = root / "mac.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.write(root / "1.png", "Schild_gruen/1.png")
            file.write(root / "1.png", "Schild_xxx/1.png")
        # Two bytes of UTF-8 in the place of two letters, and no flag that says so.
        archive.write_bytes(archive.read_bytes().replace(b"Schild_gruen", b"Schild_gr\xc3\xbcn"))
        source = read_source(archive)
        assert source.classes == ("Schild_grün", "Schild_xxx")
        assert all(images.load(path, (4, 4)).any() for path in source.table["path"])

    @pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
    def test_links(self, root, tmp_path):
        draw(tmp_path / "elsewhere/dog/1.png", root / "cat/1.png")
        (root / "dog").symlink_to(tmp_path / "elsewhere/dog")
        (root / "cat/linked.png").symlink_to(root / "cat/1.png")
        (root / "cat/broken.png").symlink_to(root / "nowhere.png")
        (root / "cat/itself.png").symlink_to(root / "cat/itself.png")
        (root / "cat/circle").symlink_to(root)
        source = read_source(root)
        found = [name for name in relative(source) if "circle" not in name]
        assert found == ["cat/1.png", "cat/linked.png", "dog/1.png"]
        assert len(relative(source)) == 3
        assert any("broken.png" in note and "(2)" in note for note in source.notes)


class TestTable:
    @pytest.mark.parametrize("separator", [",", ";"])
    def test_csv(self, root, packed, separator):
        draw(root / "images/a b.png", root / "images/ö.png", root / "images/c.png")
        lines = ["Path,LABEL,split,group", "images/a b.png,007,train,x", "./images/ö.png,NA,train,x",
                 "images\\c.png,007,Val,"]  # fmt: skip
        write(root / "labels.csv", *(line.replace(",", separator) for line in lines))
        source = read_source(packed(root))
        assert source.layout is Layout.TABLE
        assert source.classes == ("007", "NA")
        assert list(source.table["split"]) == ["train", "train", "valid"]
        assert list(source.table["group"]) == ["x", "x", None]
        assert relative(source) == ["images/a b.png", "images/ö.png", "images/c.png"]
        assert all(images.load(path, (4, 4)).any() for path in source.table["path"])

    def test_given_by_name_may_lead_outside(self, root, tmp_path):
        draw(tmp_path / "1.png", root / "cat/2.png")
        table = write(root / "labels.csv", "path,label", f"{tmp_path}/1.png,cat", "cat/2.png,dog")
        assert list(read_source(table).table["label"]) == ["cat", "dog"]

    def test_in_an_archive_never_leads_outside(self, root, tmp_path):
        draw(tmp_path / "a/b/c/1.png", root / "2.png")
        write(root / "labels.csv", "path,label", "../1.png,cat", f"{tmp_path}/a/b/c/1.png,cat", "2.png,dog")
        source = read_source(zipped(root))
        assert source.missing.startswith("2 of 3 images")
        for path in source.table["path"][:2]:
            with pytest.raises(BadImageError):
                images.read(path)

    def test_parquet(self, root, packed):
        pytest.importorskip("pyarrow")
        draw(root / "1.png", root / "2.png")
        frame = pd.DataFrame({"path": ["1.png", "2.png"], "label": [7, 12], "group": ["x", None]})
        frame.to_parquet(root / "labels.parquet")
        source = read_source(packed(root))
        assert source.classes == ("7", "12")
        assert list(source.table["group"]) == ["x", None]

    def test_parquet_without_its_library(self, root, monkeypatch):
        (root / "labels.parquet").write_bytes(b"PAR1")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match=r"signsclf\[parquet\]"):
            read_source(root / "labels.parquet")

    @pytest.mark.parametrize(
        "lines, says",
        [
            (["shown,seen", "1.png,cat"], "lacks the column path and label (it has: shown, seen)"),
            (["path,label", "2.png,cat", "3.png,dog"], "none of its 2 images is there: line 2 '2.png', line 3"),
            (["path,label", "1.png,"], "no label"),
            (["path,label,split", "1.png,cat,dev"], "unknown split 'dev'"),
            (["path,label", "1.png,cat", "./1.png,dog"], "more than once"),
            (["path,label", "1.png,cat,dog"], "line 2 has 3 columns"),
            (["path,label"], "no rows"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said(self, root, packed, lines, says):
        draw(root / "1.png")
        write(root / "labels.csv", *lines)
        assert says in refusal(packed(root))

    def test_byte_order_mark(self, root):
        draw(root / "1.png")
        (root / "labels.csv").write_text("path;label\n1.png;grün\n", encoding="utf-8-sig")
        assert read_source(root).classes == ("grün",)

    def test_not_utf8(self, root):
        draw(root / "1.png")
        (root / "labels.csv").write_bytes("path,label\n1.png,grün\n".encode("cp1252"))
        assert "UTF-8" in refusal(root / "labels.csv")

    def test_some_rows_without_a_split(self, root):
        draw(root / "1.png", root / "2.png")
        write(root / "labels.csv", "path,label,split", "1.png,cat,train", "2.png,cat,")
        assert "1 of 2 rows have no split" in refusal(root)

    def test_another_csv_does_not_hide_class_folders(self, root):
        draw(root / "cat/1.png", root / "dog/1.png")
        write(root / "Train.csv", "epoch,loss", "1,2,3")
        assert read_source(root).layout is Layout.FOLDERS


class TestSources:
    def test_folder_of_one_archive(self, root, tmp_path):
        draw(tmp_path / "animals/cat/1.png", tmp_path / "animals/dog/1.png")
        archive = zipped(tmp_path / "animals", root / "animals.zip")
        source = read_source(root)
        assert source.root == archive.as_posix()
        assert source.classes == ("cat", "dog")
        zipped(tmp_path / "animals", root / "more.zip")
        assert "'animals.zip', 'more.zip'" in refusal(root)

    @pytest.mark.parametrize("given", [None, 5, b"photos", ["photos"], {"path": ["a.png"]}, np.zeros(3)])
    def test_what_is_no_path_says_what_is(self, given):
        assert "a source is the path of a folder, an archive or a table, and not of the type" in refusal(given)

    def test_relative_and_home_paths(self, root, monkeypatch):
        draw(root / "cat/1.png", root / "dog/1.png")
        monkeypatch.chdir(root.parent)
        monkeypatch.setenv("HOME", str(root.parent))
        monkeypatch.setenv("USERPROFILE", str(root.parent))
        for given in ("source", Path("source"), "./source/", "~/source"):
            path = read_source(given).table["path"][0]
            assert Path(path).is_absolute()
            assert images.read(path)

    def test_synthetic_is_a_keyword_and_a_path(self, root, monkeypatch):
        source = read_source("synthetic")
        assert source.layout is Layout.SYNTHETIC
        assert source.is_gtsrb
        assert set(source.classes) <= set(CLASS_NAMES)
        assert images.load(source.table["path"][0], (8, 8)).shape == (8, 8, 3)
        monkeypatch.chdir(root)
        assert "no such" in refusal("./synthetic")
        draw(root / "synthetic/cat/1.png")
        assert read_source("./synthetic").classes == ("cat",)

    def test_nothing_there(self, root):
        draw(root / "animals/cat/1.png")
        assert "no such file or folder; near it: 'animals'" in refusal(root / "animal")
        assert "no such" in refusal("")
        assert "check the path" in refusal(root / ("x" * 5000))

    def test_empty_and_imageless(self, root, packed):
        assert "empty" in refusal(packed(root))
        write(root / "cat/readme.txt", "x")
        assert ".png" in refusal(packed(root))

    def test_flat_images(self, root, packed):
        draw(root / "1.png", root / "2.png")
        assert "no class folders" in refusal(packed(root))

    def test_flat_splits(self, root):
        draw(root / "train/1.png", root / "test/2.png")
        assert "no class folders in test/ and train/" in refusal(root)

    def test_one_image(self, root):
        draw(root / "1.png")
        assert "one image" in refusal(root / "1.png")

    def test_other_archives(self, root):
        assert "not a tar archive" in refusal(write(root / "data.tar", "x"))
        assert "unpack it" in refusal(write(root / "data.7z", "x"))

    @pytest.mark.parametrize("layout", [Layout.GTSRB, Layout.KAGGLE, Layout.TABLE, Layout.SYNTHETIC])
    def test_forced_layout_that_does_not_fit(self, root, packed, layout):
        draw(root / "cat/1.png", root / "dog/1.png")
        assert "leave out --layout" in refusal(packed(root), layout)

    def test_forced_layout(self, root):
        official_training(root)
        source = read_source(root, Layout.FOLDERS)
        assert source.layout is Layout.FOLDERS
        assert source.classes == ("00001", "00014")
        assert set(source.table["split"]) == {None}

    def test_damaged_archive(self, root):
        draw(root / "cat/1.png", root / "dog/1.png")
        archive = zipped(root)
        archive.write_bytes(archive.read_bytes()[:-30])
        assert "not a zip archive" in refusal(archive)

    def test_encrypted_archive(self, root):
        draw(root / "cat/1.png")
        archive = zipped(root)
        data = bytearray(archive.read_bytes())
        for start, flag in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.rfind(start)
            data[at + flag] |= 1
        archive.write_bytes(data)
        assert "encrypted" in refusal(archive)

    def test_members_that_lead_outside_are_no_images(self, root):
        draw(root / "1.png")
        with zipfile.ZipFile(root / "evil.zip", "w") as file:
            for name in ("../cat/1.png", "dog/../../1.png", "./cat/1.png", "/dog/1.png"):
                file.write(root / "1.png", name)
        source = read_source(root / "evil.zip")
        assert source.classes == ("cat", "dog")
        assert len(source.table) == 2


class TestDescribe:
    def test_says_what_there_is(self, root, packed):
        draw(*(root / f"train/cat/{t:05d}_00000.png" for t in range(4)), root / "train/dog/00000_00000.png")
        draw(root / "test/cat/00009_00000.png", size=(300, 200))
        said = dict(line.split(": ", 1) for line in describe(read_source(packed(root))))
        assert said["layout"] == "class folders (folders)"
        assert said["images"] == "6"
        assert said["classes"] == "2 ('cat', 'dog')"
        assert said["splits"] == "train 5, test 1"
        assert said["tracks"] == "6 with 6 images"
        assert said["imbalance"] == "5.0 to 1 ('cat' 5, 'dog' 1)"
        assert said["sizes"] == "20×16 to 300×200 pixels"

    def test_unreadable_images_are_counted(self, root, packed):
        draw(root / "cat/1.png", root / "dog/1.png")
        write(root / "dog/2.png", "no image")
        assert any("1 cannot be read" in line for line in describe(read_source(packed(root))))

    def test_image_size_reads_the_header_alone(self, root):
        draw(root / "1.png", size=(31, 17))
        cut = root / "2.png"
        cut.write_bytes((root / "1.png").read_bytes()[:50])
        assert images.image_wh(str(cut)) == (31, 17)


@pytest.mark.realdata
class TestRealData:
    @pytest.fixture
    def data(self):
        if not os.environ.get("SIGNSCLF_TEST_DATA"):
            pytest.skip("SIGNSCLF_TEST_DATA does not name a folder of real images")
        return Path(os.environ["SIGNSCLF_TEST_DATA"])

    def test_the_whole_training_archive_as_it_lies(self, data):
        source = read_source(data / "gtsrb-32px")
        assert source.layout is Layout.GTSRB
        assert len(source.table) == 39_209
        assert source.classes == CLASS_NAMES
        assert len(set(source.table["group"]) - {None}) == 1_307
        with pytest.raises(SourceError, match="32×32"):
            apply_crop(source, True)

    def test_class_folders_in_archives(self, data):
        original = read_source(data / "gtsrb-original/images.zip")
        assert original.is_gtsrb
        assert len(set(original.table["group"]) - {None}) == 307
        assert read_source(data / "animals").classes == ("cats", "dogs", "panda")
        cifar = read_source(data / "cifar10")
        assert Counter(cifar.table["split"]) == {"train": 8_000, "test": 2_000}
