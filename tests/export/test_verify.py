from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tinysource import CLASSES, run_command

import signsclf
from signsclf import images
from signsclf.errors import ModelError, ParityError
from signsclf.export.verify import verify, verify_learner


def test_a_folder_in_order(model):
    found = verify(model)
    assert found.difference < 1e-6
    assert found.config.classes == CLASSES
    assert found.bytes == sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    assert found.milliseconds > 0
    assert found.images_per_second > 0
    assert found.card == (model / "README.md").read_text()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.onnx", "learner.pkl", "run/history.csv"])
def test_a_changed_file_is_refused_in_one_line(own_model, cli, name):
    with (own_model / name).open("r+b") as file:
        file.seek(-2, 2)
        file.write(b" ~")
    ran = cli("verify", own_model)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert name in ran.complaint
    assert not ran.out


@pytest.mark.parametrize("name", ["config.json", "model.onnx", "SHA256SUMS", "run/replay.json"])
def test_a_missing_file_is_refused(own_model, name):
    (own_model / name).unlink()
    with pytest.raises(ModelError, match=Path(name).name):
        verify(own_model)


def test_other_answers_than_at_the_export_are_found_out(own_model, cli):
    from signsclf.model.folder import write_sums

    path = own_model / "run" / "replay.json"
    stored = json.loads(path.read_text())
    stored["probabilities"][0] = [0.0, 0.5, 0.5]
    path.write_text(json.dumps(stored))
    write_sums(own_model)
    with pytest.raises(ParityError, match="differ by"):
        verify(own_model)
    assert cli("verify", own_model).code == 1


def test_the_card_and_the_figures_are_printed(cli, model):
    ran = cli("verify", model)
    assert ran.code == 0
    assert ran.out.startswith("# signnet, 3 classes")
    assert "checksums: correct" in ran.out
    assert "images/s" in ran.out
    found = json.loads(cli("verify", model, "--json").out)
    assert found["classes"] == 3
    assert found["figures"]["valid"]["n"] == 30
    assert found["golden_difference"] < 1e-6
    assert "learner_difference" not in found


# -- the learner -----------------------------------------------------------------------------------------------------


def test_the_pickle_is_opened_after_a_warning_and_compared(cli, model):
    ran = cli("verify", model, "--learner", "--json")
    assert ran.code == 0, ran.err
    assert "warning: learner.pkl is a pickle" in ran.err
    assert json.loads(ran.out)["learner_difference"] < 1e-3
    assert "warning" not in cli("verify", model).err


def test_a_changed_pickle_is_not_opened(own_model):
    with (own_model / "learner.pkl").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=r"learner\.pkl"):
        verify_learner(own_model)


def test_a_folder_without_a_pickle(own_model):
    (own_model / "learner.pkl").unlink()
    with pytest.raises(ModelError, match="load_learner"):
        verify_learner(own_model)


def test_load_learner_predicts_the_same_without_a_pickle(own_model, source):
    (own_model / "learner.pkl").unlink()
    files = sorted((source / "red bar").iterdir())[:5] + sorted((source / "blue disc").iterdir())[:5]
    learner = signsclf.load_learner(own_model)
    assert list(learner.dls.vocab) == list(CLASSES)
    loader = learner.dls.test_dl(files, bs=4, num_workers=0)
    with learner.no_bar(), learner.no_logging():
        theirs = learner.get_preds(dl=loader)[0].numpy()
    classifier = signsclf.load(own_model)
    pixels = np.stack([images.load(path, classifier.size) for path in files])
    np.testing.assert_allclose(theirs, classifier.probabilities(pixels), atol=1e-4)


def test_load_learner_can_be_trained_on(model, source):
    import torch
    from fastai.vision.all import ImageDataLoaders, Resize

    learner = signsclf.load_learner(model)
    learner.dls = ImageDataLoaders.from_folder(
        source, valid_pct=0.5, seed=0, item_tfms=Resize(16), bs=16, num_workers=0, device=torch.device("cpu")
    )
    assert list(learner.dls.vocab) == list(CLASSES)
    before = [parameter.detach().clone() for parameter in learner.model.parameters()]
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, lr=1e-3)
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))


def test_a_new_process_elsewhere_reads_a_moved_folder(model, source, tmp_path):
    moved = shutil.copytree(model, tmp_path / "a b" / "moved")
    (tmp_path / "elsewhere").mkdir()
    ran = run_command("verify", moved, "--json", cwd=tmp_path / "elsewhere")
    assert ran.code == 0, ran.err
    ran = run_command("predict", next((source / "red bar").iterdir()), "--model", "../a b/moved", "--json",
                      cwd=tmp_path / "elsewhere")  # fmt: skip
    assert json.loads(ran.out)[0]["label"] == "red bar"
