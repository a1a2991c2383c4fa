from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tinymodel import config
from tinysource import CLASSES, TINY, Ran, Watched, command, draw_source, environment, flags, one_thread, weights

import signsclf
from signsclf import images
from signsclf.data import synthetic
from signsclf.errors import BadImageError, ModelError, SignsclfError, SourceError
from signsclf.evaluation.evaluate import evaluate
from signsclf.export.golden import noise_images
from signsclf.export.onnx import ExportedNetwork
from signsclf.export.verify import verify
from signsclf.inference.classifier import Classifier
from signsclf.locks import LockedError
from signsclf.metrics.classification import wilson
from signsclf.model.folder import read_config, verify_sums
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.runs import building, finish, writer
from signsclf.runs.export import export_run
from signsclf.runs.train import resume, search_lr, train
from signsclf.training import architectures

RECIPE = Recipe(**TINY)
LONG = {**TINY, "epochs": 30}
"""Enough epochs to be interrupted in: some five seconds."""
FILES = {
    *("README.md", "SHA256SUMS", "config.json", "learner.pkl", "model.onnx", "model.safetensors"),
    *(f"run/{name}" for name in ("samples.csv", "history.csv", "metrics.json", "per_class.csv", "predictions.csv")),
    *(f"run/{name}" for name in ("recipe.json", "replay.json", "split.csv")),
    *(f"run/plots/{name}.png" for name in ("batch", "confusion", "curves", "mistakes")),
    *(f"run/replay/{number:03}.png" for number in range(8)),
}

PLAIN = FILES - {"learner.pkl", "run/plots/batch.png", "run/plots/mistakes.png"}
"""What is written unasked."""


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_neither_a_pickle_nor_pictures_are_written_unasked(source, tmp_path):
    folder = train(source, tmp_path / "m", RECIPE.replace(epochs=1)).folder
    assert files(folder) == PLAIN
    config = read_config(folder)
    assert "fastai" not in config.readers
    # The golden images are noise, the same in every folder.
    for number, pixels in enumerate(noise_images(8, config.input_size)):
        assert np.array_equal(images.load(folder / "run" / "replay" / f"{number:03}.png", config.input_size), pixels)
    assert verify(folder).difference < 1e-5


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- what is written -------------------------------------------------------------------------------------------------


def test_the_folder_holds_these_files_and_no_others(model):
    assert files(model) == FILES
    assert not model.with_name("tiny.partial").exists()


def test_checksums_are_right_and_complete(model):
    verify_sums(model)
    listed = {line.split(maxsplit=1)[1] for line in (model / "SHA256SUMS").read_text().splitlines()}
    assert listed == FILES - {"SHA256SUMS"}


def test_figures_agree_wherever_they_stand(model):
    config = read_config(model)
    metrics = json.loads((model / "run" / "metrics.json").read_text())
    valid = dict(config.figures["valid"])
    assert valid.pop("n_distinct") == valid["n"]
    assert valid.pop("chosen_on") is None
    assert valid.pop("n_groups_lost") == 0
    for name, value in valid.items():
        assert metrics[name] == value, name
    assert metrics["n"] == 30
    assert metrics["n_groups"] == valid["n_groups"] == 6
    assert metrics["accuracy_low"] < wilson(round(30 * metrics["accuracy"]), 30)[0]
    assert metrics["accuracy"] >= 0.9
    assert config.figures["training"]["n"] == 90
    assert config.figures["calibration"]["n"] == 30
    per_class = rows(model / "run" / "per_class.csv")
    assert [row["label"] for row in per_class] == list(CLASSES) == list(config.classes)
    assert [int(row["n"]) for row in per_class] == [10, 10, 10]
    card = (model / "README.md").read_text()
    assert f"{100 * metrics['accuracy']:.1f} %" in card
    assert "n = 30" in card


def test_figures_come_from_the_exported_file(source, tmp_path, monkeypatch):
    monkeypatch.setattr(ExportedNetwork, "logits", lambda _, batch: np.tile(np.float32([9, 0, 0]), (len(batch), 1)))
    outcome = train(source, tmp_path / "m", RECIPE.replace(epochs=1))
    assert outcome.metrics["accuracy"] == pytest.approx(1 / 3)
    assert {row["label"]: float(row["recall"]) for row in rows(outcome.folder / "run" / "per_class.csv")} == {
        "blue disc": 1,
        "green square": 0,
        "red bar": 0,
    }


def test_training_parity_check_evaluation_and_prediction_see_the_same_pixels(source, tmp_path, monkeypatch):
    seen: dict[str, list[np.ndarray]] = {}
    doing = ["validation"]

    def watch(owner: object, name: str, position: int, task: str = "") -> None:
        real = getattr(owner, name)

        def watched(*arguments, **more):
            given = arguments[position]
            seen.setdefault(task or doing[-1], []).extend(np.asarray(getattr(given, "pixels", given)))
            return real(*arguments, **more)

        monkeypatch.setattr(owner, name, watched)

    monkeypatch.setattr(signsclf.runs.train, "preflight", lambda *given: 0)  # which predicts noise
    watch(building, "dataloaders", 0, "training")
    watch(finish, "ExportedNetwork", 5, "parity check")
    watch(ExportedNetwork, "logits", 1)
    watch(Classifier, "logits", 1)
    folder = train(source, tmp_path / "m", RECIPE.replace(epochs=1), pictures=True).folder
    doing.append("evaluation")
    evaluate(folder, source)
    paths, classifier = sorted(source.rglob("*.png")), signsclf.load(folder)
    doing.append("one by one")
    for path in paths:
        classifier.predict(path)
    doing.append("many")
    classifier.predict_batch(paths)
    doing.append("bytes")
    classifier.predict_batch([path.read_bytes() for path in paths])
    known = {signsclf.images.load(path, (16, 16)).tobytes() for path in paths}
    assert len(known) == 120
    assert seen.keys() == {"training", "parity check", *doing}
    for task, pixels in seen.items():
        assert {image.tobytes() for image in pixels} <= known, task


def test_split_keeps_groups_whole(model):
    table = rows(model / "run" / "split.csv")
    assert len(table) == 120
    sides = {}
    for row in table:
        sides.setdefault((row["label"], row["group"]), set()).add(row["split"])
    assert len(sides) == 24
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {"valid"} for side in sides.values()) == 6


def test_draws_add_up(model):
    draws = rows(model / "run" / "samples.csv")
    assert [row["label"] for row in draws] == list(CLASSES)
    assert [int(row["images"]) for row in draws] == [30, 30, 30]
    whole_batches = 90 // TINY["batch_size"] * TINY["batch_size"]
    assert sum(int(row["made"]) for row in draws) == whole_batches * TINY["epochs"]
    assert sum(float(row["planned_an_epoch"]) for row in draws) == pytest.approx(whole_batches, abs=0.2)


def test_history_has_a_row_an_epoch(model):
    history = rows(model / "run" / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])


def test_the_recipe_is_whole(model):
    recipe = Recipe.from_json((model / "run" / "recipe.json").read_text())
    # No fold was asked for; all else is chosen.
    assert {name for name, value in recipe.to_dict().items() if value is None} == {
        "fold",
        "teacher",
        "teacher_weight",
        "teacher_temperature",
    }
    assert {name: recipe.to_dict()[name] for name in TINY} == TINY
    assert read_config(model).recipe == recipe.to_dict()


def test_no_path_of_the_source_is_shipped(model, source):
    places = {str(place) for place in (source.parent, model.parent, Path(signsclf.__file__).parents[1], sys.prefix)}
    for name in FILES:
        found = [place for place in places if place.encode() in (model / name).read_bytes()]
        assert not found, f"{name} holds {found}"
    # A pickle of torch's is a zip, but stored, not packed.
    assert b"fastai.learner" in (model / "learner.pkl").read_bytes()


def test_the_same_training_twice_is_the_same_bit_for_bit(model, source, tmp_path):
    again = train(source, tmp_path / "again", RECIPE).folder
    assert weights(again) == weights(model)
    assert (again / "model.onnx").read_bytes() == (model / "model.onnx").read_bytes()
    other = train(source, tmp_path / "other", RECIPE.replace(seed=1, epochs=1)).folder
    assert weights(other) != weights(model)


# -- variations ------------------------------------------------------------------------------------------------------


def test_without_validation_nothing_is_judged_and_that_is_said(source, tmp_path, cli):
    ran = cli("train", source, "--out", tmp_path / "all", *flags(valid_fraction=0, epochs=1))
    assert ran.code == 0, ran.err
    assert "nothing is held out" in ran.err
    assert "accuracy" not in ran.out
    assert "rehearsed for the calibration: 120 images held out of 5 trainings like it" in ran.err
    config = read_config(tmp_path / "all")
    assert config.figures["training"]["n"] == 120
    assert config.figures["valid"] is None
    assert config.figures["training"]["best_epoch"] is None
    assert "Trained on all images" in (tmp_path / "all" / "README.md").read_text()
    assert "run/metrics.json" not in files(tmp_path / "all")
    found = signsclf.load(tmp_path / "all").predict(next((source / "red bar").iterdir()))
    assert found.accepted is not None
    judged = json.loads(cli("evaluate", tmp_path / "all", source, "--json").out)
    assert judged["n_seen_in_training"] == judged["n"] == 120


def test_the_sources_own_parts_are_kept_to(tmp_path):
    for seed, (part, tracks) in enumerate({"train": 5, "val": 2, "testing": 1}.items()):
        draw_source(tmp_path / "source" / part, tracks=tracks, seed=seed)
    outcome = train(tmp_path / "source", tmp_path / "model", RECIPE.replace(epochs=1))
    assert outcome.metrics["n"] == 30
    table = rows(outcome.folder / "run" / "split.csv")
    assert {(row["path"].split("/")[0], row["split"]) for row in table} == {("train", "train"), ("val", "valid")}
    assert read_config(outcome.folder).figures["training"]["n"] == 75


def test_weights_of_a_model_folder_drop_the_head_where_classes_differ(model, source, tmp_path):
    other = draw_source(tmp_path / "others", classes=("a", "b", "c"))
    watched = Watched()
    recipe = RECIPE.replace(epochs=1, arch=None, weights=str(model))
    folder = train(other, tmp_path / "m", recipe, observer=watched).folder
    assert any("head dropped" in line for line in watched.lines), watched.lines
    config = read_config(folder)
    assert config.recipe["weights"] == model.name
    assert config.initial_weights == f"local {model.name}"
    assert f"from other weights (local {model.name}), whose licence applies" in config.licence
    assert read_config(model).initial_weights == ""
    watched = Watched()
    train(source, tmp_path / "n", recipe, observer=watched)
    assert any("weights of tiny" in line and "dropped" not in line for line in watched.lines)


def test_imagenet_weights_are_recorded_by_the_name_that_releases_give_them():
    arch = architectures.find_architecture("resnet34")
    recorded = writer._initial_weights(RECIPE.replace(weights="imagenet"), arch)
    assert recorded.startswith("torchvision ResNet34_Weights.IMAGENET1K_V1, https://")
    assert recorded in writer._licence(recorded)
    ours = writer._initial_weights(RECIPE.replace(weights="synthetic"), architectures.find_architecture("signnet"))
    assert ours.startswith("signsclf's signnet from synthetic signs, sha256 ")
    assert f"from weights under the Apache-2.0 licence ({ours})" in writer._licence(ours)
    odd = writer._initial_weights(RECIPE.replace(weights="/x/a\n" + "b" * 250), arch)
    config(initial_weights=odd, licence=writer._licence(odd))


def test_versions_are_those_of_the_modules_whatever_their_distributions_are_called(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    known = importlib.metadata.version
    expected = {name: known(name) for name in ("torch", "onnxruntime", "pillow", "fastai", "numpy")}
    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    found = writer.versions()
    assert expected.items() <= found.items()
    assert found["signsclf"] == signsclf.__version__


def test_a_folder_called_imagenet_does_not_hide_the_keyword(model, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "imagenet")
    with pytest.raises(ModelError, match="no pretrained weights"):
        train(source, tmp_path / "m", RECIPE.replace(weights="imagenet"))
    train(source, tmp_path / "m", RECIPE.replace(weights="./imagenet", epochs=1))


def test_unreadable_images_stop_the_training_or_are_listed(source, tmp_path, cli):
    bad = shutil.copytree(source, tmp_path / "bad")
    for name in ("00000_00000.png", "00007_00004.png"):
        (bad / "red bar" / name).write_bytes(b"not an image")
    ran = cli("train", bad, "--out", tmp_path / "m", *flags(epochs=1))
    assert ran.code == 1
    assert "2 of 120" in ran.complaint
    assert "00000_00000.png" in ran.complaint
    assert "--skip-bad" in ran.complaint
    assert not list(tmp_path.glob("m*"))
    ran = cli("train", bad, "--out", tmp_path / "m", "--skip-bad", *flags(epochs=1))
    assert ran.code == 0, ran.err
    skipped = rows(tmp_path / "m" / "run" / "skipped.csv")
    assert [row["path"] for row in skipped] == ["red bar/00000_00000.png", "red bar/00007_00004.png"]
    assert all(row["reason"] and str(tmp_path) not in row["reason"] for row in skipped)
    assert len(rows(tmp_path / "m" / "run" / "split.csv")) == 118
    assert read_config(tmp_path / "m").figures["training"]["skipped"] == 2


def test_a_class_of_which_nothing_can_be_read(source, tmp_path):
    bad = shutil.copytree(source, tmp_path / "bad")
    for path in (bad / "red bar").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="red bar"):
        train(bad, tmp_path / "m", RECIPE, skip_bad=True)


def test_auto_rate_leaves_its_search_in_the_run(source, tmp_path):
    folder = train(source, tmp_path / "m", RECIPE.replace(lr="auto", epochs=1)).folder
    assert {"run/lr_find.json", "run/lr_find.png"} <= files(folder)
    search = json.loads((folder / "run" / "lr_find.json").read_text())
    rate = read_config(folder).figures["training"]["lr"]
    assert rate in search["suggestions"].values()


def test_lr_find(source, tmp_path, cli):
    ran = cli("lr-find", source, "--out", tmp_path / "found", *flags())
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.out.splitlines()] == ["valley", "slide", "minimum", "steep"]
    assert files(tmp_path / "found") == {"lr_find.json", "lr_find.png"}
    search = json.loads((tmp_path / "found" / "lr_find.json").read_text())
    assert len(search["lrs"]) == len(search["losses"]) > 10


def test_search_takes_a_source_that_was_read(source):
    from signsclf.data.table import read_source

    assert search_lr(read_source(source), RECIPE).suggestions.keys() == {"valley", "slide", "minimum", "steep"}


# -- refusals, none of which leaves anything behind ------------------------------------------------------------------


def refused(match: str, error: type[SignsclfError], where: Path, source: Path, recipe: Recipe = RECIPE, **options):
    before = set(where.iterdir())
    with pytest.raises(error, match=match) as caught:
        train(source, where / "model", recipe, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert set(where.iterdir()) == before


def test_refusals(source, tmp_path):
    refused("no-such-net", SignsclfError, tmp_path, source, RECIPE.replace(arch="no-such-net"))
    refused("no such file", ModelError, tmp_path, source, RECIPE.replace(weights="missing.pth"))
    refused("--max-accepted-error", SignsclfError, tmp_path, source, max_accepted_error=1.5)
    refused("--flip map.*GTSRB", SignsclfError, tmp_path, source, RECIPE.replace(flip="map"))
    refused("no box", SourceError, tmp_path, source, RECIPE.replace(crop="roi"))


@pytest.mark.parametrize("name", ["turn_left", "KeepRight", "left", "Turn right ahead", "go-left2"])
def test_always_flipping_is_refused_where_a_class_has_a_side(tmp_path, name):
    source = draw_source(tmp_path / "source", tracks=2, frames=2, classes=("ahead", name))
    refused(f"{name}.*never", SignsclfError, tmp_path, source, RECIPE.replace(flip="always"))


def test_always_flipping_is_not_refused_for_bright_leftovers(tmp_path):
    source = draw_source(tmp_path / "source", tracks=2, frames=2, classes=("bright", "leftover"))
    train(source, tmp_path / "m", RECIPE.replace(flip="always", epochs=1, batch_size=4))


def test_one_class_is_none_to_tell_apart(tmp_path):
    source = draw_source(tmp_path / "source", classes=("alone",))
    refused("alone.*two or more", SourceError, tmp_path, source)


def test_test_images_only(tmp_path):
    draw_source(tmp_path / "source" / "test")
    refused("train", SourceError, tmp_path, tmp_path / "source")


def test_what_is_there_is_not_replaced_unasked(model, source, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(model, mine)
    with pytest.raises(ModelError, match=r"--overwrite.*--out"):
        train(source, mine, RECIPE)
    first = weights(mine)
    train(source, mine, RECIPE.replace(epochs=1, seed=4), overwrite=True)
    assert weights(mine) != first
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_of_the_users_is_never_deleted(source, tmp_path):
    for taken in (tmp_path / "model", tmp_path / "model.partial"):
        taken.mkdir()
        (taken / "precious.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(ModelError, match=r"model.*choose another --out"):
                train(source, tmp_path / "model", RECIPE, overwrite=overwrite)
        assert (taken / "precious.txt").read_text() == "mine"
        shutil.rmtree(taken)


# -- the command line ------------------------------------------------------------------------------------------------


def test_train_prints_its_result_and_tells_the_rest(cli, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = cli("train", source, *flags())
    assert ran.code == 0, ran.err
    headline, where = ran.out.splitlines()
    assert headline.startswith("accuracy ")
    assert "n = 30" in headline
    assert where == "model: models/default"
    lines = ran.err.splitlines()
    assert "layout: class folders (folders)" in lines
    assert any(line.startswith("device: cpu") for line in lines)
    assert any(line.startswith("estimated time: ") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1/3", "2/3", "3/3"]
    assert "\x1b" not in ran.err
    evaluate = next(line for line in lines if "signsclf evaluate" in line).partition("signsclf ")[2]
    predict = next(line for line in lines if "signsclf predict" in line).partition("signsclf ")[2]
    assert evaluate == f"evaluate models/default '{source}'"
    assert predict == "predict --model models/default image.png"
    again = cli("train", source, *flags())
    assert again.code == 2
    assert "--overwrite" in again.complaint
    assert "--out" in again.complaint


def test_how_the_source_is_read_goes_on_to_the_next_commands(cli, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(CLASSES):
        shutil.copytree(source / name, tmp_path / "shapes" / f"{i % 2}" / name)
    ran = cli("train", "shapes", "--class-level", 2, *flags(epochs=1))
    assert ran.code == 0, ran.err
    assert read_config(tmp_path / "models" / "default").classes == CLASSES
    hint = next(line for line in ran.err.splitlines() if "signsclf evaluate" in line).partition("signsclf ")[2]
    assert hint == "evaluate models/default shapes --class-level 2"
    assert "n = 30" in cli(*hint.split()).out
    assert "'0' is none that the model knows" in cli("evaluate", "models/default", "shapes").complaint


# -- interrupted, and gone on with -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(source, tmp_path_factory):
    with one_thread():
        return train(source, tmp_path_factory.mktemp("unbroken") / "m", Recipe(**LONG)).folder


@pytest.fixture(scope="module")
def broken(source, tmp_path_factory):
    """Runs in processes of their own, each stopped by its signal in the third epoch or soon after."""
    runs = {}
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # children inherit it, and nohup has it ignored
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        folder = tmp_path_factory.mktemp("broken")
        arguments = command("train", source, "--out", folder / "my model", *flags(**LONG))
        with (folder / "err").open("w") as err, (folder / "out").open("w") as out:
            runs[number] = folder, subprocess.Popen(arguments, stdout=out, stderr=err, env=environment())
    signal.signal(signal.SIGHUP, ours)
    done = {}
    waiting = dict(runs)
    deadline = time.monotonic() + 240
    while waiting:
        for number, (folder, process) in list(waiting.items()):
            if "epoch 2/" in (folder / "err").read_text() or process.poll() is not None:
                process.send_signal(number)
                del waiting[number]
        assert time.monotonic() < deadline, "no epoch in four minutes"
        time.sleep(0.02)
    for number, (folder, process) in runs.items():
        code = process.wait(120)
        done[number] = folder, Ran(code, (folder / "out").read_text(), (folder / "err").read_text())
    return done


pytestmark_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


@pytest.mark.slow
@pytestmark_signals
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_run_in_good_order(broken, number):
    folder, ran = broken[getattr(signal, number)]
    assert ran.code == 128 + getattr(signal, number), ran.err
    assert not ran.out
    assert ran.err.splitlines()[-1] == f"stopped; resume with: signsclf train --resume '{folder / 'my model'}'"
    assert "Traceback" not in ran.err
    assert not (folder / "my model").exists()
    assert {"run.json", "checkpoint.pt"} <= files(folder / "my model.partial")


@pytest.mark.slow
@pytestmark_signals
def test_an_interrupted_run_is_in_nobodys_way_unseen(broken, source, cli):
    folder, _ = broken[signal.SIGINT]
    ran = cli("train", source, "--out", folder / "my model", *flags(**LONG))
    assert ran.code == 2
    assert "--resume" in ran.complaint
    assert "--overwrite" in ran.complaint
    for words in (["evaluate", folder / "my model", source], ["predict", source, "--model", folder / "my model"]):
        assert "train --resume" in cli(*words).complaint


@pytest.mark.slow
@pytestmark_signals
def test_an_interrupted_run_can_be_exported_as_it_stands(broken, source, tmp_path):
    folder, _ = broken[signal.SIGINT]
    before = files(folder / "my model.partial")
    outcome = export_run(folder / "my model.partial", tmp_path / "early")
    assert files(outcome.folder) == PLAIN
    assert files(folder / "my model.partial") == before
    verify_sums(outcome.folder)
    assert len(rows(outcome.folder / "run" / "history.csv")) < LONG["epochs"]
    assert outcome.metrics["n"] == 30


@pytest.mark.slow
@pytestmark_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda v: v.name)
def test_a_resumed_run_ends_in_the_weights_of_the_unbroken_one(broken, unbroken, source, tmp_path, number):
    partial = shutil.copytree(broken[number][0] / "my model.partial", tmp_path / "m.partial")
    assert len(rows(unbroken / "run" / "history.csv")) == LONG["epochs"]
    outcome = resume(tmp_path / "m" if number is signal.SIGINT else partial)
    assert outcome.folder == tmp_path / "m"
    assert not partial.exists()
    assert files(outcome.folder) == PLAIN
    assert weights(outcome.folder) == weights(unbroken)
    assert (outcome.folder / "model.onnx").read_bytes() == (unbroken / "model.onnx").read_bytes()
    with pytest.raises(ModelError, match="finished already"):
        resume(tmp_path / "m")


def stop_after_one_epoch(source, out, recipe=RECIPE, **options):
    """Train, and stop after the first epoch, as a signal does."""
    watched = Watched(stop_after=1)
    return train(source, out, recipe, observer=watched, stop=watched.stop, **options)


@pytest.fixture
def stopped(source, tmp_path):
    own = shutil.copytree(source, tmp_path / "own source")
    outcome = stop_after_one_epoch(own, tmp_path / "m")
    assert outcome.stopped
    assert outcome.folder == tmp_path / "m.partial"
    return own, tmp_path / "m"


def test_a_changed_source_is_not_gone_on_with(stopped):
    own, out = stopped
    shutil.copy(own / "red bar" / "00000_00000.png", own / "red bar" / "00000_00001.png")
    with pytest.raises(SourceError, match="changed since"):
        resume(out)


def test_a_damaged_run_is_refused(stopped):
    _, out = stopped
    partial = out.with_name("m.partial")
    (partial / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ModelError, match=r"checkpoint\.pt.*anew"):
        resume(out)
    (partial / "run.json").write_text("{")
    with pytest.raises(ModelError, match=r"run\.json"):
        resume(out)


def test_a_run_that_was_to_overwrite_still_does_when_resumed(model, source, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(model, mine)
    assert stop_after_one_epoch(source, mine, RECIPE.replace(seed=2), overwrite=True).stopped
    assert weights(mine) == weights(model)
    assert resume(mine).folder == mine
    assert weights(mine) != weights(model)


def test_a_run_killed_before_its_first_checkpoint_starts_again(stopped, model):
    _, out = stopped
    out.with_name("m.partial").joinpath("checkpoint.pt").unlink()
    assert weights(resume(out).folder) == weights(model)


# -- the program that calls ------------------------------------------------------------------------------------------


def test_the_callers_settings_change_no_weight_and_are_left_as_they_were(model, source, tmp_path, monkeypatch):
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    first = torch.rand(1)
    torch.set_default_dtype(torch.float64)
    monkeypatch.chdir(tmp_path)
    try:
        with torch.no_grad():
            outcome = train(os.path.relpath(source), "m", RECIPE, cache="off", observer=ChangeFolder(tmp_path.parent))
            learner = signsclf.load_learner(outcome.folder)
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert outcome.folder == tmp_path / "m"
    assert weights(outcome.folder) == weights(model)
    assert {parameter.dtype for parameter in learner.model.parameters()} == {torch.float32}
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)


class ChangeFolder(Observer):
    """Leaves the working directory while the training runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def training_began(self) -> None:
        os.chdir(self.folder)


class Twice(Observer):
    """Starts the same training again while it runs."""

    def __init__(self, *places: Path) -> None:
        self.places, self.refused = places, []

    def training_began(self) -> None:
        source, out, model = self.places
        for call in (
            lambda: train(source, out, RECIPE, overwrite=True),
            lambda: resume(out),
            lambda: export_run(model, out, overwrite=True),
        ):
            with pytest.raises(LockedError) as caught:
                call()
            self.refused.append(str(caught.value))


def test_a_second_run_with_the_same_out_is_refused_while_the_first_one_runs(model, source, tmp_path):
    twice = Twice(source, tmp_path / "m", model)
    outcome = train(source, tmp_path / "m", RECIPE, observer=twice)
    assert weights(outcome.folder) == weights(model)
    assert len(twice.refused) == 3
    assert all("is being written by another signsclf (process" in line for line in twice.refused)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# -- exporting what is finished --------------------------------------------------------------------------------------


def test_a_finished_folder_is_exported_anew(model, tmp_path, cli):
    ran = cli("export", model, "--out", tmp_path / "anew")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].startswith("accuracy ")
    anew = tmp_path / "anew"
    assert files(anew) == PLAIN
    verify_sums(anew)
    assert cli("export", model, "--out", anew, "--overwrite", "--learner", "--pictures").code == 0
    assert files(anew) == FILES
    golden = "run/replay/000.png"
    assert (anew / golden).read_bytes() == (model / golden).read_bytes()
    assert "fastai" in read_config(anew).readers
    assert {name: t.tolist() for name, t in load_file(anew / "model.safetensors").items()} == {
        name: t.tolist() for name, t in load_file(model / "model.safetensors").items()
    }
    old, new = read_config(model), read_config(anew)
    assert new.figures == old.figures
    assert new.temperature == old.temperature
    assert new.parity["n"] == 8
    assert cli("export", model, "--out", anew).code == 2


def test_a_harmed_folder_is_not_exported(own_model, tmp_path, cli):
    with (own_model / "model.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\0\1\2")
    ran = cli("export", own_model, "--out", tmp_path / "anew")
    assert ran.code == 2
    assert "model.safetensors" in ran.complaint
    assert not list(tmp_path.glob("anew*"))


def test_an_export_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr("signsclf.runs.finish.PARITY_TOLERANCE", -1.0)
    with pytest.raises(SignsclfError, match="exported again, its probabilities differ by"):
        export_run(model, tmp_path / "anew")
    assert not list(tmp_path.iterdir())


def test_bad_images_are_an_error_of_their_own(source, tmp_path):
    bad = shutil.copytree(source, tmp_path / "bad")
    (bad / "red bar" / "00000_00000.png").write_bytes(b"")
    with pytest.raises(BadImageError):
        train(bad, tmp_path / "m", RECIPE)


# -- synthetic signs -------------------------------------------------------------------------------------------------


def test_added_signs_train_and_are_in_no_figure(tmp_path):
    synthetic.write(tmp_path / "real", 7, (16, 20))
    # Outliers would be counted with no class.
    recipe = RECIPE.replace(epochs=1, add_synthetic=3, outliers=0.0, balance="none")
    outcome = train(tmp_path / "real", tmp_path / "model", recipe)
    listed = rows(outcome.folder / "run" / "split.csv")
    assert len(listed) == 43 * 7
    trained = sum(row["split"] == "train" for row in listed)
    assert outcome.metrics["n"] == 43 * 7 - trained
    assert read_config(outcome.folder).figures["training"]["n"] == trained
    draws = rows(outcome.folder / "run" / "samples.csv")
    assert sum(int(row["made"]) for row in draws) == (trained + 43 * 3) // 16 * 16
    assert sum(int(row["images"]) for row in draws) == trained


def test_signs_are_added_to_those_of_gtsrb_only(source, tmp_path):
    with pytest.raises(SignsclfError, match="--add-synthetic: these classes are not GTSRB's"):
        train(source, tmp_path / "model", RECIPE.replace(add_synthetic=3))
    with pytest.raises(SignsclfError, match="--add-synthetic: all of these signs are synthetic"):
        train("synthetic", tmp_path / "model", RECIPE.replace(add_synthetic=3))
    assert list(tmp_path.iterdir()) == []


def test_photographs_never_meet_the_renderer(source, tmp_path, monkeypatch):
    # Its import fails, as all that it does would.
    monkeypatch.setitem(sys.modules, "signsclf.training.synthetic", None)
    outcome = train(source, tmp_path / "photos", RECIPE.replace(epochs=1))
    assert outcome.metrics["n"] > 0


def test_a_model_that_has_learned_nothing_is_told_of(source, tmp_path):
    watched = Watched()
    train(source, tmp_path / "model", RECIPE.replace(epochs=1, lr=1e-8, seed=2), observer=watched)
    assert any(line.startswith("warning:") and "no better than always answering" in line for line in watched.lines)


def test_a_resumed_run_computes_on_as_many_threads_as_its_checkpoint(source, tmp_path, monkeypatch):
    """With another number the last bits of the weights are others."""
    import torch

    from signsclf.training import fit

    out = tmp_path / "model"
    assert stop_after_one_epoch(source, out).stopped
    checkpoint = out.with_name("model.partial") / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    torch.save({**state, "threads": 3}, checkpoint)
    seen: list[int] = []
    run = fit.Fit.run
    monkeypatch.setattr(
        fit.Fit, "run", lambda *args, **more: seen.append(torch.get_num_threads()) or run(*args, **more)
    )
    before = torch.get_num_threads()
    resume(out)
    assert seen == [3]
    assert torch.get_num_threads() == before
