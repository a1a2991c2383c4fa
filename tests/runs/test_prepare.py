"""What training starts from, of sources at the edge: parts, classes and groups that are empty, single or everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinysource import TINY, Watched

from signsclf.data.cache import Cache
from signsclf.data.table import describe, read_source
from signsclf.errors import SourceError
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.runs.prepare import Prepared, plan, prepare, read_plan, training_rows


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with images, all different, under these names."""

    def make(*names: str, table: str = "") -> Path:
        for i, name in enumerate(names):
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        if table:
            (tmp_path / "source" / "labels.csv").write_text(table)
        return tmp_path / "source"

    return make


def prepared(root: Path) -> Prepared:
    source = read_source(root)
    assert describe(source)
    return prepare(plan(source, Recipe(**TINY)), False, Observer())


@pytest.mark.parametrize(("part", "says"), [("test", "test images only"), ("valid", "validation images only")])
def test_a_source_without_training_images(place, part, says):
    with pytest.raises(SourceError, match=says):
        prepared(place(f"{part}/cat/0.png", f"{part}/dog/0.png"))


def test_one_class(place):
    with pytest.raises(SourceError, match="one class only"):
        prepared(place("cat/0.png", "cat/1.png"))


def test_a_class_in_test_alone(place):
    with pytest.raises(SourceError, match="test has classes that train lacks: 'emu'"):
        prepared(place("train/cat/0.png", "train/dog/0.png", "test/emu/0.png"))


def test_classes_of_one_image_all_train(place):
    found = prepared(place("cat/0.png", "dog/0.png", "emu/0.png"))
    assert len(found.split.rows("train")) == 3
    assert len(found.split.rows("valid")) == 0
    assert len(training_rows(found)[1]) == 3


def test_a_group_that_is_everything_trains(place):
    rows = "".join(f"{i}.png,{'ab'[i % 2]},one\n" for i in range(6))
    found = prepared(place(*(f"{i}.png" for i in range(6)), table=f"path,label,group\n{rows}"))
    assert len(found.split.rows("train")) == 6


def test_a_group_that_is_all_of_a_class_trains(place):
    names = [f"a/{i}.png" for i in range(4)] + [f"b/{i}.png" for i in range(4)]
    rows = "".join(f"{name},{name[0]},{'one' if name[0] == 'a' else i}\n" for i, name in enumerate(names))
    found = prepared(place(*names, table=f"path,label,group\n{rows}"))
    held = found.split.table[found.split.table["split"] == "valid"]
    assert set(held["label"]) == {"b"}
    assert found.split.not_evaluated == ("a",)


def test_empty_folders_beside_classes_and_splits(place):
    root = place("train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png")
    for folder in ("train/emu", "valid/cat", "test"):
        (root / folder).mkdir(parents=True)
    found = prepared(root)
    assert found.source.classes == ("cat", "dog")
    assert len(found.split.rows("valid")) == 2


def test_apples_gpu_is_used_on_request_alone_and_said_to_be_untested(place, monkeypatch):
    root = place(*(f"{label}/{i}.png" for label in ("cat", "dog") for i in range(4)))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told: list[str] = []
    observer = Observer()
    observer.say = told.append
    asked = {**TINY, "device": None}
    assert read_plan(root, None, Recipe(**asked), observer).recipe.device.value == "cpu"
    assert told == []
    assert read_plan(root, None, Recipe(**{**asked, "device": "mps"}), observer).recipe.device.value == "mps"
    assert [line for line in told if "not tested" in line]


def test_unreadable_images_are_left_out_of_one_decoding(place, tmp_path):
    root = place(*(f"{label}/{i}.png" for label in ("cat", "dog") for i in range(4)))
    (root / "cat" / "0.png").write_bytes(b"no image")
    watched = Watched()
    found = prepare(plan(read_source(root), Recipe(**TINY)), True, watched, Cache(folder=tmp_path / "cache"))
    assert [name for name, _ in found.skipped] == ["cat/0.png"]
    assert len(found.names) == len(found.decoded.digests) == len(found.decoded_rows) == 7
    assert [total for task, done, total in watched.progressed if (task, done) == ("decoding", total)] == [8]
    assert len(list((tmp_path / "cache").glob("*/pixels.bin"))) == 1


def test_synthetic_signs_that_training_renders_itself_are_not_decoded(monkeypatch):
    for name in ("PARITY_IMAGES", "CALIBRATION_IMAGES"):
        monkeypatch.setattr(f"signsclf.runs.prepare.{name}", 4)
    monkeypatch.setattr("signsclf.runs.prepare._SYNTHETIC_LOOKED_AT", 2)
    found = read_source("synthetic")
    # Two physical signs of each class.
    few = replace(found, table=found.table[[i % 240 in (0, 120) for i in range(len(found.table))]], roi_image_wh=())
    watched = Watched()
    recipe = Recipe(**TINY).replace(valid_fraction=0.5)
    one = prepare(plan(few, recipe), False, watched)
    train, valid = one.split.rows("train"), one.split.rows("valid")
    assert len(train) == len(valid) == 43
    assert {total for task, _, total in watched.progressed if task == "decoding"} == {43 + 4}
    assert set(valid) <= set(one.decoded_rows) and len(one.decoded_rows) == 43 + 4
    undecoded = np.setdiff1d(train, one.decoded_rows)
    assert not one.decoded.pixels[undecoded].any() and one.decoded.pixels[valid].any(axis=(1, 2, 3)).all()
    assert {one.decoded.inputs[row] for row in undecoded} == {""}
    _, rows, rendered = training_rows(one)
    assert np.array_equal(rows, train) and (rendered[train] >= 0).all() and (rendered[valid] == -1).all()
    assert prepare(plan(few, recipe), False, Observer()).fingerprint == one.fingerprint
    other = replace(few, table=few.table[1:], roi_image_wh=())
    assert prepare(plan(other, recipe), False, Observer()).fingerprint != one.fingerprint
