"""What training starts from, of sources at the edge: parts, classes and groups that are empty, single or everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinysource import TINY

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
