"""A run whose source went away, moved or changed, and a run that something unexpected ended."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from tinysource import TINY, Watched, flags, one_thread, weights

from signsclf.errors import ModelError, RunError, SourceError
from signsclf.files import csv_bytes
from signsclf.imagefiles.cachefolder import clear
from signsclf.model.folder import read_config, verify_sums
from signsclf.recipe import Recipe
from signsclf.runs.export import export_run
from signsclf.runs.train import resume, train

RECIPE = Recipe(**TINY)


def stop_after_one_epoch(source, out, recipe=RECIPE, **options):
    """Train, and stop after the first epoch."""
    watched = Watched(stop_after=1)
    outcome = train(source, out, recipe, observer=watched, stop=watched.stop, **options)
    assert outcome.stopped
    return outcome


@pytest.fixture
def own(source, tmp_path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "own"))


@pytest.fixture(scope="module")
def stopped_once(source, tmp_path_factory):
    """A run stopped after its first epoch, its source and its cache: to be copied."""
    place = tmp_path_factory.mktemp("stopped")
    shutil.copytree(source, place / "own")
    with one_thread():
        stop_after_one_epoch(place / "own", place / "m", cache=place / "cache")
    return place


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """The same, moved to a folder of the test: the paths in run.json follow, but for the source."""
    place = Path(shutil.copytree(stopped_once, tmp_path / "place"))
    record = place / "m.partial" / "run.json"
    record.write_text(record.read_text().replace(str(stopped_once), str(place)))
    return place


# -- the source goes away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_a_source_that_goes_away_while_it_trains_costs_nothing(model, own, tmp_path, cache):
    watched = Watched(before=lambda: shutil.rmtree(own))
    folder = train(
        own, tmp_path / "m", RECIPE, cache="off" if cache == "off" else tmp_path / "c", observer=watched
    ).folder
    assert weights(folder) == weights(model)
    verify_sums(folder)
    assert read_config(folder).figures["valid"] == read_config(model).figures["valid"]
    for name in ("split.csv", "predictions.csv", "per_class.csv"):
        assert (folder / "run" / name).read_bytes() == (model / "run" / name).read_bytes(), name


@pytest.mark.slow
def test_mistakes_whose_images_are_gone_are_shown_as_the_network_sees_them(own, tmp_path):
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in own.rglob("*.png"):
            packed.write(path, path.relative_to(own).as_posix())
    watched = Watched(before=archive.unlink)
    folder = train(archive, tmp_path / "m", RECIPE.replace(epochs=1, lr=1e-6), pictures=True, observer=watched).folder
    assert (folder / "run" / "plots" / "mistakes.png").is_file()
    assert any(line.startswith("mistakes.png: ") and "as the network sees them" in line for line in watched.lines)
    assert "red bar/0" in (folder / "run" / "split.csv").read_text()


def test_a_run_whose_source_is_gone_ends_from_the_cache(stopped, model, tmp_path):
    shutil.rmtree(stopped / "own")
    exported = export_run(stopped / "m.partial", tmp_path / "early", cache=stopped / "cache").folder
    verify_sums(exported)
    watched = Watched()
    folder = resume(stopped / "m", cache=stopped / "cache", observer=watched).folder
    assert weights(folder) == weights(model)
    [line] = [line for line in watched.lines if line.startswith("warning: ")]
    assert "no such file or folder" in line
    assert "resuming with the 120 images as this run decoded them" in line
    assert (folder / "run" / "split.csv").read_bytes() == (model / "run" / "split.csv").read_bytes()
    assert read_config(folder).fingerprint == read_config(model).fingerprint


@pytest.mark.slow
def test_a_run_that_lost_one_image_ends_from_the_cache(stopped, model):
    (stopped / "own" / "red bar" / "00000_00000.png").unlink()
    watched = Watched()
    assert weights(resume(stopped / "m", cache="off", observer=watched).folder) == weights(model)
    assert any("1 of the run's 120 images are gone ('red bar/00000_00000.png')" in line for line in watched.lines)


@pytest.mark.slow
def test_without_a_cache_the_run_is_kept_until_the_images_are_back(stopped, tmp_path, model):
    clear(stopped / "cache")
    away = shutil.move(stopped / "own", tmp_path / "away")
    with pytest.raises(SourceError, match=r"no such file or folder.*the run is kept.*--source") as caught:
        resume(stopped / "m", cache=stopped / "cache")
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="--source"):
        export_run(stopped / "m.partial", tmp_path / "early", cache="off")
    assert not (tmp_path / "early").exists()
    shutil.move(away, stopped / "own")
    assert weights(resume(stopped / "m", cache="off").folder) == weights(model)


@pytest.mark.parametrize("change", ["other", "more", "exchanged"])
def test_images_that_are_others_are_refused_by_name_whatever_is_held(stopped, change):
    first = stopped / "own" / "red bar" / "00000_00000.png"
    other = stopped / "own" / "red bar" / "00000_00001.png"
    if change == "other":
        shutil.copy(other, first)
        named = "red bar/00000_00000.png"
    elif change == "more":
        shutil.copy(first, first.with_name("zz.png"))
        named = "red bar/zz.png"
    else:
        first.rename(first.with_name("zz.png"))
        named = "red bar/zz.png"
    with pytest.raises(SourceError, match=f"images have changed since the run began.*'{named}'"):
        resume(stopped / "m", cache=stopped / "cache")


# -- the source moves -------------------------------------------------------------------------------------------------


def test_a_source_that_moved_is_gone_on_with_at_its_new_place(stopped, model, tmp_path, cli, monkeypatch):
    clear(stopped / "cache")
    shutil.move(stopped / "own", tmp_path / "there")
    ran = cli("train", "--resume", stopped / "m", "--cache", "off")
    assert ran.code == 2
    assert "--source" in ran.complaint
    monkeypatch.chdir(tmp_path)
    ran = cli(
        "train", "--resume", stopped / "m", "--source", "there", "--cache", "off", "--max-accepted-error", "0.005"
    )
    assert ran.code == 0, ran.err
    assert weights(stopped / "m") == weights(model)
    assert "evaluate it: signsclf evaluate" in ran.err
    assert "there" in ran.err.splitlines()[-2]


def test_another_source_is_not_taken_for_the_moved_one(stopped, source, tmp_path):
    other = shutil.copytree(source, tmp_path / "other")
    shutil.copy(other / "red bar" / "00000_00001.png", other / "red bar" / "00000_00000.png")
    before = (stopped / "m.partial" / "run.json").read_bytes()
    with pytest.raises(SourceError, match=r"other: its images have changed"):
        resume(stopped / "m", source=other, cache="off")
    assert (stopped / "m.partial" / "run.json").read_bytes() == before


@pytest.mark.slow
def test_run_json_names_absolute_places(model, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "start")
    recipe = RECIPE.replace(arch=None, weights="start")
    stop_after_one_epoch(source, "m", recipe)
    record = json.loads((tmp_path / "m.partial" / "run.json").read_text())
    assert record["recipe"]["weights"] == str(tmp_path / "start")
    assert record["source"] == source.as_posix()
    (tmp_path / "m.partial" / "checkpoint.pt").unlink()
    monkeypatch.chdir(tmp_path.parent)
    assert read_config(resume(tmp_path / "m").folder).recipe["weights"] == "start"


# -- what --resume takes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--epochs", "3"], "--epochs belongs"),
        (["--size", "16", "--lr", "0.02"], "--size, --lr belong"),
        (["--valid-fraction", "0.2"], "--valid-fraction belongs"),
        (["--recipe", "fast"], "--recipe belongs"),
        (["--skip-bad"], "--skip-bad belongs"),
        (["--layout", "folders"], "--layout belongs"),
        (["--out", "models/default"], "--out belongs"),
        (["--yes"], "--yes belongs"),
        (["--data-dir", "x"], "--data-dir belongs"),
        (["elsewhere"], "SOURCE belongs to the run and cannot be changed; leave it out; --source SOURCE tells"),
    ],
)
def test_resume_refuses_by_name_what_it_cannot_apply(stopped_once, cli, given, named):
    ran = cli("train", "--resume", stopped_once / "m", *given)
    assert ran.code == 2
    assert f"--resume: {named}" in ran.complaint
    assert (stopped_once / "m.partial" / "run.json").exists()


def test_a_variable_of_the_environment_is_no_option_given(stopped_once, cli, monkeypatch):
    monkeypatch.setenv("SIGNSCLF_DATA_DIR", "elsewhere")
    monkeypatch.setenv("SIGNSCLF_MAX_PIXELS", "1000000")
    assert "--yes belongs" in cli("train", "--resume", stopped_once / "m", "--yes").complaint


def test_source_as_an_option_goes_with_resume(source, cli):
    assert "--source: only with --resume" in cli("train", "--source", source).complaint


@pytest.mark.slow
def test_resume_applies_what_decides_no_weights(stopped, model, cli):
    ran = cli(
        "train", "--resume", stopped / "m", "--max-accepted-error", "0.2", "--force-int8", "--bare", "--cache", "off"
    )
    assert ran.code == 0, ran.err
    assert "max-accepted-error: 0.2, in place of 0.005" in ran.err
    assert "int8: force, in place of none" in ran.err
    assert "bare: True, in place of False" in ran.err
    assert weights(stopped / "m") == weights(model)
    figures = read_config(stopped / "m").figures
    assert figures["calibration"]["max_accepted_error"] == 0.2
    assert figures["int8"]["result"] == "written"
    check_bare(stopped / "m", stopped / "own")


# -- bare -------------------------------------------------------------------------------------------------------------


def check_bare(folder: Path, source: Path) -> None:
    verify_sums(folder)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "learner.pkl" not in there
    assert not {f"run/{name}" for name in ("split.csv", "predictions.csv", "skipped.csv")} & there
    assert not {"run/plots/batch.png", "run/plots/mistakes.png"} & there
    assert {"run/metrics.json", "run/history.csv", "run/replay/000.png"} <= there
    names = {path.name.encode() for path in source.rglob("*.png")}
    for name in there:
        data = (folder / name).read_bytes()
        assert not any(image in data for image in names), name
        assert str(source).encode() not in data
    assert "fastai" not in read_config(folder).readers
    assert "learner.pkl" not in (folder / "README.md").read_text()


# -- an unexpected error ----------------------------------------------------------------------------------------------


def test_an_unexpected_error_leaves_its_traceback_and_the_run(model, source, tmp_path, monkeypatch, cli):
    def fail(*args, **kwargs):
        raise KeyError("nobody thought\nof this")

    monkeypatch.setattr("signsclf.runs.finish.write_report", fail)
    ran = cli("train", source, "--out", tmp_path / "m", *flags())
    log = tmp_path / "m.partial" / "run" / "error.log"
    assert ran.code == 1
    [line] = [line for line in ran.err.splitlines() if line.startswith("signsclf: ")]
    assert "unexpected KeyError: 'nobody thought\\nof this'" in line
    assert str(log) in line
    assert f"--resume {tmp_path / 'm'}" in line
    assert "Traceback" in log.read_text()
    assert "in fail" in log.read_text()
    monkeypatch.undo()
    folder = resume(tmp_path / "m").folder
    assert weights(folder) == weights(model)
    assert not (folder / "run" / "error.log").exists()
    verify_sums(folder)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no memory"),
        OSError(5, "Input/output error"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_has_its_own_words_keeps_them(source, tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("signsclf.runs.train.build_loaders", fail)
    with pytest.raises(type(error)):
        train(source, tmp_path / "m", RECIPE)
    assert "in fail" in (tmp_path / "m.partial" / "run" / "error.log").read_text()


def test_an_error_of_ours_leaves_no_log(source, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise SourceError("so it is")

    monkeypatch.setattr("signsclf.runs.train.build_loaders", fail)
    with pytest.raises(SourceError):
        train(source, tmp_path / "m", RECIPE)
    assert not (tmp_path / "m.partial" / "run" / "error.log").exists()
    monkeypatch.undo()

    def odd(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("signsclf.runs.train.build_loaders", odd)
    with pytest.raises(RunError, match="unexpected ZeroDivisionError"):
        resume(tmp_path / "m")


@pytest.mark.slow
def test_a_bare_run_killed_at_its_very_end_goes_on_from_its_source(stopped, model):
    (stopped / "m.partial" / "run" / "split.csv").unlink()
    assert weights(resume(stopped / "m", source=stopped / "own", bare=True).folder) == weights(model)


def test_a_damaged_table_of_the_run_is_refused_in_a_line(stopped):
    table = stopped / "m.partial" / "run" / "split.csv"
    for harm in (b"\xff\xfe", csv_bytes([("a", "b")]), b""):
        table.write_bytes(harm)
        with pytest.raises(ModelError, match=r"split\.csv: .*start the training anew"):
            resume(stopped / "m")
