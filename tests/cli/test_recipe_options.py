from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from tinysource import Ran

from signsclf.cli.compare import FOR_ALL
from signsclf.cli.recipe_options import build_recipe
from signsclf.errors import SignsclfError
from signsclf.recipe import Recipe, describe, preset, value_type
from signsclf.runs import compare, train

CHANGED = {
    "arch": ("resnet18", "resnet18"),
    "weights": ("none", "none"),
    "size": ("48", 48),
    "epochs": ("7", 7),
    "samples": ("5000", 5000),
    "epoch_images": ("700", 700),
    "freeze_epochs": ("3", 3),
    "freeze": (None, True),
    "probe_first": (None, True),
    "search": (None, True),
    "batch_size": ("24", 24),
    "shards": ("4", 4),
    "lr": ("0.003", 0.003),
    "lr_ratio": ("12.5", 12.5),
    "optimizer": ("sgd", "sgd"),
    "weight_decay": ("0.02", 0.02),
    "batch_norm": ("keep", "keep"),
    "label_smoothing": ("0.05", 0.05),
    "ema_decay": ("0.9", 0.9),
    "balance": ("full", "full"),
    "augment": ("strong", "strong"),
    "outliers": ("0.1", 0.1),
    "flip": ("never", "never"),
    "crop": ("roi", "roi"),
    "split_by": ("random", "random"),
    "valid_fraction": ("0.3", 0.3),
    "fold": ("2/5", "2/5"),
    "teacher": ("larger", ["larger"]),
    "teacher_weight": ("0.4", 0.4),
    "teacher_temperature": ("3", 3.0),
    "add_synthetic": ("50", 50),
    "patience": ("4", 4),
    "precision": ("bf16", "bf16"),
    "device": ("cpu", "cpu"),
    "seed": ("99", 99),
}
FIELDS = [field.name for field in dataclasses.fields(Recipe)]


@pytest.fixture
def recipe_of(cli, source, tmp_path, monkeypatch):
    """The recipe that ``train`` or ``lr-find`` is called with, given options."""
    seen = []

    def fake_train(_source, folder, recipe, **_options):
        seen.append(recipe)
        return train.Outcome(folder=folder, source=str(source), stopped=False, metrics=None)

    def fake_search(_source, recipe, **_options):
        seen.append(recipe)
        return SimpleNamespace(suggestions={}, diverged_early=False)

    monkeypatch.setattr(train, "train", fake_train)
    monkeypatch.setattr(train, "search_lr", fake_search)
    monkeypatch.setattr(train, "write_search", lambda *_: None)

    def recipe(*options: str, command: str = "train") -> Recipe:
        ran: Ran = cli(command, source, "--out", tmp_path / "out", *options)
        assert ran.code == 0, ran.err
        return seen.pop()

    return recipe


def test_every_field_of_the_recipe_is_tried_here():
    assert list(CHANGED) == FIELDS


def test_every_field_of_the_recipe_carries_its_help_and_numbers_their_range():
    for field in dataclasses.fields(Recipe):
        assert len(field.metadata["help"].split()) >= 3
        is_number = value_type(field.name) in (int, float)
        assert (field.metadata["low"] is not None, field.metadata["high"] is not None) == (is_number, is_number)
        assert describe(field.name) in Recipe.__doc__
    assert describe("label_smoothing").endswith("[0 to 0.5; default: 0.1]")
    assert describe("balance").endswith("[default: sqrt]")
    assert describe("size").endswith("[8 to 1,024]")


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("command", ["train", "lr-find"])
def test_a_flag_reaches_its_field_and_no_other(recipe_of, name, command):
    text, value = CHANGED[name]
    given = [f"--{name.replace('_', '-')}"] + ([] if text is None else [text])
    values = recipe_of(*given, command=command).to_dict()
    default = Recipe().to_dict()
    assert values[name] == value != default[name] or name == "flip"
    assert {k: v for k, v in values.items() if k != name} == {k: v for k, v in default.items() if k != name}


@pytest.mark.parametrize("name", FOR_ALL)
def test_a_flag_of_compare_reaches_its_field_and_no_other(cli, source, tmp_path, monkeypatch, name):
    seen = []

    def fake(_source, _out, _names, recipe, **_options):
        seen.append(recipe)
        raise SignsclfError("the recipe is all that is asked for")

    monkeypatch.setattr(compare, "compare", fake)
    text, value = CHANGED[name]
    ran = cli("compare", source, "--out", tmp_path, f"--{name.replace('_', '-')}", text)
    assert "all that is asked for" in ran.complaint
    assert seen == [Recipe(**{name: value})]


@pytest.mark.parametrize("command", ["train", "lr-find"])
def test_no_flag_is_the_default_recipe(recipe_of, command):
    assert recipe_of(command=command) == Recipe()


def test_auto(recipe_of):
    assert recipe_of("--device", "auto").device is None
    assert recipe_of("--lr", "auto").lr == "auto"


def test_a_flag_has_its_say_over_a_preset(recipe_of):
    assert recipe_of("--recipe", "fast") == preset("fast")
    assert recipe_of("--recipe", "fast", "--size", "40") == preset("fast").replace(size=40)


def test_help_shows_each_flag_and_its_default(cli):
    text = cli("train", "--help").out
    for name in FIELDS:
        assert f"--{name.replace('_', '-')} " in text
    assert "[0 to 0.9; default: 0.2]" in text
    assert "[default: sqrt]" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--lr", "nonsense"], ["--lr", "nonsense", "auto"]),
        (["--recipe", "quick"], ["--recipe", "quick", "fast"]),
        (["--size", "4"], ["--size", "8", "1,024"]),
        (["--size", "big"], ["--size"]),
        (["--balance", "half"], ["--balance", "half", "sqrt"]),
        (["--device", "tpu"], ["--device", "tpu", "auto"]),
        (["--valid-fraction", "1"], ["--valid-fraction", "0.9"]),
        (["--fold", "6/5"], ["--fold", "6/5", "K/N"]),
        (["--fold", "1/5", "--valid-fraction", "0.2"], ["--fold", "--valid-fraction"]),
        (["--epochs", "0"], ["--epochs"]),
    ],
)
def test_a_wrong_value_is_one_line(cli, source, tmp_path, options, told):
    ran = cli("train", source, "--out", tmp_path / "m", *options)
    assert ran.code == 2
    assert all(word in ran.complaint for word in told), ran.complaint
    assert len(ran.err.splitlines()) == 1


def test_build_recipe_leaves_what_is_none():
    assert build_recipe(None, {"size": None, "seed": 3}) == Recipe(seed=3)
