"""Labels of other programs in JSON are read, or refused by the format's name."""

from __future__ import annotations

import json

import pytest
from smalltables import images, labels, noted, refusal, splits, text

from signsclf.data.table import read_source


@pytest.fixture
def root(tmp_path):
    return images(tmp_path, *(f"{i}.png" for i in range(4)))


def written(root, value, name="t.json"):
    return text(root / name, value if isinstance(value, str) else json.dumps(value))


WANTED = {"0.png": "a", "1.png": "b"}
TASKS = [
    {"data": {"image": f"{i}.png"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": [label]}}]}]}
    for i, label in enumerate("ab")
]
COCO = {
    "info": {},
    "images": [{"id": 10 + i, "file_name": f"{i}.png", "width": 12} for i in range(2)],
    "annotations": [{"id": i, "image_id": 10 + i, "category_id": 5 + i, "bbox": [0, 0, 1, 1]} for i in range(2)],
    "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b", "supercategory": "x"}],
}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('{"file_name": "0.png", "label": "a"}\n\n{"label": "b", "file_name": "1.png", "more": [1]}\n', "t.jsonl"),
        ('{"path": "0.png", "label": "a"}\r\n{"path": "1.png", "label": "b"}', "t.ndjson"),
        ('{"path": "0.png", "label": ["a"]}\n{"path": "1.png", "label": ["b"]}\n', "t.json"),
        ([{"path": "0.png", "label": "a"}, {"path": "1.png", "label": "b"}], "t.json"),
        ({"0.png": "a", "1.png": "b"}, "t.json"),
        ({"a": ["0.png"], "b": ["1.png"]}, "t.json"),
        ([["0.png", "a"], ["1.png", "b"]], "t.json"),
        ({"labels": [["0.png", "a"], ["1.png", "b"]]}, "t.json"),
        ({"path": ["0.png", "1.png"], "label": ["a", "b"]}, "t.json"),
        ({"path": {"0": "0.png", "1": "1.png"}, "label": {"0": "a", "1": "b"}}, "t.json"),
        (TASKS, "t.json"),
        ([{"image": "0.png", "choice": "a", "id": 1}, {"image": "1.png", "choice": "b", "id": 2}], "t.json"),
        (COCO, "t.json"),
        ([{"image": f"{i}.png", "annotations": [{"label": label}]} for i, label in enumerate("ab")], "t.json"),
        ("\ufeff" + json.dumps(TASKS), "t.json"),
    ],
)
def test_forms_that_are_read(root, value, name):
    assert labels(read_source(written(root, value, name))) == WANTED


def test_labels_that_are_numbers(root):
    assert set(labels(read_source(written(root, {"0.png": 0, "1.png": 1}))).values()) == {"0", "1"}
    assert set(labels(read_source(written(root, {"0.png": 0.0, "1.png": 1.0}))).values()) == {"0", "1"}
    lines = '{"file_name": "0.png", "label": 0, "is_valid": true}\n{"file_name": "1.png", "label": 0}\n'
    source = read_source(written(root, lines, "t.jsonl"))
    assert splits(source) == {"0.png": "valid", "1.png": "train"}


def test_label_studio_as_it_is_exported(root):
    images(root, "1a2b3c4d-fish.png", "shelf/bird.png")
    tasks = [
        {"data": {"image": "/data/upload/7/1a2b3c4d-fish.png"}, "annotations": TASKS[0]["annotations"]},
        {"data": {"image": "/data/local-files/?d=set/shelf/bird.png"}, "annotations": TASKS[1]["annotations"]},
        {"data": {"image": "/data/upload/7/99999999-new.png"}, "annotations": []},
        {
            "data": {"image": "/data/upload/7/88888888-skipped.png"},
            "annotations": [{"was_cancelled": True, "result": TASKS[0]["annotations"][0]["result"]}],
        },
    ]
    source = read_source(written(root, tasks))
    assert labels(source) == {"1a2b3c4d-fish.png": "a", "shelf/bird.png": "b"}
    assert "without a label are left out (2)" in noted(source, "Label Studio")


def test_label_studio_numbers_of_uploads(root):
    tasks = [{**task, "data": {"image": f"/data/upload/1/{i:08x}-{i}.png"}} for i, task in enumerate(TASKS)]
    source = read_source(written(root, tasks))
    assert labels(source) == WANTED
    assert "'/data/upload/1/00000000-0.png' is '0.png'" in noted(source, "found")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([{**TASKS[0], "data": {"text": "x"}}], "Label Studio: item 1 names no image"),
        (
            [TASKS[0], {**TASKS[1], "annotations": [{"result": [{"type": "rectanglelabels", "value": {}}]}]}],
            "Label Studio: item 2 has rectanglelabels",
        ),
        (
            [{**TASKS[0], "annotations": [*TASKS[0]["annotations"], *TASKS[1]["annotations"]]}],
            "Label Studio: 1 images have several labels, first '0.png': 'a', 'b'",
        ),
        ([{**TASKS[0], "annotations": []}], "Label Studio: none of its 1 images has a label"),
        (
            {**COCO, "annotations": [*COCO["annotations"], {"image_id": 10, "category_id": 6}]},
            "COCO: 1 images have several labels, first '0.png': 'a', 'b'",
        ),
        ({**COCO, "annotations": [{"image_id": 99, "category_id": 6}]}, "COCO: an image, annotation or category"),
        ({**COCO, "images": [{"id": [1], "file_name": "0.png"}]}, "COCO: an image"),
        ({"train": ["0.png"], "val": ["1.png"]}, "the splits of images, and not their labels"),
        ({"whatever": 1}, "of a kind that is not known; known are"),
        ([], "of a kind that is not known"),
        (3, "of a kind that is not known"),
        ('[{"path": "0.png", "label": "a"}, {"path": "1.png", "label": NaN}]', "item 2 has no label"),
        (COCO | {"categories": [{"id": i, "name": "x"} for i in (5, 6)]}, "categories '5', '6' are all called 'x'"),
        ("[" * 100_000, "not valid JSON (nested too deeply)"),
        ('{"0.png": "a", "0.png": "b"}', "'0.png' is in one object twice"),
        ('[{"path": "0.png", "label": "a"}', "not valid JSON"),
    ],
)
def test_forms_that_are_refused(root, value, says):
    assert says in refusal(written(root, value))


def test_lines_that_are_no_objects(root):
    good = '{"path": "0.png", "label": "a"}\n'
    assert "line 2 is not valid JSON" in refusal(written(root, good + "{", "t.jsonl"))
    assert "line 3 is not a JSON object" in refusal(written(root, good + "\n7\n", "t.jsonl"))
    assert "line 2 has no label" in refusal(written(root, good + '{"path": "1.png"}', "t.jsonl"))


def test_places_are_items(root):
    value = [{"path": "0.png", "label": "a"}, {"path": "0.png", "label": "b"}]
    assert "item 1 ('a') and item 2 ('b')" in refusal(written(root, value))


def test_in_a_folder(root):
    images(root / "train", "x.png", "y.png")
    images(root / "valid", "z.png")
    for part, names in (("train", ["x.png", "y.png"]), ("valid", ["z.png"])):
        coco = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
            "annotations": [{"image_id": i, "category_id": i} for i, _ in enumerate(names)],
            "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
        }
        written(root / part, coco, "_annotations.coco.json")
    for i in range(4):
        (root / f"{i}.png").unlink()
    source = read_source(root)
    assert labels(source) == {"train/x.png": "a", "train/y.png": "b", "valid/z.png": "a"}
    assert splits(source) == {"train/x.png": "train", "train/y.png": "train", "valid/z.png": "valid"}


def test_any_other_json_beside_class_folders_is_none_of_a_table(root):
    images(root / "set", "cat/1.png", "dog/1.png")
    written(root / "set", COCO, "annotations.json")
    written(root / "set", {"0": "cat"}, "labels.json")
    assert read_source(root / "set").classes == ("cat", "dog")
