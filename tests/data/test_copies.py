from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from tinysource import TINY, draw_source, flags

from signsclf.data.copies import contradictions, copies_by_name, group_named_copies, group_repeats, same_files
from signsclf.data.rows import make_table
from signsclf.data.split import hold_out
from signsclf.data.table import read_source
from signsclf.observer import Observer
from signsclf.recipe import Recipe, SplitBy
from signsclf.runs.prepare import plan, prepare

HASHES = ("2a6f1c0f9e0b4d7c8a5e3f1b2c4d6e8f", "0b4d7c8a5e3f1b2c4d6e8f2a6f1c0f9e", "8f2a6f1c0f9e0b4d7c8a5e3f1b2c4d6e")
UUIDS = ("3f2b8c1e-9d4a-4c6b-8e7f-0a1b2c3d4e5f", "5f2b8c1e-9d4a-4c6b-8e7f-0a1b2c3d4e5f")


def table(names, groups=None) -> np.ndarray:
    groups = groups or [None] * len(names)
    return make_table([(name, name[0], None, group, None) for name, group in zip(names, groups, strict=True)])


def families(names) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for position, photo in copies_by_name(names).items():
        found.setdefault(photo, set()).add(names[position])
    return {frozenset(members) for members in found.values()}


@pytest.mark.parametrize(
    "versions",
    [
        lambda photo: [f"{photo}_jpg.rf.{mark}.jpg" for mark in HASHES],
        lambda photo: [f"{photo}_aug{k}.jpg" for k in range(3)],
        lambda photo: [
            f"{photo}.jpg",
            f"{photo}_rot90.jpg",
            f"{photo}_rotated-15.jpg",
            f"{photo}_hflip_bright_1.2.jpg",
        ],
        lambda photo: [f"{photo}.JPG", f"{photo}_flipLR.JPG", f"{photo}_90deg.JPG", f"{photo}_new30degFlipLR.JPG"],
        lambda photo: [f"{photo}.png", f"{photo} - Copy.png", f"{photo} - Copy (2).png", f"Copy of {photo}.png"],
        lambda photo: [f"{photo}.png", f"{photo} (1).png", f"{photo} copy 2.png"],
        lambda photo: [f"{photo}.jpg", f"flipped_{photo}.jpg", f"aug_3_{photo}.jpg"],
        lambda photo: [f"{photo}.png", f"{photo}_0_aug.png", f"{photo}_1_aug.png"],
        lambda photo: [*(f"{photo}_albu_{k}.png" for k in range(3)), f"{photo}_clahe.png"],
        lambda photo: [f"{photo}.jpg", f"{photo}-scaled.jpg", f"{photo}-150x150.jpg", f"{photo}_gray.jpg"],
        lambda photo: [f"{photo}.jpg", *(f"pets_original_{photo}.jpg_{mark}.jpg" for mark in UUIDS)],
    ],
    ids=["roboflow", "aug", "rotated", "leaves", "copy", "counted", "before", "numbered", "albu", "sizes", "augmentor"],
)
def test_versions_of_each_photo_are_one_family(versions):
    named = [versions(f"IMG_{i:04}") for i in range(5)]
    named[3:] = [[f"other/{name}" for name in family] for family in named[3:]]
    assert families([name for family in named for name in family]) == set(map(frozenset, named))


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{i}.jpg" for i in range(30)],
        [f"{i:05}_{j:05}.png" for i in range(3) for j in range(5)],
        [f"holiday ({i}).jpg" for i in range(1, 30)] + [f"garden ({i}).jpg" for i in range(1, 30)],
        ["images.jpg", *(f"images ({i}).jpg" for i in range(1, 8)), "download.jpg", "download (1).jpg"],
        [f"person_crop_{i}.jpg" for i in range(30)],
        [f"aug_{i}_{j}.jpeg" for i in range(9) for j in range(3)],
        ["a/1.png", "b/1.png", "a/x_aug1.png", "b/x_aug1.png"],
        ["scan.jpg", *(f"scan_{i}.jpg" for i in range(5))],
        ["copyright.png", "flipper.png", "rotunda.png", "augsburg.png", "barcelona.png"],
        [f"dog_{word}.jpg" for word in ("big", "small", "brown")],
    ],
    ids=["numbers", "tracks", "renamed", "downloads", "crops", "keras", "folders", "scans", "words", "adjectives"],
)
def test_unrelated_photos_are_no_versions_of_each_other(names):
    assert families(names) == set()


def test_strange_names_take_no_time():
    assert (
        families(["a_" * 120 + f"{i}.jpg" for i in range(300)] + ["_flip" * 50 + ".jpg", ".jpg", "", "_aug1"]) == set()
    )


def test_versions_stay_on_one_side_unless_single_images_are_asked_for():
    names = [f"{label}/IMG_{i}_aug{k}.jpg" for label in ("cat", "dog") for i in range(10) for k in range(3)]
    grouped, n_images, n_photos = group_named_copies(table(names), names)
    assert (n_images, n_photos) == (60, 20)
    photo = [name.partition("_aug")[0] for name in names]
    sides = hold_out(grouped, SplitBy.GROUP, 0.2, 0).table["split"]
    assert set(sides) == {"train", "valid"}
    assert all(len(set(sides[[p == one for p in photo]])) == 1 for one in photo)
    assert hold_out(grouped, SplitBy.RANDOM, 0.2, 0).groups_in_both_splits > 0


def test_groups_of_the_source_are_kept():
    names = ["cat/a.jpg", "cat/a_rot90.jpg", "cat/b.jpg", "cat/b_rot90.jpg"]
    grouped, n_images, _ = group_named_copies(table(names, ["x", "y", None, None]), names)
    assert grouped["group"].tolist() == ["x", "y", "copies of cat/b", "copies of cat/b"]
    assert n_images == 2


def test_identical_images_become_one_group():
    source = table(["a/1", "a/2", "b/3", "b/4", "b/5"], groups=[None, None, None, "own", None])
    grouped = group_repeats(source, ["x", "x", "y", "x", "z"])
    assert grouped["group"].tolist() == ["own", "own", None, "own", None]
    assert source["group"].tolist() == [None, None, None, "own", None]


def test_groups_that_share_an_image_become_one():
    source = table([f"a/{i}" for i in range(7)], groups=["k", "g", "g", "h", "h", "i", None])
    grouped = group_repeats(source, ["1", "2", "3", "3", "4", "4", "5"])["group"].tolist()
    assert grouped[:6] == ["k", "g", "g", "g", "g", "g"]
    assert grouped[6] is None


def test_unreadable_images_are_not_taken_for_identical():
    assert group_repeats(table(["a/1", "b/2"]), ["", ""])["group"].tolist() == [None, None]


def test_contradictions_are_counted_by_kind():
    labels = ["a", "b", "a", "a", "a", "a", "b"]
    splits = ["train", "train", "train", "valid", "train", "train", "valid"]
    assert contradictions(labels, splits, ["x", "x", "y", "y", "z", "z", ""]) == (2, 2)
    assert contradictions(labels, splits, [""] * 7) == (0, 0)


def test_files_with_the_same_bytes_are_counted(tmp_path):
    for name, data in (("a", b"one"), ("b", b"two"), ("c", b"three"), ("d", b"one"), ("e", b"six"), ("f", b"")):
        (tmp_path / name).write_bytes(data)
    path = {name: str(tmp_path / name) for name in "abcdef"}
    assert same_files([path["d"], path["e"], path["f"], str(tmp_path / "none")], [path[n] for n in "abc"]) == 1
    assert same_files([], [path["a"]]) == 0


class _Told(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def said(source, **changes) -> str:
    observer = _Told()
    prepare(plan(read_source(source), Recipe(**{**TINY, **changes})), False, observer)
    return "\n".join(observer.lines)


def test_training_warns_of_identical_images_in_two_classes_and_in_two_splits(tmp_path):
    classes = draw_source(tmp_path / "classes", tracks=4, frames=1)
    assert "identical" not in said(classes)
    for i in range(2):
        shutil.copy(classes / "red bar" / f"{i:05}_00000.png", classes / "blue disc" / f"copy{i}.png")
    assert "warning: identical images: 4 in two classes; signsclf data check lists them" in said(classes)
    splits = tmp_path / "splits"
    for part in ("train", "valid", "test"):
        draw_source(splits / part, tracks=4, frames=1)
    told = said(splits)
    assert "24 in training and validation, 12 of the test set in training or validation too" in told


def test_training_says_which_images_it_takes_for_versions_of_a_photo(cli, tmp_path):
    source = draw_source(tmp_path / "s", tracks=4, frames=3)
    for path in list(source.rglob("*.png")):
        track, frame = path.stem.split("_")
        path.rename(path.with_name(f"photo{track}_aug{int(frame)}.png"))
    assert "36 images are versions of 12 photos: a photo's stay together; --split-by random" in said(source)
    assert "flatter the validation figures" in said(source, split_by="random")
    ran = cli("train", source, "--out", tmp_path / "m", *flags(epochs=1))
    assert ran.code == 0, ran.err
    record = pd.read_csv(tmp_path / "m" / "run" / "split.csv")
    photo = record["path"].str.partition("_aug")[0]
    assert (record.groupby(photo)["split"].nunique() == 1).all()
    assert not record["group"].str.contains(str(tmp_path)).any()
