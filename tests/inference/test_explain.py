from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinymodel import WEIGHT, write_folder, write_safetensors

from signsclf.errors import BadImageError, ModelError
from signsclf.inference.classifier import Classifier
from signsclf.inference.explain import activation_map, heat_map


@pytest.fixture
def half_red() -> Image.Image:
    """Red to the right, black to the left: what speaks for red is to the right."""
    image = Image.new("RGB", (80, 60))
    image.paste("red", (40, 0, 80, 60))
    return image


def test_heat_lies_where_the_class_is(tmp_path: Path, half_red: Image.Image):
    classifier = Classifier(write_folder(tmp_path))
    heat = activation_map(classifier, half_red)
    assert heat.shape == classifier.size
    assert heat[:, 5:].min() == pytest.approx(1)
    assert heat[:, :3].max() == pytest.approx(0)
    picture = heat_map(classifier, half_red)
    assert (picture.size, picture.mode) == ((80, 60), "RGB")
    pixels, original = np.asarray(picture).astype(int), np.asarray(half_red).astype(int)
    assert np.abs(pixels - original)[:, 60:].mean() > 50
    assert np.abs(pixels - original)[:, :20].max() == 0


def test_weights_may_be_of_half_precision_and_one_by_one_kernels(tmp_path: Path, half_red: Image.Image):
    folder = write_folder(tmp_path)
    expected = activation_map(Classifier(folder), half_red)
    write_safetensors(folder / "model.safetensors", {"fc.weight": WEIGHT.astype(np.float16).reshape(3, 3, 1, 1)})
    np.testing.assert_allclose(activation_map(Classifier(folder), half_red), expected, atol=1e-3)


def test_a_large_image_is_made_smaller_and_the_callers_left_alone(tmp_path: Path, half_red: Image.Image):
    large = half_red.resize((1600, 800))
    assert heat_map(Classifier(write_folder(tmp_path)), large).size == (1024, 512)
    assert large.size == (1600, 800)


def test_models_without_a_map_say_so(tmp_path: Path, half_red: Image.Image):
    for name, options in (("a", {"features": False}), ("b", {"classifier": None})):
        with pytest.raises(ModelError, match="tiny cannot be explained"):
            heat_map(Classifier(write_folder(tmp_path / name, **options)), half_red)
    folder = write_folder(tmp_path / "c")
    write_safetensors(folder / "model.safetensors", {"fc.weight": WEIGHT[:, :2].copy()})
    with pytest.raises(ModelError, match="where the feature map needs"):
        heat_map(Classifier(folder), half_red)


def test_the_command_says_so_before_it_predicts(cli, tmp_path: Path, half_red: Image.Image):
    half_red.save(tmp_path / "a.png")
    folder = write_folder(tmp_path / "m", features=False)
    ran = cli("predict", tmp_path / "a.png", "--model", folder, "--explain", tmp_path / "maps")
    assert ran.code == 2
    assert "cannot be explained" in ran.complaint
    assert ran.out == ""
    assert not (tmp_path / "maps").exists()


def test_the_weights_are_read_once(tmp_path: Path, half_red: Image.Image, monkeypatch: pytest.MonkeyPatch):
    classifier = Classifier(write_folder(tmp_path))
    first = activation_map(classifier, half_red)
    (tmp_path / "model.safetensors").unlink()
    runs = []
    run = classifier._run
    monkeypatch.setattr(classifier, "_run", lambda *given: runs.append(given[1:]) or run(*given))
    np.testing.assert_array_equal(activation_map(classifier, half_red), first)
    assert runs == [("logits", "features")]


def test_a_bad_image_is_refused(tmp_path: Path):
    with pytest.raises(BadImageError):
        heat_map(Classifier(write_folder(tmp_path)), b"no image")
