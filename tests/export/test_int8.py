"""model.int8.onnx: written beside fp32's with its own figures, or refused."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from tinysource import TINY, one_thread

from signsclf import images
from signsclf.choices import Int8Policy
from signsclf.data.table import read_source
from signsclf.errors import SignsclfError
from signsclf.export import int8 as quantize
from signsclf.export.int8 import write_int8
from signsclf.inference.classifier import Classifier
from signsclf.model.folder import ONNX_INT8, read_config, verify_sums
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.runs import preflight
from signsclf.runs.export import export_run
from signsclf.runs.train import train


class Told(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def labelled(source):
    """Pixels at the tiny model's size, and class indices."""
    found = read_source(source)
    pixels = np.stack([images.load(path, (16, 16)) for path in found.table["path"]])
    return pixels, np.array([found.classes.index(label) for label in found.table["label"]])


def test_train_writes_it_with_its_figures_and_it_answers_nearly_alike(source, tmp_path, labelled):
    with one_thread():
        folder = train(source, tmp_path / "m", Recipe(**TINY), int8=Int8Policy.FORCE).folder
    verify_sums(folder, [ONNX_INT8])
    figures = json.loads((folder / "config.json").read_text())["signsclf"]["figures"]
    assert figures["int8"]["n"] == figures["valid"]["n"]
    assert figures["int8"]["accuracy_fp32"] == pytest.approx(figures["valid"]["accuracy"])
    assert "model.int8.onnx" in (folder / "README.md").read_text()
    pixels, targets = labelled
    fp32, int8 = (Classifier(folder, file=name).probabilities(pixels) for name in ("model.onnx", ONNX_INT8))
    assert not np.array_equal(fp32, int8)
    assert np.mean(int8.argmax(1) == targets) > 0.9
    graph = onnx.load(folder / ONNX_INT8)
    assert graph.ir_version <= 9
    assert max(opset.version for opset in graph.opset_import) <= 18


def test_one_that_loses_too_much_is_refused_and_not_there(own_model, labelled, monkeypatch):
    pixels, targets = labelled
    black = np.zeros_like(pixels[:16])
    # The tiny network loses nothing worth telling, so that the limit has to come down to it.
    monkeypatch.setattr(quantize, "ACCURACY_LOSS", -1.0)
    found = write_int8(own_model, read_config(own_model), black, pixels, targets)
    assert found.result == "refused"
    assert re.fullmatch(r"int8: refused: \d+\.\d\d points (lost|gained), limit -100", str(found))
    assert found.accuracy_fp32 > 0.9
    assert not (own_model / ONNX_INT8).exists()
    assert write_int8(own_model, read_config(own_model), black, pixels, targets, force=True).n == len(pixels)
    assert (own_model / ONNX_INT8).exists()


@pytest.mark.parametrize("trouble", ["quantizer", "accuracy"])
def test_a_model_without_int8_is_published_and_says_why(source, tmp_path, monkeypatch, trouble):
    def fail(*args):
        raise KeyError("no such node\nin the graph")

    if trouble == "quantizer":
        monkeypatch.setattr(quantize, "_quantize", fail)
        monkeypatch.setattr(preflight, "_passed", set())
    else:
        monkeypatch.setattr(quantize, "ACCURACY_LOSS", -1.0)
    told = Told()
    with one_thread():
        folder = train(source, tmp_path / "m", Recipe(**TINY), int8=Int8Policy.CHECKED, observer=told).folder
    assert not (folder / ONNX_INT8).exists()
    verify_sums(folder)
    found = read_config(folder).figures["int8"]
    card = (folder / "README.md").read_text()
    if trouble == "quantizer":
        assert (found["result"], found["accuracy"]) == ("failed", None)
        assert "int8: failed: 'no such node\\nin the graph'" in told.lines
        assert any(line.startswith("warning: int8: failed") and "training continues" in line for line in told.lines)
    else:
        assert found["result"] == "refused"
        assert any(line.startswith("int8: refused: ") and line.endswith(", limit -100") for line in told.lines)
    assert f"is not here: {found['result']}" in card


def test_a_finished_folder_has_no_images_to_calibrate_on(model, tmp_path):
    with pytest.raises(SignsclfError, match="give --int8 to train"):
        export_run(model, tmp_path / "anew", int8=Int8Policy.CHECKED)
    assert not list(tmp_path.iterdir())
