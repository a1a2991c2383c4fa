"""Class folders under whatever lies above, beside and below them: the right classes, and a line on what is assumed."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from smalltables import refusal

from signsclf.choices import Layout, Reading
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.data.table import Source, describe, read_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that is deep enough for nothing of another test to lie above it."""
    folder = tmp_path / "a" / "b" / "c" / "source"
    folder.mkdir(parents=True)
    return folder


def place(root: Path, *folders: str, n: int = 2, suffix: str = ".png", stem: str = "") -> None:
    """Images called by number in each folder."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.new("RGB", (8, 8), "red").save(root / folder / f"{stem}{i}{suffix}")


def counts(source: Source) -> dict[tuple[str, str | None], int]:
    """Images of each label and split."""
    return dict(Counter(zip(source.table["label"], source.table["split"], strict=True)))


def note(source: Source, text: str) -> str:
    """The one note that holds a text, which `describe` shows."""
    (found,) = [line for line in describe(source) if line.startswith("note: ") and text in line]
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["stop\nsign", "stop\tsign", "stop\x1b[31m"])
def test_a_folder_whose_name_is_no_label_is_refused(root, packed, name):
    place(root, name, "give way")
    said = refusal(packed(root))
    assert "is not one line of printable text" in said
    assert said.isprintable()


class TestSplits:
    def test_doubled_folders_and_unlabelled_ones(self, root, packed):
        for part, n in (("training_set", 3), ("test_set", 1)):
            place(root, *(f"{part}/{part}/{label}" for label in ("cats", "dogs")), n=n)
        place(root, "seg_pred/seg_pred")
        source = read_source(packed(root))
        assert counts(source) == {("cats", "train"): 3, ("dogs", "train"): 3, ("cats", "test"): 1, ("dogs", "test"): 1}
        assert "test_set/ is test, training_set/ is train" in note(source, "split folders")
        assert "'seg_pred/' (2 images)" in note(source, "unlabelled")

    @pytest.mark.parametrize("other", ["dev", "eval", "validate", "Validation_Images"])
    def test_validation_under_other_names_is_taken_and_said(self, root, packed, other):
        place(root, "train/cats", "train/dogs", f"{other}/cats", f"{other}/dogs")
        source = read_source(packed(root))
        assert counts(source)["dogs", "valid"] == 2
        assert f"{other}/ is valid" in note(source, "split folders")

    @pytest.mark.parametrize("folders", [("train", "test1"), ("seg_train", "seg_pred"), ("train_images", "val_images")])
    def test_split_folders_without_classes(self, root, folders):
        place(root, *folders)
        assert "4 images but no class folders in" in refusal(root)

    def test_images_of_one_split_in_a_folder_called_so(self, root, packed):
        place(root, "train/n01/images", "train/n02/images", "val/images")
        source = read_source(packed(root))
        assert counts(source) == {("n01", "train"): 2, ("n02", "train"): 2}
        assert "'val/' (2 images)" in note(source, "no class folders in it")

    @pytest.mark.parametrize("parts", [("train", "valid"), ("",)])
    def test_loose_pictures_beside_the_classes_make_no_class_of_their_folder(self, root, packed, parts):
        place(root, *(f"Data Set/{part}/{label}" for part in parts for label in "ab"))
        place(root, "Data Set", n=1, stem="sample")
        source = read_source(packed(root))
        assert {label for label, _ in counts(source)} == {"a", "b"}
        assert "'Data Set/sample0.png'" in note(source, "in no class folder are left out (1)")

    def test_one_class_of_photos_with_folders_is_one(self, root, packed):
        place(root, "cat", n=5)
        place(root, "cat/persian", "cat/siamese", n=1)
        assert counts(read_source(packed(root))) == {("cat", None): 7}

    def test_what_lies_beside_the_splits_is_named_with_the_way_to_use_it(self, root):
        place(root, "train/a", "train/b", "holdout/a", n=1)
        assert "(call it train, valid or test to use it): 'holdout/' (1 image)" in note(read_source(root), "beside the")

    def test_splits_between_levels_are_no_level_of_classes(self, root):
        place(
            root,
            *(f"{time}/{split}/{label}" for time in ("day", "night") for split in ("train", "val") for label in "ab"),
        )
        source = read_source(root)
        assert set(counts(source)) == {(time, split) for time in ("day", "night") for split in ("train", "valid")}
        assert "2 folders of level 3 ('a', 'b'): --class-level 3 takes those" in note(source, "of level 1")
        deeper = read_source(root, Reading(class_level=3))
        assert set(counts(deeper)) == {(label, split) for label in "ab" for split in ("train", "valid")}

    def test_unlabelled_images_beside_one_split(self, root, packed):
        place(root, "seg_train/cats", "seg_train/dogs", "seg_pred")
        source = read_source(packed(root))
        assert counts(source) == {("cats", "train"): 2, ("dogs", "train"): 2}
        assert "'seg_pred/' (2 images)" in note(source, "unlabelled")

    def test_splits_in_a_folder_called_as_one(self, root, packed):
        place(root, "train/train/cats", "train/train/dogs", "train/val/cats")
        assert counts(read_source(packed(root))) == {("cats", "train"): 2, ("dogs", "train"): 2, ("cats", "valid"): 2}

    def test_the_plain_name_wins(self, root):
        place(root, "train/cats", "train/dogs", "val/cats", "val/dogs", "dev/cats", n=1)
        source = read_source(root)
        assert Counter(source.table["split"]) == {"train": 2, "valid": 2}
        assert "'dev/' (1 image)" in note(source, "beside the split folders")

    def test_two_unusual_names_of_one_split(self, root):
        place(root, "seg_train/cats", "train_set/cats", "seg_test/cats")
        assert "seg_train/ and train_set/ are both train" in refusal(root)

    def test_doubled_test_folder_without_labels(self, root, packed):
        place(root, "train/cats", "train/dogs", "test/test")
        source = read_source(packed(root))
        assert set(source.table["split"]) == {"train"}
        assert "'test/' (2 images)" in note(source, "no class folders")

    def test_a_class_called_test_in_its_splits(self, root, packed):
        place(root, "train/test", "train/cat", "test/test")
        source = read_source(packed(root))
        assert counts(source) == {("test", "train"): 2, ("cat", "train"): 2, ("test", "test"): 2}

    def test_classes_called_as_splits_among_others(self, root, packed):
        place(root, "train", "test", "bus")
        assert read_source(packed(root)).classes == ("bus", "test", "train")

    def test_a_wrapper_called_as_unusual_split_is_none(self, root):
        place(root, "test data/cat", "test data/dog")
        assert set(read_source(root).table["split"]) == {None}

    def test_splits_below_the_classes(self, root, packed):
        place(root, "cat/train", "dog/train", n=3)
        place(root, "cat/test", "dog/test", n=1)
        source = read_source(packed(root))
        assert counts(source) == {("cat", "train"): 3, ("dog", "train"): 3, ("cat", "test"): 1, ("dog", "test"): 1}
        assert "test/ is test, train/ is train" in note(source, "in each class")

    def test_an_empty_split_folder_is_told(self, root, packed):
        place(root, "train/cat", "train/dog")
        (root / "validation").mkdir()
        source = read_source(packed(root))
        assert set(source.table["split"]) == {"train"}
        assert note(source, "validation/ holds no images")

    def test_validation_without_some_classes_is_told(self, root):
        place(root, "train/cat", "train/dog", "train/emu", "valid/cat", "test/dog")
        assert "valid has no image of 2 classes: 'dog', 'emu'" in note(read_source(root), "valid has")


class TestLevels:
    PLACES = ("a/abbey", "a/airfield", "b/bakery/shop", "b/barn", "c/cliff")

    def test_a_swallowed_level_is_named_with_the_way(self, root, packed):
        place(root, *self.PLACES)
        source = read_source(packed(root))
        assert source.classes == ("a", "b", "c")
        said = note(source, "--class-level 2")
        assert "3 folders of level 1 ('a', 'b' and 1 more)" in said
        assert "5 folders of level 2 ('abbey', 'airfield' and 3 more)" in said

    def test_the_level_asked_for(self, root, packed):
        place(root, *self.PLACES)
        where = packed(root)
        source = read_source(where, Reading(class_level=2))
        assert source.classes == ("abbey", "airfield", "bakery", "barn", "cliff")
        assert relative(source)[0] == "a/abbey/0.png"
        deeper = read_source(where, Reading(class_level=3))
        assert deeper.classes == ("shop",)
        assert "(8)" in note(deeper, "no class folder")
        assert "down to level 3" in refusal(where, Reading(class_level=4))

    def test_splits_above_the_level_asked_for(self, root):
        place(root, "set/train/a/abbey", "set/train/b/barn", "set/test/a/abbey", "set/other/a/abbey")
        source = read_source(root, Reading(class_level=4))
        assert counts(source) == {("abbey", "train"): 2, ("barn", "train"): 2, ("abbey", "test"): 2}
        assert "'set/other/' (2 images)" in note(source, "beside the split folders")
        assert relative(source)[0] == "test/a/abbey/0.png"
        assert read_source(root, Reading(class_level=2)).classes == ("other", "test", "train")

    def test_a_table_does_not_hide_the_level_asked_for(self, root):
        place(root, "a/b")
        (root / "labels.csv").write_text("path,label\na/b/0.png,x\n")
        assert read_source(root, Reading(class_level=2)).classes == ("b",)

    @pytest.mark.parametrize("wrap", ["", "plants/"])
    def test_a_copy_of_the_set_inside_itself(self, root, packed, wrap):
        names = ("pepper", "potato", "tomato")
        place(root, *(f"{wrap}{name}" for name in names), *(f"{wrap}copy/deep/{name}" for name in names))
        where = packed(root)
        source = read_source(where)
        assert source.classes == names
        assert len(source.table) == 6
        assert f"'{wrap}copy/' (6 images)" in note(source, "once more, 3 of those beside it")
        assert "copy" in read_source(where, Reading(class_level=wrap.count("/") + 1)).classes

    def test_a_copy_called_as_its_parent_may_hold_more(self, root):
        names = ("pepper", "potato")
        place(root, *(f"plants/{name}" for name in names))
        place(root, *(f"plants/Plants/{name}" for name in names), n=3)
        source = read_source(root)
        assert source.classes == names
        assert "2 images only there: 'plants/Plants/' (6 images)" in note(source, "once more")

    def test_folders_in_classes_with_names_of_their_own_are_no_copy(self, root):
        place(root, "cat", "dog", "both/cat", "both/emu", stem="x")
        assert read_source(root).classes == ("both", "cat", "dog")


class TestAnnotations:
    def test_masks_beside_the_images(self, root, packed):
        for part in ("images", "segmentations"):
            place(root, f"birds/{part}/albatross", f"birds/{part}/wren")
        source = read_source(packed(root))
        assert source.classes == ("albatross", "wren")
        assert "'birds/segmentations/' (4 images)" in note(source, "annotations")

    def test_masks_in_every_class(self, root, packed):
        for label in ("covid", "normal"):
            place(root, f"{label}/images", f"{label}/masks")
        source = read_source(packed(root))
        assert {Path(name).parent.name for name in relative(source)} == {"images"}
        assert "'covid/masks/', 'normal/masks/' (4 images)" in note(source, "annotations")
        assert not [line for line in source.notes if "level" in line]

    def test_masks_beside_their_images_in_one_folder(self, root, packed):
        place(root, "benign", "normal", stem="scan ")
        place(root, "benign", stem="scan 1_mask_", n=2)
        place(root, "normal", stem="other_mask_", n=1)
        source = read_source(packed(root))
        assert counts(source) == {("benign", None): 2, ("normal", None): 3}
        assert "'benign/scan 1_mask_0.png', 'benign/scan 1_mask_1.png' (2 images)" in note(source, "annotations")

    def test_classes_called_so_are_classes(self, root):
        place(root, "photo", "mask", "text", stem="a")
        place(root, "mask", stem="b")
        for path in (root / "mask").glob("a*"):
            path.unlink()
        assert read_source(root).classes == ("mask", "photo", "text")
        place(root, "with_mask", "without_mask")
        assert "with_mask" in read_source(root).classes

    def test_labels_in_the_file_names_alone(self, root, packed):
        for name in ("Abyssinian_", "great pug_"):
            place(root, "images", stem=name, suffix=".jpg")
            place(root, "annotations/trimaps", stem=name)
        said = refusal(packed(root))
        assert "4 images but no class folders in images/" in said
        assert "'Abyssinian' 2, 'great pug' 2" in said
        assert "columns path and label, one row an image such as images/Abyssinian_0.jpg,Abyssinian" in said

    @pytest.mark.parametrize("stem", ["cat.", "IMG_"])
    def test_flat_images(self, root, stem):
        place(root, "train", stem=stem)
        place(root, "test", stem="dog.")
        said = refusal(root)
        assert "4 images but no class folders in test/ and train/" in said
        assert "columns path and label" in said

    def test_images_in_a_container_of_a_split(self, root):
        place(root, "train/images", "valid/images", stem="x")
        assert "no class folders in train/images/ and valid/images/" in refusal(root)


class TestSigns:
    def test_any_43_numbers_are_taken_for_signs_and_said(self, root, packed):
        place(root, *(f"{c:05}" for c in range(43)), n=1)
        where = packed(root)
        source = read_source(where)
        assert source.classes == CLASS_NAMES
        assert "--layout folders" in note(source, "GTSRB's classes")
        named = read_source(where, Layout.FOLDERS)
        assert not named.is_gtsrb
        assert named.classes[:2] == ("00000", "00001")
        assert not [line for line in named.notes if "GTSRB" in line]

    def test_tracks_of_another_benchmark_are_not(self, root):
        place(root, *(f"{c}" for c in range(43)), n=1, stem="01153_0000")
        source = read_source(root)
        assert not source.is_gtsrb
        assert source.classes[:2] == ("0", "1")
        assert "--layout gtsrb" in note(source, "none of its tracks")
        assert read_source(root, Layout.GTSRB).classes == CLASS_NAMES

    @pytest.mark.parametrize("digits", [1, 2, 5])
    def test_some_class_ids_are_offered(self, root, packed, digits):
        ids = (0, 1, 2, 10, 38)
        place(root, *(f"{c:0{digits}}" for c in ids))
        where = packed(root)
        source = read_source(where)
        assert source.classes == tuple(f"{c:0{digits}}" for c in ids)
        assert "evaluate" in note(source, "--layout gtsrb")
        signs = read_source(where, Layout.GTSRB)
        assert signs.is_gtsrb
        assert signs.classes == tuple(CLASS_NAMES[c] for c in ids)

    @pytest.mark.parametrize("names", ["0 1 2 3", "1 2 3", "0 1 57", "7 07", "12 cat"])
    def test_other_numbers_are_not(self, root, names):
        place(root, *names.split())
        assert not [line for line in read_source(root).notes if "GTSRB" in line]


class TestLabels:
    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names that differ by case are one folder there")
    def test_names_that_differ_by_case_or_spaces(self, root):
        place(root, "Dog", "owl", "fox")
        place(root, "dog", n=3)
        place(root, "owl ", n=1)
        source = read_source(root)
        assert len(source.classes) == 5
        assert "'dog' 3, 'Dog' 2; 'owl' 2, 'owl ' 1" in note(source, "case or spaces")

    def test_in_a_table(self, root):
        place(root, "images", n=4)
        lines = [f"images/{i}.png,{label}" for i, label in enumerate(("Cat", "cat", "dog", "dog"))]
        (root / "labels.csv").write_text("\n".join(["path,label", *lines]))
        assert "'Cat' 1, 'cat' 1" in note(read_source(root), "case or spaces")


def relative(source: Source) -> list[str]:
    return [source.relative(path) for path in source.table["path"]]
