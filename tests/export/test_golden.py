from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tinymodel import write_folder

from signsclf.errors import ModelError
from signsclf.export.golden import check_golden, store_golden
from signsclf.inference.classifier import Classifier
from signsclf.model.folder import verify_sums, write_sums

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_folder(tmp_path / "m")
    store_golden(folder, PIXELS, Classifier(folder).probabilities(PIXELS))
    write_sums(folder)
    return folder


def test_the_same_model_gives_the_same_answers(folder: Path):
    verify_sums(folder)
    assert check_golden(Classifier(folder), folder) == 0


def test_the_largest_difference_is_told(folder: Path):
    path = folder / "run" / "replay.json"
    stored = json.loads(path.read_text())
    stored["probabilities"][3][1] += 0.25
    path.write_text(json.dumps(stored))
    assert check_golden(Classifier(folder), folder) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"probabilities": 3}', '{"probabilities": []}', '{"probabilities": [[1, 2]]}',
        '{"probabilities": [[1, 2, 3], [1]]}', '{"probabilities": [["a", 2, 3]]}',
        '{"probabilities": [[1e999, 0, 0]]}', '{"probabilities": [[{}, 0, 0]]}',
        '{"probabilities": ' + json.dumps([[1, 0, 0]] * 101) + "}",
        '{"probabilities": ' + json.dumps([[1, 0, 0]] * 6) + "}",
    ],
)  # fmt: skip
def test_damaged_records_end_in_one_line(folder: Path, text: str):
    (folder / "run" / "replay.json").write_text(text)
    with pytest.raises(ModelError, match=r"\A[^\n]*replay[^\n]*\Z"):
        check_golden(Classifier(folder), folder)


def test_missing_files_end_in_one_line(folder: Path):
    (folder / "run" / "replay" / "004.png").unlink()
    with pytest.raises(ModelError, match=r"004\.png"):
        check_golden(Classifier(folder), folder)
    (folder / "run" / "replay.json").unlink()
    with pytest.raises(ModelError, match="cannot be verified"):
        check_golden(Classifier(folder), folder)


def test_what_does_not_go_together_is_not_stored(tmp_path: Path):
    with pytest.raises(ValueError, match="5 images, 4 rows"):
        store_golden(tmp_path, PIXELS, np.zeros((4, 3)))
