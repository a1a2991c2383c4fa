from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
from tinysource import TINY, draw_source, flags, one_thread

import signsclf
from signsclf.choices import SplitName
from signsclf.data.table import read_source
from signsclf.errors import ModelError
from signsclf.evaluation.evaluate import evaluate
from signsclf.export.verify import verify
from signsclf.metrics.calibrate import fit_temperature, softmax
from signsclf.model.folder import read_config, verify_sums
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.runs.export import export_run
from signsclf.runs.holdouts import evaluate_holdouts
from signsclf.runs.prepare import plan, prepare
from signsclf.runs.train import train


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A model that all images of the tiny source trained."""
    with one_thread():
        recipe = Recipe(**TINY, valid_fraction=0)
        return train(source, tmp_path_factory.mktemp("whole") / "all", recipe, rehearsal=False).folder


@pytest.fixture(scope="module")
def other(source, tmp_path_factory):
    """The recipe of the tiny model with other images held out."""
    with one_thread():
        return train(source, tmp_path_factory.mktemp("other") / "other", Recipe(**TINY, seed=1)).folder


def held_out_by(folder) -> set[str]:
    with (folder / "run" / "split.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"] for row in csv.DictReader(file) if row["split"] == "valid"}


@pytest.fixture(scope="module")
def folds(source, tmp_path_factory):
    """The recipe of the tiny model, trained for each of three folds."""
    out = tmp_path_factory.mktemp("folds")
    recipe = Recipe(**{**TINY, "epochs": 1})
    with one_thread():
        return [train(source, out / str(k), recipe.replace(fold=f"{k}/3")).folder for k in (1, 2, 3)]


def test_holdouts_give_a_model_of_everything_its_calibration_and_figures(source, whole, model, other, tmp_path):
    assert read_config(whole).reject_threshold is None
    image = next(source.rglob("*.png"))
    assert signsclf.load(whole).predict(image).accepted is None
    out = export_run(whole, tmp_path / "evaluated", holdouts=[model, other], source=source).folder
    config = read_config(out)
    held_out = [read_config(folder).figures["valid"] for folder in (model, other)]
    found = config.figures["holdouts"]
    assert found["models"] == 2
    assert found["accuracy"] == pytest.approx(np.mean([part["accuracy"] for part in held_out]))
    assert found["accuracy_lowest"] <= found["accuracy"] <= found["accuracy_highest"]
    assert config.figures["valid"] is None
    assert config.temperature != 1
    # The same network, as confident as the hold-outs say that it may be.
    before, after = signsclf.load(whole), signsclf.load(out)
    pixels = np.stack(
        [np.asarray(signsclf.images.load(path, after.size)) for path in sorted(source.rglob("*.png"))[:20]]
    )
    expected = softmax(before.logits(pixels) / config.temperature)
    assert np.abs(after.probabilities(pixels) - expected).max() < 1e-3
    assert after.predict(image).accepted is not None
    assert "the recipe's and not this file's" in after.card
    assert verify(out).difference < 1e-5


def test_an_image_held_out_twice_counts_once_with_the_mean_of_its_logits(source, whole, model, other):
    parts = [held_out_by(model), held_out_by(other)]
    distinct, repeated = len(parts[0] | parts[1]), len(parts[0] & parts[1])
    assert repeated > 0, "the two hold-outs of the fixture are to overlap"
    found = evaluate_holdouts([model, other], read_config(whole), source, 0.005, "off", Observer())
    assert (found.figures["n"], found.figures["n_repeated"]) == (distinct, repeated)
    assert found.calibration.n == distinct
    logits: dict[str, list] = {}
    targets = {}
    for folder in (model, other):
        part = evaluate(folder, source, split=SplitName.VALID)
        own = np.log(part.probabilities) * read_config(folder).temperature
        for name, row, target in zip(part.names, own, part.targets, strict=True):
            logits.setdefault(name, []).append(row)
            targets[name] = target
    pooled = np.stack([np.mean(rows, axis=0) for rows in logits.values()])
    assert found.temperature == pytest.approx(fit_temperature(pooled, np.array(list(targets.values()))), rel=1e-3)
    assert found.figures["accuracy_low"] is None or found.figures["accuracy_low"] < found.figures["accuracy_high"]


def test_the_card_states_distinct_images_and_how_many_were_held_out_more_than_once(
    source, whole, model, other, folds, tmp_path
):
    distinct, repeated = held_out_by(model) | held_out_by(other), held_out_by(model) & held_out_by(other)
    card = signsclf.load(export_run(whole, tmp_path / "a", holdouts=[model, other], source=source).folder).card
    assert f"n = {len(distinct)} distinct images, {len(repeated)} of them held out more than once" in card
    assert f"Measured on {len(distinct)} images" in card


def test_folds_are_disjoint_cover_all_and_are_recorded(source, folds):
    held = [held_out_by(folder) for folder in folds]
    assert sum(map(len, held)) == len(set().union(*held)) == len(list(source.rglob("*.png")))
    for k, folder in enumerate(folds, 1):
        recipe = read_config(folder).recipe
        assert (recipe["fold"], recipe["valid_fraction"]) == (f"{k}/3", pytest.approx(1 / 3))


def test_models_of_folds_count_every_image_once(source, folds):
    whole = dataclasses.replace(read_config(folds[0]), figures={})
    found = evaluate_holdouts(folds, whole, source, 0.005, "off", Observer()).figures
    assert (found["n"], found["n_repeated"], found["models"]) == (120, 0, 3)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["n_groups"] == 24
    assert found["n_groups_lost"] == sum(group["right"] == 0 for group in found["worst_groups"])
    assert found["chosen_on"] is None


def test_a_model_given_twice_is_refused(source, whole, model):
    again = model.parent / ".." / model.parent.name / model.name
    with pytest.raises(ModelError, match="given twice"):
        evaluate_holdouts([model, again], read_config(whole), source, 0.005, "off", Observer())


def test_bare_leaves_out_the_pickle_and_the_pictures(source, whole, model, tmp_path, cli):
    out = tmp_path / "bare"
    ran = cli("export", whole, "--out", out, "--bare", "--holdout", model, "--source", source)
    assert ran.code == 0
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert "learner.pkl" not in files
    assert {"run/recipe.json", "run/history.csv", "run/replay.json"} < files
    assert not {"run/split.csv", "run/predictions.csv"} & files
    assert not {"run/plots/batch.png", "run/plots/mistakes.png"} & files
    verify_sums(out)
    text = "".join(path.read_text("utf-8", "replace") for path in out.rglob("*") if path.suffix in (".md", ".json"))
    assert "learner.pkl" not in text
    assert not any(path.stem in text for path in source.rglob("*.png"))
    assert "fastai" not in read_config(out).readers
    assert verify(out).difference < 1e-5
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
def test_a_model_that_proves_nothing_is_refused(source, whole, tmp_path, change, said):
    with one_thread():
        folder = train(source, tmp_path / "part", Recipe(**{**TINY, **change})).folder
    with pytest.raises(ModelError, match=said):
        export_run(whole, tmp_path / "out", holdouts=[folder], source=source)
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_one_line(source, whole, model, tmp_path, cli):
    for words, said in (
        (["--holdout", model], "one does not go without the other"),
        (["--source", source], "one does not go without the other"),
        (["--holdout", tmp_path / "none", "--source", source], "none"),
    ):
        ran = cli("export", whole, "--out", tmp_path / "out", *words)
        assert ran.code in (1, 2)
        assert said in ran.err
        assert "Traceback" not in ran.err
    ran = cli("export", model, "--out", tmp_path / "out", "--holdout", model, "--source", source)
    assert "validation images of its own" in ran.err


def test_a_fold_of_a_source_with_a_validation_split_is_refused_before_anything_is_decoded(cli, tmp_path):
    for part in ("train", "valid"):
        draw_source(tmp_path / "s" / part, tracks=2, frames=1)
    ran = cli("train", tmp_path / "s", "--out", tmp_path / "m", *flags(fold="1/2"))
    assert ran.code == 2
    assert "--fold 1/2" in ran.complaint
    assert "validation images of its own; leave --fold out" in ran.complaint
    assert not (tmp_path / "m").exists()


def test_images_that_no_fold_holds_out_are_counted(tmp_path):
    source = draw_source(tmp_path / "s", tracks=4, frames=2)
    for path in (source / "red bar").glob("0000[123]_*"):
        path.unlink()
    said: list[str] = []
    observer = Observer()
    observer.say = said.append
    found = prepare(plan(read_source(source), Recipe(**TINY, fold="2/2")), False, observer)
    assert (len(found.split.rows("valid")), found.split.in_no_fold) == (8, 2)
    assert any("2 images are in none of the folds" in line for line in said)
    assert any("by whole groups, fold 2/2, seed 0" in line for line in said)
