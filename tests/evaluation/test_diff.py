from __future__ import annotations

import csv
import json
import shutil

import pytest
from tinysource import TINY, draw_source, one_thread

from signsclf.errors import SourceError
from signsclf.evaluation.diff import diff
from signsclf.recipe import Recipe


@pytest.fixture(scope="module")
def worse(source, tmp_path_factory):
    """A model that hardly learned, and with another split."""
    from signsclf.runs.train import train

    recipe = Recipe(**{**TINY, "epochs": 1, "seed": 5, "lr": 1e-6})
    with one_thread():
        return train(source, tmp_path_factory.mktemp("worse") / "worse", recipe).folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return draw_source(tmp_path_factory.mktemp("fresh") / "fresh", tracks=4, seed=31)


def test_a_model_differs_from_itself_in_nothing(model, fresh):
    found = diff(model, model, fresh)
    assert (found.paired.n, found.paired.difference, found.paired.p_value) == (60, 0, 1)
    assert found.disagreements == ()
    assert found.n_left_out == 0


def test_the_worse_model_is_seen_to_be_worse(model, worse, fresh):
    found = diff(model, worse, fresh)
    pair = found.paired
    assert pair.difference < -0.15
    assert pair.difference_high < 0
    assert pair.p_value < 0.01
    assert pair.by_groups[0] < pair.difference < pair.by_groups[1]
    assert sum(row.better == "A" for row in found.disagreements) == pair.n_only_a
    assert sum(row.better == "B" for row in found.disagreements) == pair.n_only_b
    turned = diff(worse, model, fresh).paired
    assert turned.difference == -pair.difference
    assert (turned.n_only_a, turned.n_only_b) == (pair.n_only_b, pair.n_only_a)


def test_only_images_that_neither_was_trained_on_are_compared(model, worse, source):
    held_out = []
    for folder in (model, worse):
        with (folder / "run" / "split.csv").open() as file:
            held_out.append({row["path"] for row in csv.DictReader(file) if row["split"] == "valid"})
    both = held_out[0] & held_out[1]
    assert 0 < len(both) < 30, "the two seeds should share some of what they hold out"
    found = diff(model, worse, source)
    assert found.paired.n == len(both)
    assert found.n_left_out == len(held_out[0] | held_out[1]) - len(both)


def test_a_source_that_one_was_trained_on_is_no_place_to_compare(model, source, tmp_path):
    seen = tmp_path / "seen"
    with (model / "run" / "split.csv").open() as file:
        for row in csv.DictReader(file):
            if row["split"] == "train":
                (seen / row["path"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / row["path"], seen / row["path"])
    with pytest.raises(SourceError, match="neither was trained"):
        diff(model, model, seen)


# -- the command line ------------------------------------------------------------------------------------------------


def test_for_a_person_and_as_a_file(cli, model, worse, fresh, tmp_path):
    ran = cli("diff", model, worse, fresh, "--out", tmp_path / "differ.csv", "--tolerance", "1")
    assert ran.code == 0, ran.err
    for word in ("A: ", "B: ", "B less A: -", "95 % interval", "n = 60", "McNemar", "whole groups"):
        assert word in ran.out
    with (tmp_path / "differ.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(diff(model, worse, fresh).disagreements)
    assert {row["better"] for row in written} <= {"A", "B", "neither"}
    assert all(row["predicted_a"] != row["predicted_b"] for row in written)


def test_json_is_one_object(cli, model, worse, fresh):
    ran = cli("diff", worse, model, fresh, "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["accuracy_b"] - found["accuracy_a"] == pytest.approx(found["difference"])
    assert found["n_both"] + found["n_only_a"] + found["n_only_b"] + found["n_neither"] == found["n"] == 60


@pytest.mark.parametrize(
    ("order", "words", "code"),
    [
        ("better first", [], 1),
        ("better first", ["--tolerance", "0.1"], 1),
        ("better first", ["--tolerance", "1"], 0),
        ("better first", ["--tolerance", "1", "--fail-under", "0.95"], 1),
        ("worse first", ["--fail-under", "0.9"], 0),
        ("worse first", ["--tolerance", "0"], 0),
    ],
)
def test_the_exit_code_serves_as_a_gate(cli, model, worse, fresh, order, words, code):
    pair = (model, worse) if order == "better first" else (worse, model)
    ran = cli("diff", *pair, fresh, *words)
    assert ran.code == code
    assert ("failed: " in ran.err) == bool(code)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fail-under", "95"], ["--fail-under", "0<=x<=1"]),
        (["--tolerance", "-0.1"], ["--tolerance"]),
        (["--split", "test"], ["no test images"]),
        (["--out", "no/such/folder/x.csv"], ["--out", "folder"]),
    ],
)
def test_wrong_use(cli, model, fresh, words, told):
    ran = cli("diff", model, model, fresh, *words)
    assert ran.code == 2
    assert all(word in ran.complaint for word in told)


def test_a_folder_that_is_no_model(cli, model, fresh, tmp_path):
    ran = cli("diff", model, tmp_path, fresh)
    assert ran.code == 2
    assert str(tmp_path) in ran.complaint
