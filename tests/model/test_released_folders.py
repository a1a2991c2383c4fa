"""Model folders of every released format version open, and answer as they did when they were written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import signsclf
from signsclf.export.verify import verify
from signsclf.inference.classifier import ready_made
from signsclf.model.folder import FORMAT_VERSION, read_config, verify_sums

FOLDERS = sorted((Path(__file__).parent / "folders").iterdir())
COLOURS = ("dimgray", "slateblue", "peru")
# Probabilities of each class, by the signsclf that wrote the folder.
RECORDED = {
    "1.0": [[0.450875, 0.332105, 0.21702], [0.999987, 8e-06, 5e-06], [0.000373, 0.008725, 0.990902]],
}


def test_there_is_one_of_every_version():
    assert [folder.name for folder in FOLDERS] == sorted(RECORDED)
    configs = [json.loads((folder / "config.json").read_text("utf-8")) for folder in FOLDERS]
    assert [config["signsclf"]["format_version"] for config in configs] == [1]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_opens_and_answers_as_it_did(folder: Path):
    classifier = signsclf.load(folder, threads=1)
    answers = classifier.predict_batch([Image.new("RGB", (20, 20), colour) for colour in COLOURS])
    found = [[probability for _, probability in sorted(answer.top_k)] for answer in answers]
    np.testing.assert_allclose(found, RECORDED[folder.name], atol=1e-5)
    assert classifier.labels == ("blue disc", "green square", "red bar")
    assert classifier.config.initial_weights == ""
    assert verify(folder).difference < 1e-5


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_is_written_in_todays_version(cli, folder: Path, tmp_path: Path):
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    ran = cli("export", old, "--out", tmp_path / "new", "--bare")
    assert ran.code == 0, ran.err
    new = tmp_path / "new"
    verify_sums(new)
    assert json.loads((new / "config.json").read_text("utf-8"))["signsclf"]["format_version"] == FORMAT_VERSION
    assert read_config(new).temperature == read_config(old).temperature


def test_the_ready_made_model_is_of_todays_version():
    config = json.loads((ready_made() / "config.json").read_text("utf-8"))
    assert config["signsclf"]["format_version"] == FORMAT_VERSION
