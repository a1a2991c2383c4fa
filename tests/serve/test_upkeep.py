"""Models that are replaced while they are served."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
import tinymodel
from serving import png, write_model

from signsclf.model.folder import ONNX
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "own")


def said(running, text: str) -> bool:
    """Wait for a line that begins so."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if any(line.startswith(text) for line in running.said):
            return True
        time.sleep(0.01)
    return False


def replace(folder, new) -> None:
    """Another folder takes the place of this one, as `publish` and most people do it."""
    folder.rename(folder.with_name("old"))
    new.rename(folder)


def threshold(running) -> float | None:
    return running.post("/predict", png()).json()["threshold"]


def test_a_replaced_folder_is_swapped_whole(serve, folder, tmp_path):
    running = serve(folder)
    before = running.service.models.get()
    replace(folder, write_model(tmp_path / "new", reject_threshold=0.5))
    assert said(running, "own: replaced; now sha256:")
    after = running.service.models.get()
    assert after.digest != before.digest and after.max_batch == before.max_batch
    assert threshold(running) == 0.5
    # Who began with the old one ends with it: it needs its folder no more.
    shutil.rmtree(folder.with_name("old"))
    assert before.classifier.logits(np.zeros((1, 6, 8, 3), np.uint8)).shape == (1, 3)


def test_a_damaged_folder_leaves_the_old_model_and_says_why(serve, folder, tmp_path):
    running = serve(folder)
    new = write_model(tmp_path / "new", reject_threshold=0.5)
    (new / ONNX).write_bytes((new / ONNX).read_bytes()[:-9])
    replace(folder, new)
    assert said(running, "own: kept as it was: ")
    assert "model.onnx: changed or truncated" in running.said[-1]
    assert threshold(running) == 0.9
    assert running.post("/predict?explain=1", png()).status_code == 200
    shutil.rmtree(folder)
    time.sleep(0.2)
    assert threshold(running) == 0.9
    # Once it is right, it is taken.
    write_model(folder, reject_threshold=0.25)
    assert said(running, "own: replaced")
    assert threshold(running) == 0.25


def test_other_outputs_than_at_the_export_are_not_served(serve, folder, tmp_path, monkeypatch):
    running = serve(folder)
    new = write_model(tmp_path / "new", reject_threshold=0.5)
    golden = new / "run" / "replay.json"
    golden.write_text(golden.read_text().replace("0.", "0.9", 1))
    tinymodel.write_sums(new)
    replace(folder, new)
    assert said(running, "own: kept as it was: ") and "probabilities differ" in running.said[-1]
    assert threshold(running) == 0.9


def test_a_folder_that_is_asked_for_is_read_though_nothing_changed(serve, folder):
    running = serve(folder, watch=600.0)
    running.server.refresh()
    assert said(running, "own: unchanged")
    folder.rename(folder.with_name("old"))
    running.server.refresh()
    assert said(running, "own: kept as it was: ")


def test_a_server_that_fixes_everything_measures_nothing(serve):
    assert not ServeSettings(runners=1, threads=1, max_batch=1).calibrates
    assert ServeSettings(runners=1, threads=1).calibrates
    assert [line for line in serve().said if "images/s" in line] == []
