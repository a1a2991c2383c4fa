from __future__ import annotations

import numpy as np
import pytest
from tinysource import TINY, one_thread

import signsclf
from signsclf.errors import ModelError
from signsclf.judging.calibrate import softmax
from signsclf.modelfolder import read_config, verify_sums
from signsclf.recipe import Recipe
from signsclf.reload import reload
from signsclf.runexport import export_run
from signsclf.train import train


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A model that all images of the tiny source trained."""
    with one_thread():
        return train(source, tmp_path_factory.mktemp("whole") / "all", Recipe(**TINY, valid_fraction=0)).folder


@pytest.fixture(scope="module")
def other(source, tmp_path_factory):
    """The recipe of the tiny model with other images held out."""
    with one_thread():
        return train(source, tmp_path_factory.mktemp("other") / "other", Recipe(**TINY, seed=1)).folder


def test_folds_give_a_model_of_everything_its_calibration_and_figures(source, whole, model, other, tmp_path):
    assert read_config(whole).reject_threshold is None
    image = next(source.rglob("*.png"))
    assert signsclf.load(whole).predict(image).accepted is None
    out = export_run(whole, tmp_path / "judged", folds=[model, other], source=source).folder
    config = read_config(out)
    held_out = [read_config(fold).figures["valid"] for fold in (model, other)]
    found = config.figures["cross_validation"]
    assert found["folds"] == 2
    assert found["n"] == sum(part["n"] for part in held_out)
    assert found["accuracy"] == pytest.approx(np.mean([part["accuracy"] for part in held_out]))
    assert found["accuracy_lowest"] <= found["accuracy"] <= found["accuracy_highest"]
    assert config.figures["calibration"]["n"] == found["n"]
    assert config.figures["valid"] is None
    assert config.temperature != 1
    # The same network, as sure as the folds say that it may be.
    before, after = signsclf.load(whole), signsclf.load(out)
    pixels = np.stack(
        [np.asarray(signsclf.images.load(path, after.size)) for path in sorted(source.rglob("*.png"))[:20]]
    )
    expected = softmax(before.logits(pixels) / config.temperature)
    assert np.abs(after.probabilities(pixels) - expected).max() < 1e-3
    assert after.predict(image).accepted is not None
    assert "the recipe's and not this file's" in after.card
    assert reload(out).difference < 1e-5


def test_bare_leaves_out_the_pickle_and_the_pictures(source, whole, model, tmp_path, cli):
    out = tmp_path / "bare"
    ran = cli("export", whole, "--out", out, "--bare", "--fold", model, "--source", source)
    assert ran.code == 0
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert "learner.pkl" not in files
    assert {"run/recipe.json", "run/history.csv", "run/replay.json"} < files
    assert not {"run/split.csv", "run/predictions.csv"} & files
    assert all(name.startswith("run/replay/") for name in files if name.endswith(".png"))
    verify_sums(out)
    text = "".join(path.read_text("utf-8", "replace") for path in out.rglob("*") if path.suffix in (".md", ".json"))
    assert "learner.pkl" not in text
    assert not any(path.stem in text for path in source.rglob("*.png"))
    assert "fastai" not in read_config(out).readers
    assert reload(out).difference < 1e-5
    assert signsclf.load(out).predict(next(source.rglob("*.png"))).label in signsclf.load(whole).labels


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.03}, "another recipe .lr is 0.03, not 0.02"),
        ({"epoch_images": 20}, "another recipe .epoch_images is 20, not 0"),
        ({"valid_fraction": 0}, "held no validation images out"),
    ],
    ids=["recipe", "length", "all"],
)
def test_a_fold_that_proves_nothing_is_refused(source, whole, tmp_path, change, said):
    with one_thread():
        fold = train(source, tmp_path / "fold", Recipe(**{**TINY, **change})).folder
    with pytest.raises(ModelError, match=said):
        export_run(whole, tmp_path / "out", folds=[fold], source=source)
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_one_line(source, whole, model, tmp_path, cli):
    for words, said in (
        (["--fold", model], "one does not go without the other"),
        (["--source", source], "one does not go without the other"),
        (["--fold", tmp_path / "none", "--source", source], "none"),
    ):
        ran = cli("export", whole, "--out", tmp_path / "out", *words)
        assert ran.code in (1, 2)
        assert said in ran.err
        assert "Traceback" not in ran.err
    ran = cli("export", model, "--out", tmp_path / "out", "--fold", model, "--source", source)
    assert "validation images of its own" in ran.err
