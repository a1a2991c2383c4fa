"""The ladder: several models on the same images and split, and the networks without torch's gradients as models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from tinysource import Watched, draw_source, one_thread

import signsclf
from signsclf.data import synthetic
from signsclf.data.table import read_source
from signsclf.errors import SignsclfError, SourceError
from signsclf.model.folder import read_config, verify_sums
from signsclf.recipe import COMPARED_ARCHITECTURES, Recipe
from signsclf.runs.compare import compare, suitable
from signsclf.runs.train import resume, search_lr, train

RUNGS = ("numpy-mlp", "linear-regression", "signnet")
RECIPE = Recipe(size=16, epochs=2, batch_size=16, augment="none", device="cpu")
FLAGS = ("--size", 16, "--epochs", 2, "--batch-size", 16, "--augment", "none", "--device", "cpu")


@pytest.fixture(scope="module")
def climbed(source, tmp_path_factory):
    out, observer = tmp_path_factory.mktemp("ladder"), Watched()
    with one_thread():
        cache = tmp_path_factory.mktemp("decoded")
        return compare(source, out, RUNGS, RECIPE, cache=cache, observer=observer), out, observer


def sides(folder: Path) -> dict[str, str]:
    with (folder / "run" / "split.csv").open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_every_rung_is_a_whole_model_folder_judged_on_the_same_images(climbed):
    done, out, observer = climbed
    assert not done.stopped
    assert [rung.name for rung in done.comparison.results] == list(RUNGS)
    assert [total for task, done, total in observer.progressed if task == "decoding" and done == total] == [120]
    splits = [sides(out / name) for name in RUNGS]
    assert splits[0] == splits[1] == splits[2]
    for rung in done.comparison.results:
        verify_sums(out / rung.name)
        config = read_config(out / rung.name)
        assert config.architecture == rung.name
        assert config.figures["valid"]["accuracy"] == rung.accuracy
        assert rung.n == done.comparison.n_valid == 30
        assert rung.bytes == (out / rung.name / "model.onnx").stat().st_size
        assert rung.accuracy_low < rung.accuracy_high
        assert rung.error is None
        assert not rung.kept
    by_name = {rung.name: rung for rung in done.comparison.results}
    assert by_name["linear-regression"].accuracy >= 0.9
    assert by_name["linear-regression"].parameters == 3 * (3 * 16 * 16 + 1)


@pytest.mark.parametrize("name", ["numpy-mlp", "linear-regression"])
def test_networks_without_torchs_gradients_are_models_as_the_rest(climbed, source, name):
    folder = climbed[1] / name
    config = read_config(folder)
    assert config.fixed_input_size
    assert config.classifier is None
    assert config.parity["top1_differs"] == 0
    image = next((source / "red bar").iterdir())
    found = signsclf.load(folder).predict(image)
    learner = signsclf.load_learner(folder)
    with learner.no_bar(), learner.no_logging():
        label, index, probabilities = learner.predict(image)
    assert (label, int(index)) == (found.label, found.index)
    assert float(probabilities.max()) == pytest.approx(found.probability, abs=1e-4)
    assert all(type(module).__module__.startswith("torch.nn") for module in learner.model.modules())


def test_no_rung_learns_from_synthetic_signs_that_the_others_have_not(tmp_path):
    synthetic.write(tmp_path / "signs", 2, (20, 20), 0)
    for wanted, recipe in ((0, RECIPE), (1, RECIPE.replace(add_synthetic=1))):
        out = tmp_path / str(wanted)
        compare(tmp_path / "signs", out, ["signnet"], recipe.replace(epochs=1, valid_fraction=0.5, split_by="random"))
        assert read_config(out / "signnet").recipe["add_synthetic"] == wanted


def test_rungs_that_are_there_are_kept_and_others_refused(climbed, source):
    done, out, _ = climbed
    observer = Watched()
    again = compare(source, out, ["signnet", "linear-regression"], RECIPE, observer=observer)
    assert [rung.kept for rung in again.comparison.results] == [True, True]
    before = {rung.name: rung.accuracy for rung in done.comparison.results}
    assert all(rung.accuracy == before[rung.name] for rung in again.comparison.results)
    assert sum("kept" in line for line in observer.lines) == 2
    other = compare(source, out, ["linear-regression"], RECIPE.replace(seed=1))
    assert "--overwrite" in other.comparison.results[0].error
    assert read_config(out / "linear-regression").recipe["seed"] == 0


def test_one_failure_is_a_row_and_the_others_go_on(source, tmp_path, cli, monkeypatch):
    cache = tmp_path / "decoded"
    named = ("--models", "alexnet, linear-regression", "--cache", cache)
    ran = cli("compare", source, "--out", tmp_path / "l", *named, *FLAGS)
    assert ran.code == 1
    assert list(cache.glob("*/pixels.bin"))
    caption, _, failed, done = ran.out.splitlines()
    assert "30 held out by whole groups, seed 0" in caption
    assert failed.startswith("alexnet ")
    assert "failed: --size 16" in failed
    assert done.startswith("linear-regression ")
    assert {path.name for path in (tmp_path / "l").iterdir()} == {
        "linear-regression",
        *(f"comparison.{kind}" for kind in ("csv", "html", "json", "png")),
    }
    ran = cli("compare", source, "--out", tmp_path / "l", "--models", "linear-regression", "--json", *FLAGS)
    assert ran.code == 0
    (rung,) = json.loads(ran.out)["results"]
    assert rung["kept"]
    assert rung["n"] == 30

    def burst(*_):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("signsclf.runs.compare.begin", burst)
    done = compare(source, tmp_path / "m", ["linear-regression"], RECIPE)
    assert done.comparison.results[0].error == "unexpected RuntimeError: out of memory"


@pytest.mark.parametrize(
    ("models", "complaint"),
    [("mlp,,signnet", "--models: a name is empty"), ("mlp,mlp", "named twice"), ("mlp,singnet", "near it are signnet")],
)
def test_wrong_names_are_told_before_any_work(cli, source, tmp_path, models, complaint):
    ran = cli("compare", source, "--out", tmp_path / "l", "--models", models)
    assert ran.code == 2
    assert complaint in ran.complaint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_held_out_is_nothing_to_compare_on(source, tmp_path):
    with pytest.raises(SourceError, match="--valid-fraction"):
        compare(source, tmp_path / "l", ["linear-regression"], RECIPE.replace(valid_fraction=0))


def test_a_stop_keeps_what_is_finished(source, tmp_path):
    watched = Watched(stop_after=0)
    done = compare(source, tmp_path, RUNGS[1:], RECIPE, observer=watched, stop=watched.stop)
    assert done.stopped
    assert done.comparison.results == ()
    # The interrupted rung is in nobody's way.
    assert compare(source, tmp_path, ["linear-regression"], RECIPE).comparison.results[0].error is None


def test_networks_on_pixels_are_for_small_images(tmp_path):
    small, large = draw_source(tmp_path / "s", tracks=1, frames=2), draw_source(tmp_path / "l", tracks=1, frames=2)
    assert suitable(read_source(small).table) == COMPARED_ARCHITECTURES
    from PIL import Image

    for path in large.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((200, 150)).save(path)
    assert suitable(read_source(large).table) == COMPARED_ARCHITECTURES[COMPARED_ARCHITECTURES.index("simple-cnn") :]


@pytest.mark.parametrize("name", ["numpy-mlp", "linear-regression"])
def test_a_stopped_run_starts_again_and_ends_the_same(source, tmp_path, name):
    recipe = RECIPE.replace(arch=name)
    whole = train(source, tmp_path / "whole", recipe).folder
    watched = Watched(stop_after=0)
    assert train(source, tmp_path / "m", recipe, observer=watched, stop=watched.stop).stopped
    assert resume(tmp_path / "m").folder == tmp_path / "m"
    assert (whole / "model.safetensors").read_bytes() == (tmp_path / "m" / "model.safetensors").read_bytes()


def test_options_that_make_no_sense_are_refused_before_any_work(source, tmp_path, cli):
    ran = cli("train", source, "--arch", "linear-regression", "--lr", "0.1", "--out", tmp_path / "m")
    assert ran.code == 2
    assert "--lr 0.1: not for linear-regression: it is solved" in ran.complaint
    with pytest.raises(SignsclfError, match="no rate can be searched"):
        search_lr(source, RECIPE.replace(arch="numpy-mlp"))
    assert not list(tmp_path.iterdir())


def test_a_resnet_starts_from_a_weights_file(source, tmp_path):
    from signsclf.training.architectures import create, find_architecture

    torch.manual_seed(0)
    torch.save(create(find_architecture("resnet18"), 1000).state_dict(), tmp_path / "resnet18.pth")
    observer = Watched()
    recipe = RECIPE.replace(arch="resnet18", weights=str(tmp_path / "resnet18.pth"), size=32, epochs=1)
    outcome = train(source, tmp_path / "m", recipe, observer=observer)
    assert outcome.metrics["n"] == 30
    assert "start: weights of resnet18.pth, head dropped: its classes are others" in observer.lines
