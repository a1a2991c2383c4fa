"""Linear probes and the search for a way of training, from the source to the model folder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tinysource import TINY, Watched, draw_source

from signsclf.errors import SignsclfError
from signsclf.model.folder import read_config, verify_sums
from signsclf.recipe import Recipe
from signsclf.runs import search as searching
from signsclf.runs.prepare import plan
from signsclf.runs.train import resume, train

FIXED = {name: TINY[name] for name in ("arch", "size", "batch_size", "device", "precision")}


@pytest.fixture
def wanted(model) -> Recipe:
    """Start from the tiny model's weights."""
    return Recipe(**FIXED, weights=str(model), samples=240)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Other images than the model was trained on."""
    return draw_source(tmp_path_factory.mktemp("others") / "shapes", tracks=6, frames=4, seed=3)


def test_a_frozen_network_has_another_last_layer_alone(wanted, others, model, tmp_path):
    frozen, watched = wanted.replace(freeze=True, samples=None), Watched()
    folder = train(others, tmp_path / "m", frozen, observer=watched, cache=tmp_path / "c").folder
    verify_sums(folder)
    before, after = (load_file(path / "model.safetensors") for path in (model, folder))
    changed = [name for name in after if not torch.allclose(before[name], after[name], atol=1e-6)]
    assert len(changed) == 2
    config = read_config(folder)
    assert config.figures["valid"]["accuracy"] > 0.9
    assert (config.recipe["freeze"], config.recipe["freeze_epochs"], config.recipe["lr"]) == (True, 0, None)
    again = Watched()
    train(others, tmp_path / "again", frozen, observer=again, cache=tmp_path / "c")
    assert "computing features" in {task for task, *_ in watched.progressed}
    assert "computing features" not in {task for task, *_ in again.progressed}


def test_training_that_starts_from_a_probe_is_resumed_bit_for_bit(wanted, others, tmp_path):
    recipe = wanted.replace(probe_first=True, epochs=2, samples=None)
    whole = train(others, tmp_path / "whole", recipe, cache="off").folder
    watched = Watched(stop_after=1)
    stopped = train(others, tmp_path / "m", recipe, cache="off", observer=watched, stop=watched.stop)
    assert stopped.stopped
    parts = resume(stopped.folder, cache="off").folder
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    other = train(others, tmp_path / "other", recipe.replace(probe_first=False), cache="off").folder
    assert (whole / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_what_does_best_on_a_part_of_the_training_images_is_trained_on_all(wanted, others, tmp_path, monkeypatch):
    seen = []
    plain = searching.fit_apart

    def watching(prepared, observer, stop):
        seen.append(prepared)
        return plain(prepared, observer, stop)

    monkeypatch.setattr(searching, "fit_apart", watching)
    watched = Watched()
    # A length that is given excludes the probe, which has none.
    recipe = wanted.replace(search=True, samples=None)
    folder = train(others, tmp_path / "m", recipe, observer=watched, cache="off").folder
    told = [line.removeprefix("search: ") for line in watched.lines if line.startswith("search: ")]
    assert told[0].startswith("4 trainings on ")
    assert told[-1].endswith(" does best")
    chosen = told[-1].removesuffix(" does best")
    assert len(told[1:-1]) in (5, 6) and all("cross-entropy" in line for line in told[1:-1])
    recipe = read_config(folder).recipe
    assert recipe["search"] is False
    for name, value in searching._PRETRAINED[chosen].items():
        assert recipe[name] == value
    # The validation images of the run are in none of its trainings.
    rows = (folder / "run" / "split.csv").read_text().splitlines()
    held_out = {row.split(",")[0] for row in rows if ",valid," in row}
    assert held_out
    for prepared in seen:
        assert not held_out & set(prepared.names)
        groups = [set(prepared.split.table["group"][prepared.split.rows(name)]) for name in ("train", "valid")]
        assert groups[0] and groups[1] and not groups[0] & groups[1]


def test_a_field_that_is_set_is_left_as_it_is(wanted, others, tmp_path):
    recipe, watched = wanted.replace(search=True, lr_ratio=7.0), Watched()
    folder = train(others, tmp_path / "m", recipe, observer=watched, cache="off").folder
    assert "search: 2 trainings" in " ".join(watched.lines)
    assert read_config(folder).recipe["lr_ratio"] == 7.0


def test_a_training_from_scratch_is_searched_by_augmentation(source, tmp_path):
    watched = Watched()
    recipe = Recipe(**{**FIXED, "weights": "none", "samples": 240, "lr": 0.02, "search": True})
    folder = train(source, tmp_path / "m", recipe, observer=watched, cache="off").folder
    assert "search: 3 trainings" in " ".join(watched.lines)
    assert read_config(folder).recipe["augment"] in ("light", "standard", "strong")


def test_a_search_that_is_stopped_leaves_nothing(wanted, others, tmp_path, cli, monkeypatch):
    monkeypatch.setattr(searching, "_try", lambda *args: args[-1].set())
    recipe, watched = wanted.replace(search=True), Watched()
    outcome = train(others, tmp_path / "m", recipe, observer=watched, stop=watched.stop, cache="off")
    assert outcome.stopped
    assert list(tmp_path.iterdir()) == []
    options = ["--recipe", "auto", "--arch", "signnet", "--weights", wanted.weights]
    ran = cli("train", others, "--out", tmp_path / "m", *options)
    assert ran.code == 130
    assert ran.err.splitlines()[-1] == "stopped before the training began"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"freeze": True, "weights": "none"}, "--freeze: random weights"),
        ({"freeze": True, "epochs": 5}, "--epochs 5: not for signnet: with --freeze"),
        ({"freeze": True, "lr": 0.1}, "--lr 0.1: not for signnet: with --freeze"),
        ({"freeze": True, "augment": "strong"}, "--augment strong: not for signnet: with --freeze"),
        ({"freeze": True, "freeze_epochs": 2}, "--freeze-epochs 2: not for signnet"),
        ({"probe_first": True, "weights": "none"}, "--probe-first: from scratch"),
        ({"probe_first": True, "freeze_epochs": 2}, "--freeze-epochs 2: not for signnet: the head starts from"),
        ({"freeze": True, "arch": "mlp", "weights": None}, "--freeze: random weights"),
        ({"freeze": True, "arch": "numpy-mlp", "weights": None}, "--freeze: not for numpy-mlp"),
        ({"search": True}, "--search: for train alone"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wanted, others, changes, told):
    from signsclf.data.table import read_source

    with pytest.raises(SignsclfError) as caught:
        plan(read_source(others), wanted.replace(**changes))
    assert told in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_freeze_and_probe_first_exclude_each_other():
    with pytest.raises(SignsclfError, match="--probe-first: with --freeze"):
        Recipe(freeze=True, probe_first=True)
