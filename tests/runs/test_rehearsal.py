"""A model trained on all images gets its temperature and reject threshold from another training."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tinysource import TINY, draw_source, flags, one_thread, weights

from signsclf.evaluation.evaluate import evaluate
from signsclf.model.folder import read_config
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.runs import rehearsal
from signsclf.runs.prepare import prepare, read_plan
from signsclf.runs.train import resume, train

ALL = Recipe(**TINY).replace(valid_fraction=0, epochs=10)


class Said(Observer):
    """What was told; sets ``stop`` at the first batch of the rehearsal."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.lines: list[str] = []
        self.stop = stop

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, task: str, done: int, total: int) -> None:
        if "rehears" in task and self.stop is not None:
            self.stop.set()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return draw_source(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def model(source, tmp_path_factory):
    with one_thread():
        return train(source, tmp_path_factory.mktemp("trained") / "all", ALL, cache="off").folder


def test_confidence_is_as_good_as_the_answers(model, tmp_path):
    config = read_config(model)
    found = evaluate(model, draw_source(tmp_path / "new", tracks=40, frames=3, seed=7))
    # Label smoothing, and no temperature: right far more often than it says.
    untempered = np.log(found.probabilities) * config.temperature
    untempered = np.exp(untempered) / np.exp(untempered).sum(axis=1, keepdims=True)
    gap = found.report.accuracy - untempered.max(axis=1).mean()
    assert config.temperature < 0.9
    assert abs(found.report.accuracy - found.probabilities.max(axis=1).mean()) < 0.6 * gap


def test_it_is_said_where_the_figures_come_from(model):
    config = read_config(model)
    assert config.figures["valid"] is None
    calibration = config.figures["calibration"]
    assert calibration["n"] == 120
    assert "held out of 5 other trainings of the same recipe: figures of those networks" in calibration["note"]
    assert 0 < config.reject_threshold <= 1
    card = (model / "README.md").read_text("utf-8")
    assert "no figure can be given" in card
    assert "held out of 5 other trainings of the same recipe" in card


def test_groups_are_held_out_whole_and_the_recipe_is_the_same(source):
    prepared = prepare(read_plan(source, None, ALL, Observer()), False, Observer())
    held = rehearsal.held_out(prepared, 0.02)
    rows = [one.split.rows("valid") for one in held]
    assert sorted(np.concatenate(rows)) == list(range(120))
    for one, out in zip(held, rows, strict=True):
        assert len(one.split.rows("train")) == 120 - len(out)
        assert one.split.groups_in_both_splits == 0
        assert one.recipe.replace(fold=None, valid_fraction=0) == prepared.recipe


@pytest.mark.parametrize(
    ("changes", "networks"),
    [
        ({}, 5),
        ({"epochs": 80}, 2),
        ({"epochs": 80, "epoch_images": 64}, 3),
        ({"epochs": 1000}, 1),
        ({"valid_fraction": 0.2}, 0),
    ],
)
def test_several_networks_rehearse_a_short_training_of_few_images(source, changes, networks):
    prepared = prepare(read_plan(source, None, ALL.replace(**changes), Observer()), False, Observer())
    assert rehearsal.networks(prepared) == networks


def test_enough_images_are_rehearsed_by_one_network(tmp_path):
    source = draw_source(tmp_path / "many", tracks=60, frames=7)
    prepared = prepare(read_plan(source, None, ALL.replace(epochs=1), Observer()), False, Observer())
    assert len(prepared.split.rows("train")) == 1260
    assert rehearsal.networks(prepared) == 1
    (held,) = rehearsal.held_out(prepared, None)
    assert len(held.split.rows("valid")) == 252


def test_it_can_be_left_out(source, tmp_path, cli):
    ran = cli("train", source, "--out", tmp_path / "m", *flags(valid_fraction=0, epochs=1), "--no-rehearsal")
    assert ran.code == 0, ran.err
    assert "rehears" not in ran.err
    assert read_config(tmp_path / "m").temperature == 1
    assert "`accepted` is null" in (tmp_path / "m" / "README.md").read_text("utf-8")


def test_a_run_that_is_stopped_in_its_rehearsal_ends_the_same(source, model, tmp_path):
    stop = threading.Event()
    with one_thread():
        stopped = train(source, tmp_path / "all", ALL, cache="off", observer=Said(stop), stop=stop)
        assert stopped.stopped
        resumed = resume(tmp_path / "all", cache="off").folder
    assert weights(resumed) == weights(model)
    assert read_config(resumed).temperature == read_config(model).temperature


@pytest.mark.parametrize("arch", ["linear-regression", "numpy-mlp"])
def test_networks_without_gradients_are_calibrated_too(source, tmp_path, arch):
    recipe = Recipe(arch=arch, size=8, epochs=2, valid_fraction=0)
    assert read_config(train(source, tmp_path / arch, recipe, cache="off").folder).temperature != 1


def test_single_groups_cannot_be_held_out(tmp_path):
    said = Said()
    source = draw_source(tmp_path / "few", tracks=1, frames=12)
    folder = train(source, tmp_path / "m", ALL.replace(epochs=1), cache="off", observer=said).folder
    assert any("not calibrated" in line for line in said.lines)
    assert read_config(folder).temperature == 1
    assert read_config(folder).reject_threshold is None


@pytest.mark.slow
def test_rendered_signs_are_held_out_anew(tmp_path):
    recipe = Recipe(arch="signnet", size=16, samples=100, batch_size=32, lr=0.05, valid_fraction=0, precision="fp32")
    assert read_config(train("synthetic", tmp_path / "signs", recipe, cache="off").folder).figures["calibration"]
