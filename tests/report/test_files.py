from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from signsclf.errors import BadImageError, SignsclfError
from signsclf.metrics.classification import Report
from signsclf.report import files as report_module
from signsclf.report.files import write_report

CLASSES = ["Stop", 'Über, "Größe"', "never seen"]
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.3, 0.7, 0.0], [0.8, 0.2, 0.0], [0.05, 0.95, 0.0]], dtype=np.float32)
TARGETS = np.array([0, 0, 1, 1])
PATHS = ["a b.png", "data.zip/ü/2.ppm", "3,x.png", "bad \udcff.png"]


def image(path):
    return np.full((10, 12, 3), 128, dtype=np.uint8)


def write(folder, load_image=image, probabilities=PROBABILITIES, targets=TARGETS, paths=PATHS):
    report = Report.from_probabilities(probabilities, targets, CLASSES)
    return report, write_report(folder, report, probabilities, targets, CLASSES, paths, load_image)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_writes_every_file_and_nothing_else(tmp_path):
    _, written = write(tmp_path / "new" / "folder")
    names = {"metrics.json", "per_class.csv", "predictions.csv", "confusion.png", "mistakes.png"}
    assert {path.name for path in written} == names
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == names
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.verify()


def test_the_figures_are_those_of_the_report(tmp_path):
    report, _ = write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == report.to_dict()
    per_class = rows(tmp_path / "per_class.csv")
    assert [row["label"] for row in per_class] == CLASSES
    assert per_class[0] == {
        "label": "Stop",
        "n": "2",
        "precision": "0.500000",
        "recall": "0.500000",
        "f1": "0.500000",
        "recall_low": "0.094531",
        "recall_high": "0.905469",
    }
    assert (per_class[2].pop("label"), per_class[2].pop("n")) == ("never seen", "0")
    assert set(per_class[2].values()) == {""}


def test_other_figures_may_take_the_place_of_metrics_json(tmp_path):
    report = Report.from_probabilities(PROBABILITIES, TARGETS, CLASSES)
    write_report(tmp_path, report, PROBABILITIES, TARGETS, CLASSES, PATHS, image, figures=("report.json", {"all": 1}))
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == {"all": 1}
    assert not (tmp_path / "metrics.json").exists()


def test_predictions_come_in_order_and_hold_odd_names(tmp_path):
    write(tmp_path)
    predictions = rows(tmp_path / "predictions.csv")
    assert [row["path"] for row in predictions] == [*PATHS[:3], "bad \\udcff.png"]
    assert predictions[1] == {
        "path": PATHS[1],
        "label": "Stop",
        "predicted": CLASSES[1],
        "probability": "0.700000",
    }


def test_only_the_worst_mistakes_are_opened_the_most_confident_first(tmp_path, monkeypatch):
    opened = []
    write(tmp_path, lambda path: opened.append(path) or image(path))
    assert opened == [PATHS[2], PATHS[1]]
    opened.clear()
    monkeypatch.setattr(report_module, "MISTAKES_SHOWN", 1)
    write(tmp_path, lambda path: opened.append(path) or image(path))
    assert opened == [PATHS[2]]


def test_without_mistakes_no_image_is_opened(tmp_path):
    def never(path):
        raise AssertionError(path)

    _, written = write(tmp_path, never, targets=PROBABILITIES.argmax(axis=1))
    assert all(path.is_file() for path in written)


def test_same_input_same_bytes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_an_image_that_cannot_be_read_stops_it_before_anything_is_written(tmp_path):
    def broken(path):
        raise BadImageError(f"{path}: gone")

    with pytest.raises(BadImageError, match="gone"):
        write(tmp_path / "out", broken)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SignsclfError, match="file") as error:
        write(tmp_path / "file")
    assert "\n" not in str(error.value)
    with pytest.raises(SignsclfError):
        write(tmp_path / "file" / "below")


def test_a_file_that_cannot_be_replaced_leaves_no_rest(tmp_path):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(SignsclfError, match=r"metrics\.json"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_refuses_a_report_of_other_predictions(tmp_path):
    other = Report.from_probabilities(PROBABILITIES, np.array([1, 1, 1, 0]), CLASSES)
    with pytest.raises(ValueError, match="report"):
        write_report(tmp_path, other, PROBABILITIES, TARGETS, CLASSES, PATHS, image)
    with pytest.raises(ValueError, match="3 paths"):
        write(tmp_path, paths=PATHS[:3])
